"""What a prompt costs, by formula: operations and cache, with the convention named.

Percentages of different papers follow different conventions; a figure without one means nothing.
Counted is the language model only, without embeddings, vision tower and output head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prunekit.hf.shape import Layer, Shape

Convention = Literal["exact", "unmasked", "fastv", "fastv-visual"]
"""How floating-point operations are counted.

- `exact`: two for each multiply-add that the answer depends on: 2n·w + 2p(d_q + d_v) a layer for n tokens,
  text and visual, w being the numbers of the matrices a token goes through and p the pairs of query and key
  that causal attention lets see each other, n(n+1)/2 without a window. Images whose tokens see each other
  both ways count as causal, and a window counts the tokens that are left in it as if none were missing.
- `unmasked`: the same with p = n²: what eager attention computes and `torch.utils.flop_counter` counts.
  (That one does not count the sdpa kernel of CPUs at all.)
- `fastv`: the formula of the FastV paper (arXiv:2403.06764), 4nd² + 2n²d + 2ndm a layer, n being
  all the prompt's tokens.
- `fastv-visual`: the same with n being the visual tokens only, as most papers print it. Text lowers the
  saving, so this one is the largest.
"""


@dataclass(frozen=True, slots=True)
class Prompt:
    """How many tokens a prompt has before the first cut and from each cut on.

    Attributes:
        text: Tokens that are not visual; padding does not count.
        visual: Visual tokens before pruning.
        kept: Visual tokens after each cut.
    """

    text: int
    visual: int
    kept: tuple[int, ...]


def flops(shape: Shape, text: int, visual: Sequence[int], convention: Convention) -> float:
    """Operations for reading a prompt with so many visual tokens in each layer.

    Args:
        shape: The decoder.
        text: Its other tokens.
        visual: One count for each layer, as `prunekit.schedule.Schedule.tokens` gives them.
        convention: How to count.
    """
    counts = zip(shape.layers, visual, strict=True)
    if convention == "fastv-visual":
        return sum(_fastv(shape.width, layer, own) for layer, own in counts)
    if convention == "fastv":
        return sum(_fastv(shape.width, layer, text + own) for layer, own in counts)
    return sum(_dense(layer, text + own, causal=convention == "exact") for layer, own in counts)


def cache_bytes(shape: Shape, text: int, visual: Sequence[int]) -> int:
    """Bytes of keys and values of such a prompt, as the caches of transformers hold them.

    Layers with a window of w hold the last w - 1 tokens.
    """
    held = (
        layer.cache_width * (min(text + own, layer.window - 1) if layer.window else text + own)
        for layer, own in zip(shape.layers, visual, strict=True)
    )
    return sum(held) * shape.bytes


def _dense(layer: Layer, n: int, *, causal: bool) -> float:
    outside = n - min(n, layer.window or n)
    pairs = (n * (n + 1) - outside * (outside + 1)) / 2 if causal else n * n
    return 2.0 * n * layer.weights + 2.0 * pairs * (layer.query_width + layer.value_width)


def _fastv(d: int, layer: Layer, n: int) -> float:
    return 4.0 * n * d * d + 2.0 * n * n * d + 2.0 * n * d * layer.mlp_width
