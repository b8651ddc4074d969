"""One forward pass of the model: what it reads, and what of it is left at each cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.errors import TokenError
from prunekit.hf.grids import Grid
from prunekit.hf.pictures import Pictures
from prunekit.hf.places import Places
from prunekit.hf.question import Template, question_columns
from prunekit.hf.slots import Slots
from prunekit.signals import Signal
from prunekit.tokens import Selection

if TYPE_CHECKING:
    from prunekit.hf.plan import Plan
    from prunekit.hf.vision import Seen

Arguments = dict[str, Any]
"""The keyword arguments of a forward."""

Keep = Bool[Tensor, "batch length"]
"""False marks the new columns that are dropped."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The new tokens as they enter a layer: all of them, or those that earlier cuts let go on.

    Attributes:
        real: False marks padding.
        visual: Where visual tokens stand.
        places: The same in the shape of a `TokenBatch` of all visual tokens of the prompts; None where there
            are none to choose from.
        slots: Which columns they are; None for all of them.
        keep: The same as a mask over the columns.
    """

    real: Bool[Tensor, "batch slots"]
    visual: Bool[Tensor, "batch slots"]
    places: Places | None
    slots: Slots | None = None
    keep: Keep | None = None

    @property
    def length(self) -> int:
        """How many there are in a row, padding included."""
        return self.real.shape[1]

    def left(self, keep: Keep) -> Keep:
        """Of columns to keep those that are still there: padding may be gone, too."""
        return keep if self.slots is None else keep & self.slots.marks(keep.shape[1])


@dataclass(slots=True, eq=False)
class ForwardPass:
    """One call of the model's forward, from its first hook to its last.

    Attributes:
        pictures: What is told of the pictures in its prompts.
        past: How many columns the cache held before.
        real: The new columns; False marks the prompt's padding.
        visual: Where among them visual tokens stand.
        places: The same in the shape of a `TokenBatch`; None where there are none to choose from.
        stream: What of them enters the next layer.
        template: What is known of the text around the question.
        ids: The new token ids; None where embeddings were given.
        signals: For each cut what was captured for it.
        entered: What was captured of the tokens as they entered the language model.
        grids: How the visual tokens lie, for each row that is told of, once that was asked for.
        seen: What the vision tower showed of them, once that was asked for.
        plans: For each cut what the layers from it on are given instead; none where that is what they are
            given anyway.
        selections: For each cut what was chosen there.
        started: When it began, in seconds.
        select_ms: How many milliseconds choosing took.
    """

    pictures: Pictures
    past: int
    real: Bool[Tensor, "batch length"]
    visual: Bool[Tensor, "batch length"]
    places: Places | None
    stream: Stream
    template: Template
    ids: Int[Tensor, "batch length"] | None
    signals: dict[int, dict[Signal, Tensor]] = field(default_factory=dict[int, dict[Signal, Tensor]])
    entered: dict[Signal, Tensor] = field(default_factory=dict[Signal, Tensor])
    grids: Sequence[Sequence[Grid]] | None = None
    seen: Seen | None = None
    plans: dict[int, Plan] = field(default_factory=dict[int, "Plan"])
    selections: dict[int, Selection] = field(default_factory=dict[int, Selection])
    started: float = 0.0
    select_ms: float = 0.0
    _question: tuple[Tensor, Tensor] | None = None

    @classmethod
    def beginning(
        cls,
        inputs: Mapping[str, Any],
        visual: Bool[Tensor, "batch length"] | None,
        asked: Mapping[str, Any] | None,
        template: Template,
        *,
        choosing: bool = True,
    ) -> ForwardPass:
        """The pass that these arguments begin. Syncs once where there may be visual tokens.

        Args:
            inputs: The arguments of the forward, by name.
            visual: Where visual tokens may stand; None where there are none.
            asked: The arguments of the `generate` it belongs to; None outside of one.
            template: What is known of the text around a question.
            choosing: Whether it is still to be decided what goes on.

        Raises:
            TokenError: The padding mask does not cover the cache and the new tokens.
        """
        ids, cache = inputs.get("input_ids"), inputs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        tokens: Tensor = inputs["inputs_embeds"][..., 0] if ids is None else ids
        real = _real(inputs.get("attention_mask"), tokens, past)
        seen = choosing and visual is not None and bool((visual & real).any())
        visual = torch.zeros_like(real) if visual is None else visual & real
        places = Places.of(visual) if seen else None
        pictures = Pictures.of(inputs, asked, len(real))
        return cls(pictures, past, real, visual, places, Stream(real, visual, places), template, ids)

    @property
    def batch(self) -> int:
        """How many rows there are."""
        return self.real.shape[0]

    @property
    def length(self) -> int:
        """How many new columns there are."""
        return self.real.shape[1]

    @property
    def plan(self) -> Plan | None:
        """What the layers from the newest cut on are given; None leaves them as they are."""
        return next(reversed(self.plans.values()), None)

    def question(self) -> tuple[Int[Tensor, "batch texts"], Bool[Tensor, "batch texts"]]:
        """Where each row's question stands among the tokens that enter the next layer, and which count."""
        if self._question is None:
            self._question = question_columns(self.template, self.ids, self.visual, self.real)
        (columns, counted), slots = self._question, self.stream.slots
        return columns if slots is None else slots.slots_of(columns, self.length), counted

    def narrow(self, slots: Slots, keep: Keep) -> None:
        """Lets these columns alone go on."""
        real, visual = slots.pick(self.real), slots.pick(self.visual)
        places = None if self.places is None else self.places.within(slots, self.length)
        self.stream = Stream(real, visual, places, slots, keep)


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
