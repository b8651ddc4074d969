"""What the layers from a cut on are given in place of what the model passes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from prunekit.hf.decoder import Decoder
from prunekit.hf.forward import Arguments, ForwardPass, Keep
from prunekit.hf.glance import handed_out
from prunekit.hf.ledger import Held, Ledger
from prunekit.hf.masks import Keys, all_columns, pruned_mask
from prunekit.hf.rotary import Rotary
from prunekit.hf.slots import Slots, gather


@dataclass(slots=True, eq=False)
class Plan:
    """What layers get in place of what the model passes them, from one cut to the next.

    Masks and positions are made once a pass for all layers that are given the same ones.

    Attributes:
        decoder: How attention is computed.
        slots: Which new tokens go on; None for all of them.
        entering: Their places among those that enter the cut; None for all of them.
        held: What the layers hold in the end.
        past: How many columns of the unpruned sequence came before this pass.
        length: How many it adds.
        moved: How many positions each query moves back when positions are repacked.
        rotary: Makes the embedding of moved positions; None where positions are kept.
        cache: The cache, for what its sliding layers still hold.
    """

    decoder: Decoder
    slots: Slots | None
    entering: Int[Tensor, "batch queries"] | None
    held: Held
    past: int
    length: int
    moved: Int[Tensor, "batch queries"]
    rotary: Rotary | None
    cache: Cache | None
    _made: dict[Any, tuple[Any, Any]] = field(default_factory=dict[Any, tuple[Any, Any]])

    @classmethod
    def following(
        cls,
        forward: ForwardPass,
        cut: int,
        slots: Slots | None,
        keep: Keep | None,
        *,
        decoder: Decoder,
        cache: Cache | None,
        rotary: Rotary | None,
    ) -> Plan:
        """The plan for a pass after all the cache's earlier ones.

        Args:
            forward: The pass.
            cut: The first layer it is for.
            slots: Which tokens go on; None for all.
            keep: The same as a mask over the columns.
            decoder: How attention is computed.
            cache: The cache, with its ledger.
            rotary: Given where positions are to be closed up.
        """
        start, stop, device = forward.past, forward.past + forward.length, forward.real.device
        ledger = Ledger.of(cache)
        before = ledger.held[cut] if ledger else Held.everything(forward.batch, start, device)
        if slots is None or keep is None:
            new, moved = (
                all_columns(forward.batch, start, stop, device),
                before.shift.expand(-1, forward.length),
            )
            shift, entering = before.shift, None
        else:
            new = Keys(slots.source + start, slots.valid, slots.full)
            gone = (~keep).cumsum(1)
            moved, shift = before.shift + gone.gather(1, slots.source), before.shift + gone[:, -1:]
            earlier = forward.stream.slots
            entering = slots.source if earlier is None else earlier.slots_of(slots.source, forward.length)
        keys = before.keys.then(new)
        held = Held(keys, shift, stop - keys.index.shape[1])
        return cls(decoder, slots, entering, held, start, forward.length, moved, rotary, cache)

    def states(self, states: Float[Tensor, "batch entering dim"]) -> Float[Tensor, "batch queries dim"]:
        """The hidden states that enter the cut, of the tokens that go on."""
        return states if self.entering is None else gather(states, self.entering, -2)

    def arguments(self, layer: int, given: Arguments) -> Arguments:
        """The keyword arguments of a pruned layer."""
        changed = {"attention_mask": self._mask(layer, given.get("attention_mask"))}
        for name in ("position_ids", "position_embeddings", "cache_position"):
            if given.get(name) is not None:
                changed[name] = self._slotted(name, given[name])
        if self.rotary is not None:
            changed |= self._closed_up(layer, self.rotary, given)
        return {**given, **changed}

    def _mask(self, layer: int, mask: Tensor | None) -> Tensor | None:
        held = self._held(layer)
        rows = None if self.slots is None else self.slots.source
        total, flash = self.past + self.length, "flash" in self.decoder.implementation
        return self._once(
            ("mask", held),
            mask,
            lambda: pruned_mask(mask, rows, self.held.keys.last(held), total, flash=flash),
        )

    def _held(self, layer: int) -> int:
        """How many keys the queries meet in this layer: not all of them where its cache slides."""
        every = self.held.keys.index.shape[1]
        if self.cache is None or layer >= len(self.cache.layers):
            return every
        slide: Any = self.cache.layers[layer]
        if not slide.is_sliding or not slide.is_initialized:
            return every
        return handed_out(slide) + self.moved.shape[1]

    def _slotted(self, name: str, given: Any) -> Any:
        """What goes with the tokens, for the tokens that go on."""
        slots = self.slots
        if slots is None:
            return given
        if name == "cache_position":
            return given[-slots.source.shape[1] :]
        if name == "position_ids":
            return self._once(name, given, lambda: gather(given, slots.source, -1, -2))
        if isinstance(given, Tensor):  # complex numbers, sine and cosine in one
            return self._once(name, given, lambda: gather(given, slots.source, -2, -3))
        return self._once(name, given, lambda: tuple(gather(part, slots.source, -2, -3) for part in given))

    def _closed_up(self, layer: int, rotary: Rotary, given: Arguments) -> Arguments:
        ids = given.get("position_ids")
        like = given["position_embeddings"][0]

        def make() -> Arguments:
            old = self._old_positions(ids).to(like.device)
            new = (old - self.moved.to(like.device)).clamp(min=0)
            return {"position_ids": new, "position_embeddings": rotary.at(layer, like, new)}

        return self._once(("closed up", rotary.kind(layer)), ids, make)

    def _old_positions(self, ids: Tensor | None) -> Int[Tensor, "batch queries"]:
        if ids is None:
            start, stop = self.past, self.past + self.length
            ids = torch.arange(start, stop, device=self.moved.device)[None]
        return ids if self.slots is None else gather(ids, self.slots.source, -1, -2)

    def _once(self, name: Any, given: object, make: Callable[[], Any]) -> Any:
        key = (name, id(given))
        if key not in self._made:
            # `given` is held on to, for its id must not go to another.
            self._made[key] = (given, make())
        return self._made[key][1]
