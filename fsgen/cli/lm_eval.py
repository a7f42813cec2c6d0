"""`fsgen lm-eval`."""

from __future__ import annotations

from typing import Annotated

import typer

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def lm_eval(
    context: typer.Context,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="LM_EVAL_OPTIONS", help="As `lm_eval` takes them.")
    ] = None,
) -> None:
    """Run lm-evaluation-harness on a pair of models.

    It is the command `lm_eval` with `--model fsgen`. Model arguments are draft, target, base, method, router,
    draft_tokens, dtype, device, weights, revision, max_gen_toks and seed. All other options are those of
    `lm_eval run --help`.

    \b
    Examples:
      fsgen lm-eval --model_args draft=pocket-0.6m,target=pocket-4m --tasks arc_easy --limit 100
      fsgen lm-eval --model_args '{"target": "pocket-4m", "method": "plain"}' --tasks mine --include_path tasks/
    """
    try:
        from fsgen.integrations.lm_eval import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "lm_eval":
            raise
        raise ValueError("this needs lm-evaluation-harness: pip install 'fsgen[lm-eval]'") from None
    try:
        main([*(options or []), *context.args])
    except ValueError as error:
        raise ValueError(str(error)) from error  # a missing draft is `draft=` here, not an option
