"""One forward pass of the model: what it reads, and what the pruned layers are given instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from prunekit.errors import TokenError
from prunekit.hf.decoder import Decoder
from prunekit.hf.ledger import Ledger
from prunekit.hf.masks import Keys, all_columns, pruned_mask
from prunekit.hf.pictures import Pictures
from prunekit.hf.places import Places, is_visual
from prunekit.hf.rotary import Rotary
from prunekit.hf.slots import Slots, gather
from prunekit.tokens import Selection, Signal

Arguments = dict[str, Any]
"""The keyword arguments of a forward."""

Keep = Bool[Tensor, "batch length"]
"""False marks the new columns that are dropped."""


@dataclass(slots=True, eq=False)
class ForwardPass:
    """One call of the model's forward, from its first hook to its last.

    Attributes:
        pictures: What is told of the pictures in its prompts.
        past: How many columns the cache held before.
        real: The new columns; False marks the prompt's padding.
        visual: Where among them visual tokens stand.
        places: The same in the shape of a `TokenBatch`; None where there are none to choose from.
        signals: What was captured on the way to the pruning layer.
        plan: What the pruned layers are given instead; None leaves them as they are.
        started: When it began, in seconds.
        selection: What was chosen from the places.
        select_ms: How many milliseconds that took.
    """

    pictures: Pictures
    past: int
    real: Bool[Tensor, "batch length"]
    visual: Bool[Tensor, "batch length"]
    places: Places | None
    signals: dict[Signal, Tensor] = field(default_factory=dict[Signal, Tensor])
    plan: Plan | None = None
    started: float = 0.0
    selection: Selection | None = None
    select_ms: float = 0.0

    @classmethod
    def beginning(
        cls, inputs: Mapping[str, Any], visual_ids: Sequence[int], asked: Mapping[str, Any] | None
    ) -> ForwardPass:
        """The pass that these arguments begin. Syncs once where there is more than one new token.

        Args:
            inputs: The arguments of the forward, by name.
            visual_ids: The token ids that stand for visual features.
            asked: The arguments of the `generate` it belongs to; None outside of one.

        Raises:
            TokenError: The padding mask does not cover the cache and the new tokens.
        """
        ids, cache = inputs.get("input_ids"), inputs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        tokens: Tensor = inputs["inputs_embeds"][..., 0] if ids is None else ids
        real = _real(inputs.get("attention_mask"), tokens, past)
        visual = torch.zeros_like(real)
        if ids is not None and tokens.shape[1] > 1:
            visual = is_visual(ids, visual_ids) & real
        seen = tokens.shape[1] > 1 and bool(visual.any())
        pictures = Pictures.of(inputs, asked, len(real))
        return cls(pictures, past, real, visual, Places.of(visual) if seen else None)

    @property
    def batch(self) -> int:
        """How many rows there are."""
        return self.real.shape[0]

    @property
    def length(self) -> int:
        """How many new columns there are."""
        return self.real.shape[1]


@dataclass(slots=True, eq=False)
class Plan:
    """What the pruned layers get in place of what the model passes them.

    Masks and positions are made once a pass for all layers that are given the same ones.

    Attributes:
        decoder: Where the pruning layer is, and how attention is computed.
        slots: Which new tokens go on; None for all of them.
        keys: All keys the pruned layers hold in the end.
        past: How many columns of the unpruned sequence came before this pass.
        length: How many it adds.
        moved: How many positions each query moves back when positions are repacked.
        shift: How many the next token of each row does.
        rotary: Makes the embedding of moved positions; None where positions are kept.
        cache: The cache, for what its sliding layers still hold.
    """

    decoder: Decoder
    slots: Slots | None
    keys: Keys
    past: int
    length: int
    moved: Int[Tensor, "batch queries"]
    shift: Int[Tensor, "batch 1"]
    rotary: Rotary | None
    cache: Cache | None
    _made: dict[Any, tuple[Any, Any]] = field(default_factory=dict[Any, tuple[Any, Any]])

    @classmethod
    def following(
        cls,
        forward: ForwardPass,
        decoder: Decoder,
        cache: Cache | None,
        rotary: Rotary | None,
        *,
        slots: Slots | None = None,
        keep: Keep | None = None,
    ) -> Plan:
        """The plan for a pass after all the cache's earlier ones.

        Args:
            forward: The pass.
            decoder: Where the pruning layer is.
            cache: The cache, with its ledger.
            rotary: Given where positions are to be closed up.
            slots: Which tokens go on; None for all.
            keep: The same as a mask over the columns.
        """
        ledger = Ledger.of(cache)
        start, stop, device = forward.past, forward.past + forward.length, forward.real.device
        held = ledger.keys if ledger else all_columns(forward.batch, 0, start, device)
        shift = ledger.shift if ledger else torch.zeros(forward.batch, 1, dtype=torch.long, device=device)
        if slots is None or keep is None:
            new, moved = all_columns(forward.batch, start, stop, device), shift.expand(-1, forward.length)
        else:
            new = Keys(slots.source + start, slots.valid, slots.full)
            before = (~keep).cumsum(1)
            moved, shift = shift + before.gather(1, slots.source), shift + before[:, -1:]
        return cls(decoder, slots, held.then(new), start, forward.length, moved, shift, rotary, cache)

    def enter(self) -> None:
        """Enters this pass in the ledger of the cache, once it has gone well."""
        if self.cache is None:
            return
        ledger = Ledger.of(self.cache)
        missing = self.past + self.length - self.keys.index.shape[1]
        if ledger is None:
            Ledger(self.cache, self.decoder.layer, self.keys, self.shift, missing)
        else:
            ledger.write(self.keys, self.shift, missing)

    def states(
        self, layer: int, states: Float[Tensor, "batch length dim"]
    ) -> Float[Tensor, "batch queries dim"]:
        """The hidden states that enter a pruned layer."""
        if layer == self.decoder.layer and self.slots is not None:
            return gather(states, self.slots.source, -2)
        return states

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
            ("mask", held), mask, lambda: pruned_mask(mask, rows, self.keys.last(held), total, flash=flash)
        )

    def _held(self, layer: int) -> int:
        """How many keys the queries meet in this layer: not all of them where its cache slides."""
        every = self.keys.index.shape[1]
        if self.cache is None or layer >= len(self.cache.layers):
            return every
        slide: Any = self.cache.layers[layer]
        if not slide.is_sliding or not slide.is_initialized:
            return every
        held = slide.keys.shape[-2]
        if getattr(slide, "record_past", False):  # it holds more, but hands out no more than the window
            held = min(held, slide.sliding_window - 1)
        return held + self.moved.shape[1]

    def _slotted(self, name: str, given: Any) -> Any:
        """What goes with the tokens, for the tokens that go on."""
        slots = self.slots
        if slots is None:
            return given
        if name == "cache_position":
            return given[-slots.source.shape[1] :]
        if name == "position_ids":
            return self._once(name, given, lambda: gather(given, slots.source, -1, -2))
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


def _real(mask: Tensor | None, tokens: Tensor, past: int) -> Bool[Tensor, "batch length"]:
    """Which of the new tokens are no padding."""
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    expected = (tokens.shape[0], past + tokens.shape[1])
    if tuple(mask.shape) != expected:
        raise TokenError(
            f"attention_mask is (batch, past and new tokens) = {expected}; got {tuple(mask.shape)}."
        )
    return mask[:, past:].bool()
