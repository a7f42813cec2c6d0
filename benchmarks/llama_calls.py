"""llama.cpp's own calls in its usual settings, as a session: what a loop around it costs at the least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fsgen.backends.forward import Work, passes
from fsgen.backends.llama_cpp.forward import CELLS, Context
from fsgen.backends.llama_cpp.library import LoadedFile
from fsgen.backends.session import common_prefix


class LlamaModel:
    """A GGUF file.

    Args:
        file: with its weights; keys and values are in float16, attention is fused where that is faster.
    """

    def __init__(self, file: Path) -> None:
        self._file = LoadedFile(file, file.name, weights=True)

    def session(self, rows: int) -> LlamaSession:
        return LlamaSession(self._file, rows)


class LlamaSession:
    """Runs what is new in each row, and looks where the logits are, which it does not copy."""

    def __init__(self, file: LoadedFile, rows: int) -> None:
        self._file, self._rows, self._longest = file, rows, 0
        self._known: list[list[int]] = [[] for _ in range(rows)]
        self._context: Context | None = None

    def begin(self, row: int, prompt: int, longest: int) -> None:
        self._longest = max(self._longest, longest)

    def score(self, texts: Sequence[list[int] | None], last: int | Sequence[int]) -> None:
        if self._context is None:
            cells = self._rows * -(-self._longest // CELLS) * CELLS
            self._context = Context(self._file, "float16", self._rows, cells)
        work = []
        for row, text in enumerate(texts):
            if text is not None:
                wanted = last if isinstance(last, int) else last[row]
                start = min(common_prefix(self._known[row], text), len(text) - wanted)
                work.append(Work(row, text, self._context.rewind(row, start), wanted, start))
                self._known[row] = list(text)
        for chunks in passes(work, self._context.most):
            for at, _, _ in self._context.decode(chunks):
                self._context.logits(at)
