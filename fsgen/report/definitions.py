"""How numbers are defined: a list at the end of the page, and each beside the first place where its word is used."""

from __future__ import annotations

import re
from collections.abc import Iterator

from markupsafe import Markup, escape

from fsgen.report.table import COLUMNS

DEFINITIONS = (
    (
        "System 1, System 2",
        "The distribution p of the draft, and the distribution q that the target makes alone or fused with other "
        "members.",
    ),
    (
        "trusted, accepted, recovered, bonus",
        "A drafted token kept without verification; one kept after it; System 2's own token at the first rejection; "
        "System 2's extra token when all drafted ones were accepted.",
    ),
    (
        "match, mismatch",
        "A position where the greedy choices of p and q are known and the same, or not the same.",
    ),
    (
        "intervals",
        "95 %, by bootstrap over examples (percentiles): the tokens of one text are not independent, and neither are "
        "the turns of a dialogue. Those of times: over repetitions of whole runs (Student's t of the logarithms).",
    ),
    (
        "held-out error",
        "Of a scaling law: each model in turn is left out, the law fitted to the pairs without it, and its pairs are "
        "predicted; the root mean squared error over all of them.",
    ),
    (
        "identified",
        "A parameter of a law is not identified where its value lies at the bound of the search, or where its "
        "interval is not finite: then other values fit as well.",
    ),
    (
        "place in the text",
        "The position of a token over the number of tokens of its text; in tenths, the last of which ends with the "
        "text.",
    ),
    (
        "odds of a mismatch",
        "From a logistic model of mismatch on position, and on position with the draft's largest probability and "
        "entropy; standard errors are clustered by example.",
    ),
    (
        "max-prob, margin, entropy",
        "Of p at temperature 1: its largest probability; the lead of this over the second one; minus the sum of p ln "
        "p, in nats. The draft's uncertainty is one minus its largest probability.",
    ),
    (
        "top-k mass, top-k entropy",
        "The probability of the draft's k most likely tokens, which the trace keeps; and the entropy of these k, "
        "renormalised.",
    ),
    (
        "AUROC, average precision",
        "Mismatches are the positive class, and uncertain positions come first. AUROC: of a mismatch and a match, how "
        "often the draft is less certain at the mismatch. Average precision: the mean precision over the mismatches.",
    ),
    (
        "calibration error",
        "The mean distance, over tokens in 20 bins of equal width, between the draft's largest probability and how "
        "often System 2 agreed.",
    ),
    (
        "consulted, missed",
        "Of a router: positions at which it consults System 2, and positions at which it does not although the two "
        "differ; both over all positions.",
    ),
    (
        "too few, too many, too late",
        "Signs of failure: a router misses more than a tenth of the mismatches, or the score falls; more than half of "
        "its consultations change nothing, or, where all are verified, more than half of the drafted tokens are "
        "rejected; in more than a quarter of the texts the first mismatch comes before the first consultation. Found "
        "is a sign where the whole interval lies beyond its limit. Wall clock is said beside it, and decides nothing.",
    ),
    (
        "replay",
        "Greedy output of the target does not depend on the draft: it is written once, and each draft reads it in "
        "one pass. The tokens and counts are those of the decode loop; the seconds are those of the passes.",
    ),
)
GLOSSARY = (*((column.title, column.meaning) for column in COLUMNS), *DEFINITIONS)
"""Every word and its meaning."""
_FREQUENCY = next(column for column in COLUMNS if column.title == "frequency")
_WORDS = {"collaboration frequency": ("Collaboration frequency", _FREQUENCY.meaning)} | {
    word.lower(): (entry, meaning) for entry, meaning in DEFINITIONS for word in entry.split(", ")
}
_ANY = re.compile(rf"\b({'|'.join(sorted(map(re.escape, _WORDS), key=len, reverse=True))})\b", re.IGNORECASE)


class Glossary:
    """The definitions of a page while it is written: each word is marked once."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def defined(self, text: str) -> Markup:
        """A text in which words that come for the first time open their definition."""
        text = re.sub(r"(?<=\d) %", "\u00a0%", text)  # a number and its unit stay on one line
        parts, end = [], 0
        for match in _ANY.finditer(text):
            entry, _ = _WORDS[match[0].lower()]
            if entry in self._ids:
                continue
            self._ids[entry] = f"term-{len(self._ids)}"
            button = Markup('<button type="button" class="term" popovertarget="{}">{}</button>')
            parts += [escape(text[end : match.start()]), button.format(self._ids[entry], match[0])]
            end = match.end()
        return Markup("").join([*parts, escape(text[end:])])

    def marked(self) -> Iterator[tuple[str, str, str]]:
        """Id, word and meaning of those that were marked."""
        meanings = dict(_WORDS.values())
        for entry, name in self._ids.items():
            yield name, entry, meanings[entry]
