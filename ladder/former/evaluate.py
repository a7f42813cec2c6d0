"""Whether a completion ends in the right number."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ladder.corpus import Document

_HASHES = re.compile(r"#### (-?[\d,]+)")
_SAID = re.compile(r"The answer is (-?[\d,]+)")


def answer_of(text: str) -> str | None:
    """The final number of a worked answer, in either ending; None where there is none."""
    found = _HASHES.search(text) or _SAID.search(text)
    return found.group(1).replace(",", "") if found else None


def completions_right(completions: Sequence[str], documents: Sequence[Document]) -> int:
    """How many completions end in the number of their document; one without an ending is wrong."""
    return sum(
        answer_of(completion) == answer_of(document.completion)
        for completion, document in zip(completions, documents, strict=True)
    )
