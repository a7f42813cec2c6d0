"""`fsgen export-transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli.options import Base, Draft, Weights, new_folder, silence_libraries


def export_transformers(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", callback=new_folder, help="What is written.")],
    draft: Draft = None,
    method: Annotated[str, typer.Option(help="As in `fsgen generate`.")] = "speculative",
    router: Annotated[str | None, typer.Option(help="Instead of the method's own: max-prob:0.5, learned:FILE.")] = None,
    draft_tokens: Annotated[
        str | None, typer.Option(help="How many tokens are drafted at a time; auto chooses.")
    ] = None,
    base: Base = None,
    weights: Weights = "auto",
) -> None:
    """Write a folder with which transformers' own generate decodes with two models.

    transformers runs the code in it, and so wants trust_remote_code=True.

    \b
    Example:
      fsgen export-transformers with-draft --draft Qwen/Qwen2.5-0.5B
      model.generate(**inputs, custom_generate="with-draft", trust_remote_code=True)
    """
    silence_libraries(draft, base)
    from fsgen.integrations.transformers import export

    settings = {"draft": draft, "base": base, "method": method, "router": router, "weights": weights}
    file = export(folder, {**settings, "draft_tokens": draft_tokens})
    print(f"wrote {file}")
    print(f'model.generate(**inputs, custom_generate="{folder}", trust_remote_code=True)')
