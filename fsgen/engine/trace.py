"""What a trace keeps of p and of q at a position, made for many positions at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from fsgen.bounds import known_columns, variation_bounds
from fsgen.probs import Lines, log_probs, summarize, variation

Trace = dict[str, Any]
Kept = tuple[int, int | None]  # most likely tokens of a position, and log-probabilities where they are wanted

CHUNK = 2**18  # logits that are summarised at a time: 1 MiB, which the intermediate tensors share a core's cache with
HOLD = 2**23  # logits that may wait to be summarised


class TraceBuffer:
    """Logits of written tokens, kept until there are enough of them to be summarised at once.

    A summary of a few positions takes as long as one of a hundred. So the loop hands over p and q of each token with
    the record they belong to, and they are filled in later: after so many logits, or when somebody wants to read them.
    `names`, of the models by role, are for messages; `partial`: the sides of which only some tokens are known.
    """

    def __init__(self, names: Mapping[str, str] | None = None, partial: Collection[str] = ()) -> None:
        self._names, self._partial = names or {}, partial
        self._clear()

    def _clear(self) -> None:
        self.held = 0  # logits that wait, of drafted tokens that were not written too
        # By side, draft or target, and what is kept of each position: the records, and the logits of each.
        self._sides = defaultdict[tuple[str, Kept], tuple[list[Trace], Lines]](lambda: ([], Lines()))
        self._compared, self._p, self._q, self._temperatures = list[Trace](), Lines(), Lines(), list[float]()

    def add(self, trace: Trace, side: str, logits: Tensor, place: int, kept: Kept) -> None:
        """A record's logits of p (`draft`) or q (`target`): logits[place], [vocab]."""
        traces, lines = self._sides[side, kept]
        traces.append(trace)
        lines.add(logits, place)

    def compare(self, trace: Trace, p: Tensor, p_place: int, q: Tensor, q_place: int, temperature: float = 1.0) -> None:
        """p's and q's logits of a record, and the temperature at which their total variation is taken."""
        self._compared.append(trace)
        self._p.add(p, p_place)
        self._q.add(q, q_place)
        self._temperatures.append(temperature)

    def settle(self) -> None:
        """Complete all records. Raises ValueError for logits that are not finite: the model, and the position."""
        faults: list[tuple[str, Trace]] = []
        for (side, (candidates, logprobs)), (traces, lines) in self._sides.items():
            for part in lines.parts(CHUNK):
                columns = _columns(lines[part], side, candidates)
                if side in self._partial:
                    columns |= known_columns(lines[part].together(), side, columns)
                if logprobs is not None:
                    ids = [one.get("id", 0) for one in traces[part]]  # one that could not be written has none
                    columns[f"{side}_logprobs"] = log_probs(lines[part], ids, logprobs)
                for trace, values in zip(traces[part], zip(*columns.values(), strict=True), strict=True):
                    trace.update(zip(columns, values, strict=True))
                faults += [(side, trace) for trace in traces[part] if not math.isfinite(trace[f"{side}_prob"] or 0.0)]
        for part in self._p.parts(CHUNK):
            if self._partial:
                pairs = self._p[part].together(), self._q[part].together()
                for trace, found in zip(self._compared[part], variation_bounds(*pairs, self._partial), strict=True):
                    trace["total_variation_bounds"] = found
                continue
            distances = variation(self._p[part], self._q[part], self._temperatures[part]).tolist()
            for trace, distance in zip(self._compared[part], distances, strict=True):
                trace["total_variation"] = distance
        self._clear()
        for side, trace in faults:
            place = f"at token {trace['position']} of a text" if "position" in trace else "in a text"
            raise ValueError(f"the logits of the {side} {self._names.get(side, 'model')} are not finite {place}")


def _columns(lines: Lines, side: str, candidates: int) -> dict[str, list[Any]]:
    """What a trace keeps of p or q, by name, and of each the values at all positions."""
    token, prob, margin, entropy, ids, probs = (x.tolist() for x in summarize(lines, candidates))
    top = [tuple(zip(*pair, strict=True)) for pair in zip(ids, probs, strict=True)]
    columns = {"token": token, "prob": prob, "entropy": entropy, "top": top}
    if side == "draft":
        columns["margin"] = margin
    return {f"{side}_{name}": values for name, values in columns.items()}
