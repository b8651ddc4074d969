"""What is decided in a forward pass: what there is to prune, what of it is kept, what the layers get."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Cache

from prunekit.errors import PrunekitError, TokenError, UnsupportedModel
from prunekit.hf.capture import Captured
from prunekit.hf.choose import Chooser
from prunekit.hf.clock import now
from prunekit.hf.cut import Cut, InLayer
from prunekit.hf.decoder import (
    Decoder,
    refuse_cache,
    refuse_changes,
    refuse_inputs,
    refuse_length,
    scaled_from,
)
from prunekit.hf.flops import Prompt
from prunekit.hf.forward import Arguments, ForwardPass, Keep
from prunekit.hf.glance import Glance
from prunekit.hf.ledger import Held, Ledger
from prunekit.hf.plan import Plan
from prunekit.hf.question import Template
from prunekit.hf.report import Prefill
from prunekit.hf.rotary import Rotary
from prunekit.hf.signals import prompt_queries, question_features, seen_in_layer
from prunekit.hf.slots import Slots, gather
from prunekit.hf.visual import visual_tokens
from prunekit.kernels.attention import Attending
from prunekit.signals import InputFeatures, TextFeatures
from prunekit.tokens import Selection

Merge = Callable[[Tensor], Tensor]
"""Puts into the states that enter a cut what kept tokens were merged into."""


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """What was decided at a cut, for passes without a cache, which read the prompt again.

    Attributes:
        keep: Which columns of the prompt go on.
        merge: What was merged into them.
    """

    keep: Keep
    merge: Merge


def _as_they_are(states: Tensor) -> Tensor:
    return states


class Pruner:
    """Decides for one forward pass after another; knows nothing of hooks.

    Attributes:
        asked: The arguments of the `generate` that passes belong to; None outside of one. It may run without
            a cache; then what it keeps of its prompt is decided in its first pass.
        needs: The signals of all cuts.
    """

    def __init__(
        self, decoder: Decoder, cuts: Sequence[Cut], chooser: Chooser, rotary: Rotary | None
    ) -> None:
        self.asked: Mapping[str, Any] | None = None
        self._decoder = decoder
        self._cuts = {cut.layer: cut for cut in cuts}
        self.needs = frozenset(need for cut in cuts for need in cut.needs)
        self._chooser = chooser
        self._scaled_from = scaled_from(decoder)
        self._template = Template.of(decoder.model, chooser.tails)
        self._rotary = rotary
        self._marked: Tensor | None = None
        self._probing: Cut | None = None
        self._frozen: dict[int, Frozen] = {}

    def begin(self, inputs: Mapping[str, Any]) -> ForwardPass:
        """The pass that these arguments of the model's forward begin.

        Visual tokens are told by their ids, of embeddings by those of placeholders or by a mark.

        Raises:
            PrunekitError: They cannot be followed, and why; nothing has run yet.
        """
        refuse_changes(self._decoder)
        refuse_inputs(inputs)
        marked, self._marked = self._marked, None
        visual = visual_tokens(self._decoder, inputs, marked)
        forward = ForwardPass.beginning(inputs, visual, self.asked, self._template, choosing=not self._frozen)
        ledger = Ledger.of(inputs.get("past_key_values"))
        if ledger is not None:
            ledger.check(self._decoder.cuts, forward.past)
        refuse_length(forward.past + forward.length, self._scaled_from)
        if forward.places is not None:
            forward.started = now(forward.real.device)
        return forward

    def mark(self, visual: Bool[Tensor, "batch length"]) -> None:
        """Says where the visual tokens of the next prompt stand."""
        self._marked = visual

    def see(
        self,
        forward: ForwardPass | None,
        cut: Cut,
        signals: Sequence[InLayer],
        attending: Attending,
    ) -> None:
        """Notes the attention of a layer tapped for a cut, if this is the pass and the moment for it.

        Raises:
            Captured: The layer was run for this only.
        """
        moment = cut if signals[0].layer == "same" else None
        places = forward and forward.stream.places
        if forward is None or places is None or self._probing is not moment:
            return
        seen = forward.signals.setdefault(cut.layer, {})
        with torch.no_grad():
            for signal in signals:
                seen[signal] = seen_in_layer(signal, attending, forward, places)
        if self._probing is cut:
            raise Captured

    def note_inputs(self, forward: ForwardPass, states: Float[Tensor, "batch length dim"]) -> None:
        """Notes what enters the language model, of the tokens that it is asked for."""
        if forward.places is None:
            return
        if InputFeatures() in self.needs:
            features = gather(states.detach(), forward.places.index, -2).to(forward.places.index.device)
            present = forward.places.present[..., None]
            forward.entered[InputFeatures()] = features.masked_fill(~present, 0).mT
        if TextFeatures("input") in self.needs:
            forward.entered[TextFeatures("input")] = question_features(states, forward)

    def cut(self, forward: ForwardPass, number: int, layer: nn.Module, named: Arguments) -> None:
        """Decides what goes on into a pruning layer, and what the layers from it on are given.

        Args:
            forward: The pass, which gets the plan.
            number: The pruning layer's.
            layer: The pruning layer, which is about to run.
            named: Its arguments.
        """
        cut, cache = self._cuts[number], named.get("past_key_values")
        refuse_cache(cache)
        if forward.places is not None and cut.seen_in("same"):
            self._probe(forward, cut, layer, named)
        keep = self._keep(forward, cut, named, cache)
        slots = None if keep is None else Slots.keeping(forward.stream.left(keep), forward.real)
        if slots is None and not forward.plans and Ledger.of(cache) is None:
            return
        forward.plans[number] = self._plan(forward, cut, cache, slots, keep)
        if slots is not None and keep is not None:
            forward.narrow(slots, keep)

    def enter(self, forward: ForwardPass) -> None:
        """Enters a pass that went well in the ledger of its cache."""
        cache = forward.plan and forward.plan.cache
        if cache is None:
            return
        everything = Held.everything(forward.batch, forward.past + forward.length, forward.real.device)
        held = {
            cut: forward.plans[cut].held if cut in forward.plans else everything for cut in self._decoder.cuts
        }
        ledger = Ledger.of(cache)
        if ledger is None:
            Ledger(cache, held)
        else:
            ledger.held = held

    def end(self, forward: ForwardPass) -> Prefill:
        """The facts of a pass that is done, for the report."""
        prefill_ms = 1e3 * (now(forward.real.device) - forward.started)
        kept = [selection.kept.sum(1) for selection in forward.selections.values()]
        counts = torch.stack([forward.real.sum(1), forward.visual.sum(1), *kept], 1)
        prompts = (Prompt(real - visual, visual, tuple(rest)) for real, visual, *rest in counts.tolist())
        return Prefill(tuple(prompts), forward.select_ms, prefill_ms)

    def forget(self) -> None:
        """Lets go of what was decided for a call of `generate`."""
        self.asked, self._frozen = None, {}

    def _plan(
        self, forward: ForwardPass, cut: Cut, cache: Cache | None, slots: Slots | None, keep: Keep | None
    ) -> Plan:
        return Plan.following(
            forward, cut.layer, slots, keep, decoder=self._decoder, cache=cache, rotary=self._rotary
        )

    def _probe(self, forward: ForwardPass, cut: Cut, layer: nn.Module, named: Arguments) -> None:
        """Runs the pruning layer on all that enters it, up to its attention; leaves no trace in the cache."""
        cache: Cache | None = named.get("past_key_values")
        stream = forward.stream
        if stream.slots is not None or Ledger.of(cache) is not None:
            plan = self._plan(forward, cut, cache, stream.slots, stream.keep)
            named = plan.arguments(cut.layer, named)
        if cache is not None:
            named = {**named, "past_key_values": Glance(cache)}
        rest = {name: value for name, value in named.items() if name != "hidden_states"}
        states: Tensor = named["hidden_states"]
        self._probing = cut
        try:
            with torch.no_grad():
                # By place, for older releases note what enters the first layer by it.
                layer.forward(states, **rest)
        except Captured:
            return
        finally:
            self._probing = None

    def _keep(self, forward: ForwardPass, cut: Cut, named: Arguments, cache: Cache | None) -> Keep | None:
        """Which of the new columns go on; None for all of them. Merged features go on in the states."""
        states: Tensor = named["hidden_states"]
        frozen = self._frozen.get(cut.layer)
        if frozen is not None:
            named["hidden_states"] = frozen.merge(states)
            later = forward.length - frozen.keep.shape[1]
            return torch.nn.functional.pad(frozen.keep, (0, later), value=True)
        if forward.places is None:
            return None
        _refuse_unseen(forward, cut)
        start = now(states.device)
        selection = self._chooser(forward, cut, forward.places, states)
        merge = self._merging(forward, cut, selection) if cut.merges else _as_they_are
        named["hidden_states"] = merge(states)
        forward.selections[cut.layer] = selection
        forward.select_ms += 1e3 * (now(states.device) - start)
        keep = ~forward.visual | forward.places.mark(selection.kept, forward.length)
        _refuse_headless(keep, forward)
        if self.asked is not None and cache is None:
            self._frozen[cut.layer] = Frozen(keep, merge)
        return keep

    def _merging(self, forward: ForwardPass, cut: Cut, selection: Selection) -> Merge:
        """Puts into the states what the kept tokens were merged into."""
        values, places = selection.merged, forward.stream.places
        if values is None or places is None:
            raise TokenError("A cut that merges has a selection with merged features.")
        sight = self._chooser.sight
        if cut.features == "vision" and sight is not None and sight.projection is not None:
            with torch.no_grad():
                values = sight.projection(values.to(sight.dtype))
        return functools.partial(places.put, values=values, where=selection.kept)


def _refuse_unseen(forward: ForwardPass, cut: Cut) -> None:
    for need in cut.needs:
        if isinstance(need, InLayer) and need not in forward.signals.get(cut.layer, {}):
            raise UnsupportedModel(
                f"The attention that {need} asks for did not pass through transformers' attention "
                "interface. Use a pipeline without it for this model."
            )


def _refuse_headless(keep: Keep, forward: ForwardPass) -> None:
    last, _ = prompt_queries("last", forward.visual, forward.real)
    if not bool(keep.gather(1, last).all()):
        raise PrunekitError(
            "The last token of a prompt is visual and was dropped, but the answer begins at it. End prompts "
            "with text."
        )
