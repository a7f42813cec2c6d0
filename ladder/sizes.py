"""The four sizes of the ladder: Llama shapes from about 0.25 M to about 4 M parameters."""

from __future__ import annotations

from dataclasses import dataclass

FAMILY = "pocket"
CONTEXT = 1024
VOCAB_SIZE = 2048
SECOND_VOCAB_SIZE = 1024  # of the second tokenizer, which two drafts have
END_OF_TEXT_ID = 0


@dataclass(frozen=True)
class Size:
    """Shape of one model; its name rounds the true parameter count."""

    name: str
    hidden: int
    layers: int
    heads: int
    ffn: int
    vocab_size: int = VOCAB_SIZE
    context: int = CONTEXT
    family: str = FAMILY

    @property
    def non_embedding_parameters(self) -> int:
        """Parameters without the (tied) embedding."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.ffn + 2 * self.hidden
        return self.layers * layer + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; the tied embedding counts once."""
        return self.non_embedding_parameters + self.vocab_size * self.hidden


# Few layers for the drafts: at these sizes a forward call costs by the layer, not by the weight.
SIZES: tuple[Size, ...] = (
    Size("pocket-0.25m", hidden=64, layers=2, heads=2, ffn=224),
    Size("pocket-0.6m", hidden=96, layers=3, heads=3, ffn=320),
    Size("pocket-1.5m", hidden=160, layers=4, heads=5, ffn=416),
    Size("pocket-4m", hidden=256, layers=5, heads=4, ffn=576),
)
