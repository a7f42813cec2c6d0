"""`fsgen import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli.options import silence_libraries


def import_(
    kind: Annotated[str, typer.Argument(help="vllm-outputs or openai-logs.")],
    file: Annotated[Path, typer.Argument(help="The outputs, as JSON Lines.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    tokenizer: Annotated[str, typer.Option(help="A model, folder or hub name that has the tokenizer of the outputs.")],
    name: Annotated[str | None, typer.Option(help="The model in tables.  [default: the name of the folder]")] = None,
    parameters: Annotated[int, typer.Option(min=0, help="Of the model, for scaling laws.")] = 0,
    requests: Annotated[
        Path | None, typer.Option(help="The input of OpenAI's batches, where FILE is their output.")
    ] = None,
) -> None:
    """Make a member of outputs written elsewhere.

    A study or a pair then names it as its target: recorded:FOLDER. It has written these texts, greedily, and no others.

    \b
    Example:
      fsgen import vllm-outputs outputs.jsonl --tokenizer Qwen/Qwen2.5-0.5B --out outputs/72b
    """
    silence_libraries(tokenizer)
    from fsgen.imports import import_outputs

    found = import_outputs(kind, file, out, name or out.name, tokenizer, parameters, requests)
    print(f"{found.texts:,} texts of {found.tokens:,} tokens: recorded:{out}")
    if found.retokenized:
        print(f"{found.retokenized:,} of them had no token ids: these were made again from their text")
    if found.without_probabilities:
        print(f"{found.without_probabilities:,} of them had no log-probabilities: frequencies alone are known")
