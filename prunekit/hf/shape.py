"""The sizes of a decoder that its costs depend on, read from its modules: configs name too few of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class Layer:
    """The sizes of one decoder layer.

    Attributes:
        weights: Numbers of its matrices that a token is multiplied by; of experts, those of the active ones,
            though some implementations compute them all.
        query_width: Of all query heads together, d_q; 0 where there is no attention.
        value_width: Of the values of all query heads together: d_q, but for latent attention.
        cache_width: Of the keys and values it keeps of a token; 0 where it keeps none.
        mlp_width: Of the MLP, m, as the config says; of experts, the active ones together, without shared
            ones.
        weight_bytes: Bytes of `weights` in memory.
        window: How many tokens a query sees at most, itself included; None for all before it. Attention in
            chunks counts as a window of their size, which is a little more than it costs.
    """

    weights: int
    query_width: int
    value_width: int
    cache_width: int
    mlp_width: int
    weight_bytes: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder.

    Attributes:
        width: Of the hidden state, d.
        layers: Of each layer.
        bytes: Of one number in the cache.
    """

    width: int
    layers: tuple[Layer, ...]
    bytes: int

    @classmethod
    def read(cls, module: Any) -> Shape:
        """The shape of a decoder with `layers` and a `config`; it may be on the meta device.

        Layers without attention (recurrent, convolution) count with their matrices only: updates of their
        state are left out, and the state itself, which does not grow with the prompt.
        """
        layers = tuple(_layer(layer, number, module.config) for number, layer in enumerate(module.layers))
        return cls(module.config.hidden_size, layers, module.dtype.itemsize)


def _layer(layer: nn.Module, number: int, config: Any) -> Layer:
    attention = _attention(layer, config)
    config = getattr(attention, "config", config)  # layers of different sizes have configs of their own
    active = _active_experts(layer, config)
    weights, weight_bytes = _matrices(layer, active)
    mlp = getattr(config, "intermediate_size", None) or config.ffn_dim
    mlp = mlp[number] if isinstance(mlp, list) else mlp
    if active:
        mlp = active * (getattr(config, "moe_intermediate_size", None) or mlp)
    if attention is None:
        return Layer(weights, 0, 0, 0, mlp, weight_bytes)
    heads = config.num_attention_heads
    query = getattr(attention, "qk_head_dim", None)
    query = query or getattr(attention, "head_dim", None) or config.hidden_size // heads
    value = getattr(attention, "v_head_dim", None) or query
    own = not getattr(attention, "is_kv_shared_layer", False)
    cache = own * (query + value) * (heads // getattr(attention, "num_key_value_groups", 1))
    window = _window(config, number)
    return Layer(weights, heads * query, heads * value, cache, mlp, weight_bytes, window)


def _attention(layer: Any, config: Any) -> Any:
    """The module that attends; None in recurrent and convolution layers."""
    found = next((part for part in layer.modules() if hasattr(part, "num_key_value_groups")), None)
    if found is None and getattr(config, "layer_types", None) is None:
        return getattr(layer, "self_attn", getattr(layer, "attention", None))
    return found


def _active_experts(layer: nn.Module, config: Any) -> int:
    """How many experts a token goes through; 0 where there are none."""
    if not any(name.split(".")[-1] == "experts" for name, _ in layer.named_modules()):
        return 0
    routers = [getattr(part, "top_k", None) for part in layer.modules()]
    told = [getattr(config, name, None) for name in ("num_experts_per_tok", "moe_topk")]
    return next(count for count in (*routers, *told) if isinstance(count, int))


def _matrices(layer: nn.Module, active: int) -> tuple[int, int]:
    """Numbers and bytes of the matrices that a token is multiplied by."""
    numbers, size = 0.0, 0.0
    for name, part in layer.named_modules():
        share = active / _experts(layer, name) if "experts" in name.split(".") else 1.0
        linear = _linear(part)
        own = [*part.parameters(recurse=False), *(part.buffers(recurse=False) if linear else ())]
        own = [matrix for matrix in own if matrix.ndim >= 2]
        numbers += share * (linear or sum(matrix.numel() for matrix in own))
        size += share * sum(matrix.nbytes for matrix in own)
    return round(numbers), round(size)


def _experts(layer: nn.Module, name: str) -> int:
    """How many experts there are in the list or the stack of them at or above this name."""
    names = name.split(".")
    experts = layer.get_submodule(".".join(names[: names.index("experts") + 1]))
    return len(experts) if isinstance(experts, nn.ModuleList) else next(experts.parameters()).shape[0]


def _linear(part: Any) -> int:
    """Numbers of a linear map before any packing; 0 for what is none or only wraps one."""
    if not hasattr(part, "in_features") or any(hasattr(inner, "in_features") for inner in part.children()):
        return 0
    return part.in_features * part.out_features


def _window(config: Any, number: int) -> int | None:
    """As transformers' caches decide it."""
    window, chunk = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return window or chunk
    return {"sliding_attention": window, "chunked_attention": chunk}.get(kinds[number])
