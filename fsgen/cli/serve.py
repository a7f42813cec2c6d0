"""`fsgen serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli.generate import DraftTokens, Method, Router
from fsgen.cli.options import METHOD, Base, Device, Draft, Dtype, Named, PlanFile, Target, Weights, silence_libraries

ADDRESS, BOUNDS = "The address", "Bounds"

FixedMethod = Annotated[
    bool, typer.Option("--fixed-method", help="Requests may not choose another method.", rich_help_panel=METHOD)
]
Host = Annotated[
    str, typer.Option(help="Other machines reach it only where this says so: 0.0.0.0.", rich_help_panel=ADDRESS)
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.", rich_help_panel=ADDRESS)]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="API keys, one a line; without it those in FSGEN_API_KEYS, separated by commas.",
        rich_help_panel=ADDRESS,
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL", help="A site whose pages may use the server; may be repeated.", rich_help_panel=ADDRESS
    ),
]
Rows = Annotated[int, typer.Option(min=1, help="Texts that are written at a time.", rich_help_panel=BOUNDS)]
Queue = Annotated[int, typer.Option(min=0, help="Texts that may wait; more are refused (429).", rich_help_panel=BOUNDS)]
MaxModelLen = Annotated[
    int, typer.Option(min=2, help="Tokens of a prompt and its completion together.", rich_help_panel=BOUNDS)
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens of a completion.", rich_help_panel=BOUNDS)]
Timeout = Annotated[float, typer.Option(min=1, max=10**6, help="Seconds for a request.", rich_help_panel=BOUNDS)]
Drain = Annotated[
    float, typer.Option(min=0, max=10**6, help="Seconds to finish what runs after SIGTERM.", rich_help_panel=BOUNDS)
]
EventInterval = Annotated[
    float,
    typer.Option(
        min=0,
        max=10**6,
        help="Seconds between two events of a stream; a text's first and last tokens do not wait.",
        rich_help_panel=BOUNDS,
    ),
]
Name = Annotated[str | None, typer.Option(help="What clients call the model.  [default: its members]")]
ChatTemplate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A Jinja file that makes a prompt of messages.  [default: the models' own]",
    ),
]
TracesEndpoint = Annotated[
    str | None,
    typer.Option(
        "--otlp-traces-endpoint",
        metavar="URL",
        help="Where spans of OpenTelemetry go, by HTTP: http://localhost:4318/v1/traces.",
    ),
]
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="The log has the prompts, too.")]


def serve(
    draft: Draft = None,
    target: Target = None,
    base: Base = None,
    method: Method = "speculative",
    router: Router = None,
    draft_tokens: DraftTokens = None,
    plan: PlanFile = None,
    fixed_method: FixedMethod = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: ApiKeyFile = None,
    allow_origin: AllowOrigin = None,
    rows: Rows = 32,
    queue: Queue = 256,
    max_model_len: MaxModelLen = 8192,
    max_tokens: MaxTokens = 4096,
    timeout: Timeout = 600.0,
    drain: Drain = 60.0,
    event_interval: EventInterval = 0.02,
    name: Name = None,
    chat_template: ChatTemplate = None,
    log_prompts: LogPrompts = False,
    otlp_traces_endpoint: TracesEndpoint = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    weights: Weights = "auto",
) -> None:
    """Serve models to clients of the OpenAI API.

    Each request may choose its method (the key "fsgen"), and learns who wrote each token. The page / tries it out.

    \b
    Examples:
      fsgen serve                                  # bundled models on http://127.0.0.1:8000
      fsgen serve --draft Qwen/Qwen2.5-0.5B-Instruct --target Qwen/Qwen2.5-7B-Instruct --port 9000
    """
    named = Named(draft, target, base, method, router, draft_tokens, dtype, weights).by_plan(plan, None)
    silence_libraries(named.draft, named.target, named.base)
    try:
        from fsgen.serve import limits, run
    except ImportError as error:
        raise ValueError(f"fsgen serve needs {error.name}: pip install 'fsgen[serve]'") from None
    from fsgen.backends.remote.address import is_remote
    from fsgen.methods.check import check

    run.check_origins(allow_origin or ())
    bounds = limits.Limits(
        rows, queue, max_model_len, max_tokens, seconds=timeout, drain=drain, interval=event_interval
    )
    keys = run.read_keys(api_key_file)
    if away := next((each for each in (named.draft, named.target, named.base) if each and is_remote(each)), None):
        raise ValueError(f"{away!r} is behind a server already, which would hold up all texts whenever it is away")
    spans = run.spans_to(otlp_traces_endpoint)
    template = None if chat_template is None else run.read_template(chat_template)
    planned, chosen = named.resolve(device)
    check(planned, chosen, [], [])
    with run.listening(host, port) as address:
        members = planned.load()
        template = template or run.usual_template(members)
        run.warm_up(members, chosen)
        service, meters = run.make_service(members, chosen, bounds, name, not fixed_method, template)
        run.serve(service, meters, address, keys, allow_origin or (), log_prompts, spans)
