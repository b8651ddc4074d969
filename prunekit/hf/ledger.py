"""What the pruned layers hold of one cache: the one piece of state that outlives a forward pass."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache

from prunekit.errors import PrunekitError
from prunekit.hf.masks import Keys, all_columns

NAME = "_prunekit_ledger"


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What the layers from one cut to the next hold.

    Attributes:
        keys: For each of their slots the column of its token in the sequence the model believes in.
        shift: How many positions the next token of each row moves back when positions are repacked.
        dropped: How many columns fewer they hold than the model believes.
    """

    keys: Keys
    shift: Int[Tensor, "batch 1"]
    dropped: int

    @classmethod
    def everything(cls, batch: int, length: int, device: torch.device) -> Held:
        """What layers hold of which nothing was dropped."""
        shift = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return cls(all_columns(batch, 0, length, device), shift, 0)

    def rows(self, rows: Int[Tensor, " rows"]) -> Held:
        """The same of these rows."""
        rows = rows.to(self.shift.device)
        keys = Keys(self.keys.index[rows], self.keys.valid[rows], self.keys.full)
        return Held(keys, self.shift[rows], self.dropped)

    def without_last(self, count: int) -> Held:
        """The same without the newest tokens."""
        left = self.keys.index.shape[1] - count
        keys = Keys(self.keys.index[:, :left], self.keys.valid[:, :left], self.keys.full)
        return Held(keys, self.shift, self.dropped)


class Ledger:
    """What the pruned layers hold, from each cut to the next.

    The model goes on to believe in the whole sequence: whatever asks the cache for its length (generate,
    position ids) or for the sizes of masks is told as if nothing had been dropped. The ledger lives on the
    cache and goes wherever it goes: through several calls of `generate`, into a copy, out with the garbage.
    What rearranges the cache is overridden on that instance, to rearrange the ledger with it; so is what
    tells lengths and sizes.

    Attributes:
        held: For each cut what the layers from it on hold, ascending.
    """

    def __init__(self, cache: Cache, held: dict[int, Held]) -> None:
        self.held = held
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

    def check(self, cuts: Sequence[int], past: int) -> None:
        """Refuses to go on with a cache that this ledger does not describe.

        Args:
            cuts: The pruning layers of the block that wants to.
            past: The length that the cache tells.

        Raises:
            PrunekitError: Other pruning layers, or tokens that came in unseen.
        """
        if tuple(self.held) != tuple(cuts):
            here, there = (", ".join(map(str, layers)) for layers in (self.held, cuts))
            raise PrunekitError(
                f"This cache was pruned at layer {here} and cannot go on at layer {there}: its layers would "
                "hold different tokens. Attach with the same layers, or start with a new cache."
            )
        if any(held.keys.index.shape[1] + held.dropped != past for held in self.held.values()):
            raise PrunekitError(
                "This pruned cache was changed outside of a `with attach(…)` block, or by a forward pass "
                "that failed half way. Start with a new cache."
            )

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
        count = len(next(iter(self.held.values())).shift)
        self._rows(torch.arange(count).repeat_interleave(repeats))
        self._call("batch_repeat_interleave", repeats)

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the newest tokens, as far as none was dropped among them.

        Args:
            tokens_to_remove: Minus how many; a positive number is the length to crop to.

        Raises:
            PrunekitError: Tokens were dropped from the stretch to take back.
        """
        length = self.get_seq_length()
        count = -tokens_to_remove if tokens_to_remove <= 0 else max(length - tokens_to_remove, 0)
        if count:
            tail = torch.arange(length - count, length)
            for held in self.held.values():
                newest = held.keys.last(count).index.cpu()
                if newest.shape[1] < count or not bool((newest == tail).all()):
                    raise PrunekitError(
                        f"Cannot crop the last {count} tokens of this cache: visual tokens among them were "
                        "dropped in some layers. Crop no further back than the newest pruned prompt."
                    )
        self._call("crop", -count)
        self.held = {cut: held.without_last(count) for cut, held in self.held.items()}

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

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The length of a layer as if nothing had been dropped; where the next query stands follows it."""
        return self._call("get_seq_length", layer_idx) + self._missing(layer_idx)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ledger:
        """A ledger for the copy of the cache, which is in the making."""
        twin = copy.copy(self)
        twin._cache = weakref.ref(memo[id(self._owner())])
        return twin

    def _missing(self, layer: int) -> int:
        return next((held.dropped for cut, held in reversed(self.held.items()) if cut <= layer), 0)

    def _rows(self, rows: Int[Tensor, " rows"]) -> None:
        self.held = {cut: held.rows(rows) for cut, held in self.held.items()}

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
            "get_seq_length",
        )
        return [name for name in names if hasattr(type(cache), name)]
