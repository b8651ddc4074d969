"""What a prompt costs, by formula: operations and cache, with the convention named.

Percentages of different papers follow different conventions; a figure without one means nothing.
Counted is the language model only, without embeddings, vision tower and output head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Convention = Literal["exact", "fastv", "fastv-visual"]
"""How floating-point operations are counted.

- `exact`: two for each multiply-add of the prompt's tokens (text and visual), with grouped-query attention,
  three matrices in the MLP, and causal attention: 2n(2·d·d_q + 2·d·d_kv + 3·d·m) + 2n²·d_q a layer.
- `fastv`: the formula of the FastV paper (arXiv:2403.06764), 4nd² + 2n²d + 2ndm a layer, n being
  all the prompt's tokens.
- `fastv-visual`: the same with n being the visual tokens only, as most papers print it. Text lowers the
  saving, so this one is the largest.
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder that its costs depend on.

    Attributes:
        layers: How many it has.
        width: Of the hidden state, d.
        query_width: Of all query heads together, d_q.
        key_width: Of all key heads together, d_kv.
        mlp_width: Of the MLP, m; mixtures of experts are counted as dense ones of this width.
        bytes: Of one number in the cache.
    """

    layers: int
    width: int
    query_width: int
    key_width: int
    mlp_width: int
    bytes: int

    @classmethod
    def of(cls, config: Any, layers: int, item_bytes: int) -> Shape:
        """The shape a text config describes."""
        width, heads = config.hidden_size, config.num_attention_heads
        head = getattr(config, "head_dim", None) or width // heads
        keys = getattr(config, "num_key_value_heads", None) or heads
        return cls(layers, width, heads * head, keys * head, config.intermediate_size, item_bytes)


@dataclass(frozen=True, slots=True)
class Prompt:
    """How many tokens a prompt has in the layers before and from the pruning layer on.

    Attributes:
        text: Tokens that are not visual; padding does not count.
        visual: Visual tokens before pruning.
        kept: Visual tokens after pruning.
    """

    text: int
    visual: int
    kept: int


def flops(shape: Shape, layer: int, prompt: Prompt, convention: Convention) -> tuple[float, float]:
    """Operations for reading the prompt, without and with pruning at the entry of `layer`."""
    text = 0 if convention == "fastv-visual" else prompt.text
    formula = _exact if convention == "exact" else _fastv
    whole = formula(shape, text + prompt.visual)
    pruned = formula(shape, text + prompt.kept)
    return shape.layers * whole, layer * whole + (shape.layers - layer) * pruned


def cache_bytes(shape: Shape, layer: int, prompt: Prompt) -> tuple[int, int]:
    """Bytes of keys and values of the prompt, without and with pruning at the entry of `layer`.

    Sliding-window layers hold no more than their window; that is not taken off.
    """
    token = 2 * shape.key_width * shape.bytes
    whole, pruned = prompt.text + prompt.visual, prompt.text + prompt.kept
    return shape.layers * whole * token, (layer * whole + (shape.layers - layer) * pruned) * token


def _exact(shape: Shape, n: int) -> float:
    d, m = shape.width, shape.mlp_width
    linear = 2 * d * shape.query_width + 2 * d * shape.key_width + 3 * d * m
    return 2.0 * n * linear + 2.0 * n * n * shape.query_width


def _fastv(shape: Shape, n: int) -> float:
    d, m = shape.width, shape.mlp_width
    return 4.0 * n * d * d + 2.0 * n * n * d + 2.0 * n * d * m
