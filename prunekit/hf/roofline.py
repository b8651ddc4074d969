"""How long reading and answering would take at best: arithmetic on operations and bytes, nothing measured.

A step takes as long as the slower of computing and moving memory. Launches, choosing tokens, the vision
tower, embeddings and the output head are left out, so speed-ups by it are the most that pruning can give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunekit.hf.flops import cache_bytes, flops
from prunekit.hf.shape import Shape


@dataclass(frozen=True, slots=True)
class Roofline:
    """A machine, by the rates it reaches rather than those on its label.

    Attributes:
        flops: Operations a second, in the weights' format.
        bandwidth: Bytes of memory a second.
    """

    flops: float
    bandwidth: float

    def seconds(self, operations: float, moved: float) -> float:
        """For so many operations on so many bytes."""
        return max(operations / self.flops, moved / self.bandwidth)

    def prefill(self, shape: Shape, text: int, visual: Sequence[int], batch: int = 1) -> float:
        """Seconds for reading a batch of prompts with so many visual tokens in each layer."""
        return self.seconds(batch * flops(shape, text, visual, "exact"), _weights(shape))

    def decode(self, shape: Shape, text: int, visual: Sequence[int], batch: int = 1) -> float:
        """Seconds for one more token of each answer: every weight is read once, every cache as well.

        Of experts, those of one token are counted, which is too few for larger batches.
        """
        operations = flops(shape, text + 1, visual, "exact") - flops(shape, text, visual, "exact")
        return self.seconds(batch * operations, _weights(shape) + batch * cache_bytes(shape, text, visual))


def _weights(shape: Shape) -> int:
    return sum(layer.weight_bytes for layer in shape.layers)
