"""The language model inside a multimodal model, checked for everything that pruning relies on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from prunekit.errors import UnsupportedModel
from prunekit.hf.places import visual_token_ids

_GROWING = (DynamicLayer, DynamicSlidingWindowLayer)
_KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""The types of layers in which a token that is dropped is a key less, and nothing else."""

_ARGUMENTS = frozenset({
    "self", "hidden_states", "attention_mask", "position_ids", "position_embeddings", "past_key_values",
    "cache_position", "use_cache", "output_attentions", "output_router_logits", "kwargs",
})  # fmt: skip
"""What layers are given that is known to have one entry a token, or none."""

_NOT_IN_ONE_PIECE = {
    "assistant_model": "assisted decoding",
    "prompt_lookup_num_tokens": "prompt lookup decoding",
    "prefill_chunk_size": "prefill in chunks",
}


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Where pruning takes place.

    Attributes:
        model: The whole model, whose forward gets `input_ids`.
        module: The language model, which has the layers.
        layers: Its decoder layers.
        cuts: The pruning layers, ascending: tokens leave at the entry of each.
        visual_ids: The token ids that stand for visual features.
        implementation: The attention implementation: eager, sdpa or one of the flash kernels.
    """

    model: PreTrainedModel
    module: Any
    layers: nn.ModuleList
    cuts: tuple[int, ...]
    visual_ids: tuple[int, ...]
    implementation: str

    @property
    def pruned(self) -> Iterator[tuple[int, nn.Module]]:
        """The layers that run on fewer tokens, with their numbers."""
        return ((i, layer) for i, layer in enumerate(self.layers) if i >= self.cuts[0])

    def cut_of(self, layer: int) -> int | None:
        """The cut that says which tokens a layer runs on; None before the first."""
        return max((cut for cut in self.cuts if cut <= layer), default=None)


def find_decoder(model: nn.Module, cuts: Sequence[int]) -> Decoder:
    """The decoder of a model that can be pruned at the entry of these layers.

    Raises:
        UnsupportedModel: It cannot, and why.
    """
    _refuse_compiled(model)
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModel(
            f"{type(model).__name__} is no transformers model. Attach to the model inside of it."
        )
    ids = visual_token_ids(model.config)
    if not ids:
        raise UnsupportedModel(
            f"{type(model).__name__} has no visual tokens: its config names no image_token_id."
        )
    module: Any = model.get_decoder()
    module = (
        module if hasattr(module, "layers") else getattr(module, "model", module)
    )  # Llama 4: with its head
    layers = getattr(module, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UnsupportedModel(
            f"{type(model).__name__}.get_decoder() gives a {type(module).__name__} without `layers`."
        )
    decoder = Decoder(model, module, layers, tuple(cuts), ids, str(module.config._attn_implementation))
    _refuse_cuts(decoder)
    _refuse_parts(decoder)
    _refuse_attention(decoder)
    return decoder


def refuse_changes(decoder: Decoder) -> None:
    """Refuses a model that is no longer what was attached to.

    Raises:
        UnsupportedModel: Its attention implementation was changed, or it keeps no activations.
    """
    name = str(decoder.module.config._attn_implementation)
    if name != decoder.implementation:
        raise UnsupportedModel(
            f"The attention implementation went from {decoder.implementation} to {name}. Attach again."
        )
    if decoder.module.training and getattr(decoder.module, "gradient_checkpointing", False):
        raise UnsupportedModel(
            "Gradient checkpointing runs layers a second time, outside of the forward pass that knows which "
            "tokens they have. Switch it off: model.gradient_checkpointing_disable()."
        )


def scaled_from(decoder: Decoder) -> float:
    """From how many tokens on layers without positions scale attention by where its query stands."""
    attentions: Any = [layer.self_attn for _, layer in decoder.pruned]
    scaled = (part.floor_scale for part in attentions if getattr(part, "attn_temperature_tuning", None))
    return min(scaled, default=inf)


def refuse_length(length: int, scaled_from: float) -> None:
    """Refuses sequences so long that layers without positions go by places among the tokens that are left.

    Raises:
        UnsupportedModel: It is so long.
    """
    if length >= scaled_from:
        raise UnsupportedModel(
            f"From {scaled_from:g} tokens on this model scales attention by how many come before, and would "
            "count those alone that are left. Ask for less at once."
        )


def refuse_inputs(inputs: Mapping[str, Any]) -> None:
    """Refuses arguments of the model's forward that pruning cannot follow, before anything runs.

    Raises:
        UnsupportedModel: What is wrong and what to pass instead.
    """
    refuse_cache(inputs.get("past_key_values"))
    mask = inputs.get("attention_mask")
    if isinstance(mask, Mapping) or (isinstance(mask, Tensor) and mask.ndim != 2):
        raise UnsupportedModel(
            "attention_mask is not a padding mask (batch, length). Pass one, or none, and leave causal "
            "masks to the model."
        )


def refuse_cache(cache: object) -> None:
    """Refuses caches whose layers cannot have lengths of their own.

    Raises:
        UnsupportedModel: The cache is static, quantised, offloaded or shared between layers.
    """
    if cache is None:
        return
    if not isinstance(cache, Cache):
        raise UnsupportedModel(f"past_key_values is a {type(cache).__name__}; pass a DynamicCache.")
    kinds = {type(layer) for layer in cache.layers}
    grown = cache.layer_class_to_replicate
    kinds |= {grown} if grown is not None else set()
    odd = sorted(kind.__name__ for kind in kinds if kind not in _GROWING)
    if odd or cache.offloading:
        what = ", ".join(odd) or "offloading"
        raise UnsupportedModel(
            f"A {type(cache).__name__} with {what} cannot hold fewer tokens in some layers than in others. "
            "Use a DynamicCache: generate(…, cache_implementation=None)."
        )


def refuse_generation(model: PreTrainedModel, settings: Mapping[str, Any]) -> None:
    """Refuses what `generate` is asked to do where it would not prune what it seems to.

    Args:
        model: The model, for its generation config.
        settings: The keyword arguments of `generate`.

    Raises:
        UnsupportedModel: Assisted or prompt-lookup decoding, prefill in chunks.
    """
    config = settings.get("generation_config") or model.generation_config
    for name, what in _NOT_IN_ONE_PIECE.items():
        if settings.get(name, getattr(config, name, None)) is not None:
            raise UnsupportedModel(
                f"generate(…, {name}=…): with {what} the model does not read the prompt in one piece, so "
                "visual tokens would be chosen by another query than its last token."
            )


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        compiled = (
            hasattr(module, "_orig_mod")
            or getattr(module, "_compiled_call_impl", None) is not None
            or hasattr(module.forward, "_torchdynamo_orig_callable")
        )
        if compiled:
            where = f"its part {name!r}" if name else type(model).__name__
            raise UnsupportedModel(
                f"The model is compiled ({where}); a compiled graph does not run the hooks that prune. "
                "Attach to the model without torch.compile."
            )


def _refuse_cuts(decoder: Decoder) -> None:
    count = len(decoder.layers)
    for layer in decoder.cuts:
        if not 0 <= layer < count:
            raise UnsupportedModel(
                f"There is no layer {layer} to prune at: the language model has {count} layers. "
                f"Choose one from 0 to {count - 1}."
            )
    if not decoder.cuts or any(later <= earlier for earlier, later in pairwise(decoder.cuts)):
        told = ", ".join(map(str, decoder.cuts)) or "none"
        raise UnsupportedModel(f"Tokens are pruned at one or more layers, in ascending order; got {told}.")


def _refuse_parts(decoder: Decoder) -> None:
    config = decoder.module.config
    if decoder.model.config.is_encoder_decoder:
        raise UnsupportedModel(
            f"{type(decoder.model).__name__} has an encoder; prunekit prunes what a decoder alone reads."
        )
    odd = sorted(set(getattr(config, "layer_types", None) or ()) - _KINDS)
    if odd:
        raise UnsupportedModel(
            f"{type(decoder.module).__name__} has layers of {', '.join(odd)}; prunekit does not know what "
            "dropping tokens does to them."
        )
    for number, layer in enumerate(decoder.layers):
        attention = getattr(layer, "self_attn", None)
        if attention is None or not hasattr(attention, "config"):
            raise UnsupportedModel(
                f"Layer {number} of {type(decoder.module).__name__} has no ordinary self-attention "
                "(`self_attn` with a `config`); prunekit does not know what dropping tokens does to it."
            )
        if getattr(attention, "is_kv_shared_layer", False):
            raise UnsupportedModel(
                f"Layer {number} shares the keys of an earlier layer, which would hold more tokens."
            )
    if getattr(config, "hidden_size_per_layer_input", None):
        raise UnsupportedModel("Layers with token inputs of their own are not supported yet.")
    for number, layer in enumerate(decoder.layers):
        unknown = sorted(set(inspect.signature(type(layer).forward).parameters) - _ARGUMENTS)
        if unknown:
            raise UnsupportedModel(
                f"Layer {number} of {type(decoder.module).__name__} is also given {', '.join(unknown)}; "
                "prunekit does not know what that is of fewer tokens."
            )


def _refuse_attention(decoder: Decoder) -> None:
    name = decoder.implementation
    flash = "flash" in name
    if name not in ("eager", "sdpa") and (not flash or "flex" in name or name.startswith("paged")):
        raise UnsupportedModel(
            f"The attention implementation {name!r} is not supported. Use eager, sdpa or flash attention: "
            "model.set_attn_implementation('sdpa')."
        )
    windows = [getattr(layer.self_attn, "sliding_window", None) for _, layer in decoder.pruned]  # pyright: ignore
    if flash and any(windows):
        raise UnsupportedModel(
            "Flash attention counts a sliding window over the tokens that are left, so after dropping some "
            "it reaches further back than the model was trained for. Use "
            "model.set_attn_implementation('sdpa')."
        )
