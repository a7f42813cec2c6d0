"""How the numbers outside the table of runs are defined."""

from __future__ import annotations

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
        "its consultations change nothing, or, in runs that were repeated, no time is saved; in more than a quarter of "
        "the texts the first mismatch comes before the first consultation. A sign is found where the whole interval "
        "lies beyond its limit; that of a time is over the repetitions.",
    ),
    (
        "replay",
        "Greedy output of the target does not depend on the draft: it is written once, and each draft reads it in "
        "one pass. The tokens and counts are those of the decode loop; the seconds are those of the passes.",
    ),
)
