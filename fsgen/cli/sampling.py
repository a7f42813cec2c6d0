"""The options that say how a text is written, and the `SamplingParams` of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli.options import ENDING

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLING = "How tokens are chosen"

Temperature = Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=SAMPLING)]
TopK = Annotated[
    int, typer.Option(metavar="K", help="Sample from the K most likely tokens; 0 from all.", rich_help_panel=SAMPLING)
]
TopP = Annotated[
    float,
    typer.Option(
        metavar="P", help="Sample from the most likely tokens that together reach P.", rich_help_panel=SAMPLING
    ),
]
MinP = Annotated[
    float,
    typer.Option(
        metavar="P", help="Sample from tokens at least P times as likely as the best one.", rich_help_panel=SAMPLING
    ),
]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        metavar="R", help="Divide logits of tokens in prompt and text by R (if above 0).", rich_help_panel=SAMPLING
    ),
]
PresencePenalty = Annotated[
    float, typer.Option(metavar="X", help="Take X off the logits of tokens in the text.", rich_help_panel=SAMPLING)
]
FrequencyPenalty = Annotated[
    float, typer.Option(metavar="X", help="Take X off them for each time they are there.", rich_help_panel=SAMPLING)
]
LogitBias = Annotated[
    str | None,
    typer.Option(
        metavar="ID=X,...",
        help="Add X to the logit of the token with this id; -inf forbids it.",
        rich_help_panel=SAMPLING,
    ),
]
Seed = Annotated[int, typer.Option(help="The random seed.", rich_help_panel=SAMPLING)]
Number = Annotated[
    int, typer.Option("--n", metavar="N", help="Write N texts, where a temperature is set.", rich_help_panel=SAMPLING)
]
MinTokens = Annotated[int, typer.Option(help="Write so many tokens at least.", rich_help_panel=ENDING)]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="End before this text; may be given several times.", rich_help_panel=ENDING),
]
StopTokenIds = Annotated[
    str | None, typer.Option(metavar="ID,...", help="End at one of these tokens, too.", rich_help_panel=ENDING)
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Write on past the end-of-text token.", rich_help_panel=ENDING)
]


def token_ids(text: str | None, option: str) -> tuple[int, ...]:
    """Ids that stand between commas. Raises ValueError for anything else."""
    try:
        return tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        raise ValueError(f"{option} {text!r} is no list of token ids, such as 3,17") from None


def biases(text: str | None) -> dict[int, float]:
    """Biases by token id, as in `15=2.5,7=-inf`. Raises ValueError for anything else."""
    found: dict[int, float] = {}
    for part in text.split(",") if text is not None else ():
        token, _, value = part.partition("=")
        try:
            number, bias = int(token), float(value)
        except ValueError:
            number, bias = -1, math.nan
        if math.isnan(bias) or number in found:
            raise ValueError(f"--logit-bias {text!r} is no list of token ids and biases, such as 15=2.5,7=-inf")
        found[number] = bias
    return found


def only_one(values: Sequence[object], names: str) -> None:
    """Raises ValueError where not exactly one of several things is given."""
    if sum(value is not None for value in values) != 1:
        raise ValueError(f"give one of these: {names}")
