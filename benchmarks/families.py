"""Which causal architectures of `transformers` can be used: a tiny random model of each, beside passes without a cache.

Each model is loaded as a user's would be, with its proof. Then sessions of several rows of unlike lengths follow texts
that grow, are rewound and replaced, and all logits that they give are compared with those of each text alone. It is
`exact` where they are those up to rounding, `row by row` where it is only so with one row a call, and `refused` where
the model is not used at all, with the reason. `wrong` and `crash` are faults of this project. `compiled` is what runs
on the compiled pass of a CPU; `transformers`' own code runs all else, and each family elsewhere.

    python -m benchmarks.families --markdown docs/models.md
"""

from __future__ import annotations

import argparse
import copy
import logging
import random
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.tiny_families import FAMILIES, VOCAB, tiny_model
from fsgen.backends.transformers.continuation import Continuation
from fsgen.backends.transformers.model import TransformersModel
from fsgen.backends.transformers.settings import reason

ROUNDING = 1e-4  # of the largest logit, in float32
WIDE = 1e-6  # in float64, where float32 shows more
PADDING = 2  # of the tiny models; a text holds none
LONGEST = 120
VERDICTS = ("exact", "row by row", "refused", "wrong", "crash")
BEGIN, END = "<!-- table: python -m benchmarks.families -->", "<!-- end of table -->"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a family.

    Attributes:
        family: as `model_type` in config.json.
        architecture: the class that runs it.
        verdict: exact, row by row, refused, wrong or crash.
        note: why it is refused, or what went wrong; else how far logits are off, relative to the largest one.
        seconds: of loading, with the proof, and of the comparison.
        compiled: it runs on the compiled pass of a CPU, which the logits are of.
    """

    family: str
    architecture: str
    verdict: str
    note: str
    seconds: float
    compiled: bool = False


def tried(family: str) -> Result:
    """Makes a tiny model of a family, loads it, and compares its sessions with passes without a cache."""
    started = time.perf_counter()
    architecture = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]

    def result(verdict: str, note: str, compiled: bool = False) -> Result:
        return Result(family, architecture, verdict, note, time.perf_counter() - started, compiled)

    try:
        module = tiny_model(family)
    except Exception as error:  # as a user's model would be: see `settings.check_buildable`
        return result("refused", f"no model can be made of its configuration ({reason(error)})")
    try:
        model = TransformersModel(module, name=family)
        off = compared(module, model)
        if ROUNDING < off < 100 * ROUNDING:  # what remains in float64 is no rounding
            wide = copy.deepcopy(module).double()
            off = ROUNDING * compared(wide, TransformersModel(wide, name=family)) / WIDE
    except ValueError as error:
        words = str(error).split("cannot be used: ")[-1].split(". Collaborative")[0]
        return result("refused", words)
    except Exception as error:
        return result("crash", f"{type(error).__name__}: {reason(error)}")
    if not off <= ROUNDING:
        return result("wrong", f"off by {off:.1e}")
    verdict = "row by row" if model.continuation is Continuation.ROWS else "exact"
    return result(verdict, f"{off:.0e}", model.compiled)


def compared(module: Any, model: TransformersModel, turns: int = 12) -> float:
    """The largest distance of a session's logits to those of each text alone, relative to the largest logit."""
    off = 0.0
    for seed in range(2):
        dice = random.Random(seed)
        session = model.session(3)
        texts = [_tokens(dice, length) for length in (40, 3, 21)]
        for _ in range(turns):
            given = [None if dice.random() < 0.2 else text for text in texts]
            last = [dice.randint(1, min(6, len(text))) for text in texts]
            logits = session.score(given, last)
            for row, text in enumerate(texts):
                if given[row] is None:
                    continue
                with torch.inference_mode():
                    alone = module(torch.tensor([text]), use_cache=False).logits[0, -last[row] :].float()
                off = max(off, float((logits[row, -last[row] :] - alone).abs().max() / alone.abs().max()))
                texts[row] = _edited(text, dice)
    return off


def _tokens(dice: random.Random, length: int) -> list[int]:
    return [token for token in (dice.randrange(VOCAB) for _ in range(length + 9)) if token != PADDING][:length]


def _edited(text: list[int], dice: random.Random) -> list[int]:
    """A text as a decode loop might hand it over next."""
    kind = dice.randrange(5)
    if kind == 0:
        new = text + _tokens(dice, 1)
    elif kind == 1:
        new = text + _tokens(dice, dice.randint(1, 30))
    elif kind == 2:  # a rejected draft
        new = text[: -dice.randint(1, 5)] + _tokens(dice, 1)
    elif kind == 3:  # another continuation from anywhere
        new = text[: dice.randint(0, len(text))] + _tokens(dice, 8)
    else:
        new = text[: dice.randint(1, len(text))]
    return new[:LONGEST]


def table(results: Sequence[Result]) -> Iterator[str]:
    """The table in Markdown, with its sums."""
    counts = Counter(result.verdict for result in results)
    total = ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in ("exact", "row by row", "refused", "wrong", "crash")
    )
    compiled = sum(result.compiled for result in results)
    yield f"`transformers` {transformers.__version__}, {len(results)} architectures: {total}; {compiled} run compiled."
    yield ""
    yield "| family | architecture | | on a CPU | off | seconds |"
    yield "|---|---|---|---|---:|---:|"
    told = {"refused", "wrong", "crash"}
    for result in results:
        off = "" if result.verdict in told else result.note
        how = "compiled" if result.compiled else ""
        yield f"| {result.family} | `{result.architecture}` | {result.verdict} | {how} | {off} | {result.seconds:.1f} |"
    yield ""
    for result in results:
        if result.verdict in told:
            yield textwrap.fill(f"- {result.family}: {result.note}.", 118, subsequent_indent="  ")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("families", nargs="*", help="all of them if none is named")
    parser.add_argument("--markdown", type=Path, help="a page whose table is replaced")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    results = []
    for family in options.families or FAMILIES:
        results.append(tried(family))
        one = results[-1]
        how = "compiled" if one.compiled else ""
        print(f"{one.verdict:10} {how:8} {one.family:26} {one.seconds:5.1f} s  {one.note}", flush=True)
    lines = list(table(results))
    print(lines[0])
    if options.markdown is not None:
        page = options.markdown.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        options.markdown.write_text("\n".join([before + BEGIN, "", *lines, "", END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
