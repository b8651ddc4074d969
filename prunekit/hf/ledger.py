"""What the pruned layers hold of one cache: the one piece of state that outlives a forward pass."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache

from prunekit.errors import PrunekitError
from prunekit.hf.masks import Keys

NAME = "_prunekit_ledger"


class Ledger:
    """For each slot of the pruned layers, the column of its token in the sequence the model believes in.

    The layers before the pruning one hold the whole sequence, so everything that asks for the length of
    the cache's first layer (generate, position ids) is right as it is. The ledger lives on the cache and
    goes wherever it goes: through several calls of `generate`, into a copy, out with the garbage. What
    rearranges the cache is overridden on that instance, to rearrange the ledger with it; so is what
    tells the sizes of masks, which the model is to build for the unpruned sequence in every layer.

    Attributes:
        layer: The pruning layer, the first with fewer tokens.
        keys: What the pruned layers hold.
        shift: How many positions the next token of each row moves back when positions are repacked.
        dropped: How many columns fewer than the first layer the pruned layers hold.
    """

    def __init__(
        self, cache: Cache, layer: int, keys: Keys, shift: Int[Tensor, "batch 1"], dropped: int
    ) -> None:
        self.layer = layer
        self.keys = keys
        self.shift = shift
        self.dropped = dropped
        # A strong reference would close a circle and keep the memory of a dead cache until the next
        # garbage collection.
        self._cache = weakref.ref(cache)
        cache.__dict__[NAME] = self
        for name in self._overridden(cache):
            cache.__dict__[name] = getattr(self, name)

    @staticmethod
    def of(cache: Cache | None) -> Ledger | None:
        """The ledger of a cache; None where nothing was ever dropped from it."""
        return None if cache is None else cache.__dict__.get(NAME)

    def check(self, layer: int, past: int) -> None:
        """Refuses to go on with a cache that this ledger does not describe.

        Args:
            layer: The pruning layer of the block that wants to.
            past: The length of the cache's first layer.

        Raises:
            PrunekitError: Another pruning layer, or tokens that came in unseen.
        """
        if self.layer != layer:
            raise PrunekitError(
                f"This cache was pruned at layer {self.layer} and cannot go on at layer {layer}: its layers "
                "would hold different tokens. Attach with the same layer, or start with a new cache."
            )
        if self.keys.index.shape[1] + self.dropped != past:
            raise PrunekitError(
                "This pruned cache was changed outside of a `with attach(…)` block, or by a forward pass "
                "that failed half way. Start with a new cache."
            )

    def write(self, keys: Keys, shift: Int[Tensor, "batch 1"], dropped: int) -> None:
        """Enters what a forward pass adds: all keys the pruned layers hold after it."""
        self.keys, self.shift, self.dropped = keys, shift, dropped

    def reorder_cache(self, beam_idx: Int[Tensor, " batch"]) -> None:
        """Follows the beams, then lets the cache do so."""
        self._rows(beam_idx)
        self._call("reorder_cache", beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
        """Keeps these rows, here and in the cache."""
        self._rows(indices)
        self._call("batch_select_indices", indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row, here and in the cache."""
        rows = torch.arange(self.shift.shape[0], device=self.shift.device)
        self._rows(rows.repeat_interleave(repeats))
        self._call("batch_repeat_interleave", repeats)

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the newest tokens, as far as none was dropped among them.

        Args:
            tokens_to_remove: Minus how many; a positive number is the length to crop to.

        Raises:
            PrunekitError: Tokens were dropped from the stretch to take back.
        """
        length = self._call("get_seq_length")
        count = -tokens_to_remove if tokens_to_remove <= 0 else max(length - tokens_to_remove, 0)
        if count:
            tail = torch.arange(length - count, length, device=self.keys.index.device)
            newest = self.keys.last(count)
            if newest.index.shape[1] < count or not bool((newest.index == tail).all()):
                raise PrunekitError(
                    f"Cannot crop the last {count} tokens of this cache: visual tokens among them were "
                    "dropped in some layers. Crop no further back than the newest pruned prompt."
                )
            left = self.keys.index.shape[1] - count
            self.keys = Keys(self.keys.index[:, :left], self.keys.valid[:, :left], self.keys.full)
        self._call("crop", -count)

    def reset(self) -> None:
        """Forgets everything: an empty cache has nothing dropped.

        Older releases of transformers only write zeros and keep the length; there, nothing is forgotten.
        """
        self._call("reset")
        cache = self._owner()
        if self._call("get_seq_length") == 0:
            for name in (NAME, *self._overridden(cache)):
                cache.__dict__.pop(name, None)

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        """The size of the mask of a layer as if nothing had been dropped."""
        length, offset = self._call("get_mask_sizes", query_length, layer_idx)
        return length + self._missing(layer_idx), offset

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """The place of the next token as if nothing had been dropped."""
        return self._call("get_query_offset", layer_idx) + self._missing(layer_idx)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ledger:
        """A ledger for the copy of the cache, which is in the making."""
        twin = copy.copy(self)
        twin._cache = weakref.ref(memo[id(self._owner())])
        return twin

    def _missing(self, layer: int) -> int:
        return self.dropped if layer >= self.layer else 0

    def _rows(self, rows: Int[Tensor, " rows"]) -> None:
        rows = rows.to(self.keys.index.device)
        self.keys = Keys(self.keys.index[rows], self.keys.valid[rows], self.keys.full)
        self.shift = self.shift[rows]

    def _owner(self) -> Cache:
        cache = self._cache()
        if cache is None:
            raise PrunekitError("The cache of this ledger is gone.")
        return cache

    def _call(self, name: str, *arguments: Any) -> Any:
        """The cache's own method, past the override."""
        cache = self._owner()
        method = getattr(type(cache), name)
        return method(cache, *arguments)

    @staticmethod
    def _overridden(cache: Cache) -> list[str]:
        names = (
            "reorder_cache",
            "batch_select_indices",
            "batch_repeat_interleave",
            "crop",
            "reset",
            "get_mask_sizes",
            "get_query_offset",
        )
        return [name for name in names if hasattr(type(cache), name)]
