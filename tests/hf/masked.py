"""The slow reference: nothing is dropped; what would be is masked from the pruning layer on.

It shares no code with the mechanism: eager attention, and a hook on each pruned layer that hides the dropped
columns from every query. Used without a cache, every step of `generate` runs the whole sequence again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from families import IMAGE, VIDEO
from torch import Tensor


def dropped_columns(input_ids: Tensor, kept: Tensor) -> Tensor:
    """The columns of the visual tokens that a selection leaves out."""
    dropped = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, ids in enumerate(input_ids.tolist()):
        columns = [column for column, token in enumerate(ids) if token in (IMAGE, VIDEO)]
        for token, column in enumerate(columns):
            dropped[row, column] = not bool(kept[row, token])
    return dropped


def eager_twin(model: Any) -> Any:
    """The same weights with eager attention."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return twin


@contextmanager
def masked(model: Any, dropped: Tensor, layer: int, *, repack: bool = False) -> Iterator[Any]:
    """An eager twin of the model that does not see the dropped columns from `layer` on."""
    twin = eager_twin(model)
    decoder = twin.get_decoder()
    decoder = decoder if hasattr(decoder, "layers") else decoder.model

    def hide(number: int, module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        mask = named["attention_mask"]
        rows, columns = given[0].shape[0], mask.shape[-1]
        cache = named["past_key_values"]
        total = columns if cache is None else cache.get_seq_length(number) + given[0].shape[1]
        gone = torch.zeros(rows, total, dtype=torch.bool)
        gone[:, : dropped.shape[1]] = dropped.repeat_interleave(rows // dropped.shape[0], 0)[:, :total]
        hidden = gone[:, None, None, total - columns :]
        named["attention_mask"] = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        if repack:
            ids = named["position_ids"]
            ids = ids - gone.long().cumsum(1)[:, total - ids.shape[1] :]
            kinds = [decoder.config.layer_types[number]] if twin.config.model_type == "gemma3" else []
            named["position_embeddings"] = decoder.rotary_emb(given[0], ids, *kinds)
        return given, named

    for number, module in list(enumerate(decoder.layers))[layer:]:
        module.register_forward_pre_hook(functools.partial(hide, number), with_kwargs=True)
    yield twin
