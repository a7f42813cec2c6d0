"""`fsgen probe`."""

from __future__ import annotations

from typing import Annotated

import typer

from fsgen.cli.options import Draft, silence_libraries
from fsgen.cli.output import console, print_json


def probe(
    model: Annotated[str, typer.Argument(help="vllm:URL#MODEL, sglang:URL#MODEL or openai:URL#MODEL.")],
    draft: Draft = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a model behind a server can be used for.

    It is asked a few short questions. Its tokenizer is that of --draft, or is named behind a question mark.

    \b
    Example:
      fsgen probe vllm:http://127.0.0.1:8000#Qwen/Qwen2.5-72B --draft Qwen/Qwen2.5-0.5B
    """
    silence_libraries(draft)
    from fsgen.backends.opening import open_checkpoint
    from fsgen.backends.remote.address import is_remote, with_tokenizer
    from fsgen.backends.remote.describe import describe

    if not is_remote(model):
        raise ValueError(f"{model!r} is no model behind a server: write vllm:URL#MODEL, or sglang or openai")
    found = dict(describe(open_checkpoint(with_tokenizer(model, draft))))
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, said in found.items():
        console().print(f"{name:{width}}  {said}", soft_wrap=True, highlight=False, markup=False)
