"""What is decided in a forward pass: what there is to prune, what of it is kept, what the layers get."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from prunekit.errors import PrunekitError, UnsupportedModel
from prunekit.hf.capture import Captured
from prunekit.hf.choose import Chooser
from prunekit.hf.clock import now
from prunekit.hf.decoder import Decoder, refuse_cache, refuse_changes, refuse_inputs
from prunekit.hf.flops import Prompt
from prunekit.hf.forward import Arguments, ForwardPass, Keep, Plan
from prunekit.hf.glance import Glance
from prunekit.hf.ledger import Ledger
from prunekit.hf.places import Places
from prunekit.hf.report import Prefill
from prunekit.hf.rotary import Rotary
from prunekit.hf.signals import attention_to_visual, prompt_queries, text_attention
from prunekit.hf.slots import Slots
from prunekit.kernels.attention import Attending
from prunekit.tokens import Selection, TextAttention


class Pruner:
    """Decides for one forward pass after another; knows nothing of hooks.

    Attributes:
        asked: The arguments of the `generate` that passes belong to; None outside of one. It may run without
            a cache; then what it keeps of its prompt is decided in its first pass.
    """

    def __init__(self, decoder: Decoder, chooser: Chooser, rotary: Rotary | None) -> None:
        self.asked: Mapping[str, Any] | None = None
        self._decoder = decoder
        self._chooser = chooser
        self._rotary = rotary
        self._probing = False
        self._frozen: Keep | None = None

    def begin(self, inputs: Mapping[str, Any]) -> ForwardPass:
        """The pass that these arguments of the model's forward begin.

        Raises:
            PrunekitError: They cannot be followed, and why; nothing has run yet.
        """
        refuse_changes(self._decoder)
        refuse_inputs(inputs)
        forward = ForwardPass.beginning(inputs, self._decoder.visual_ids, self.asked)
        ledger = Ledger.of(inputs.get("past_key_values"))
        if ledger is not None:
            ledger.check(self._decoder.layer, forward.past)
        if self._frozen is not None:
            forward.places = None
        if forward.places is not None:
            forward.started = now(forward.real.device)
        return forward

    def see(
        self, forward: ForwardPass | None, signals: Sequence[TextAttention], attending: Attending
    ) -> None:
        """Notes the attention of a tapped layer, if this is the pass and the moment for it.

        Raises:
            Captured: The layer was run for this only.
        """
        if forward is None or forward.places is None:
            return
        if signals[0].layer == "same" and not self._probing:
            return
        with torch.no_grad():
            for signal in signals:
                forward.signals[signal] = attention_to_visual(signal, attending, forward, forward.places)
        if self._probing:
            raise Captured

    def plan(self, forward: ForwardPass, layer: nn.Module, named: Arguments) -> Plan | None:
        """What the pruned layers are given in this pass; None where that is what they are given anyway.

        Args:
            forward: The pass.
            layer: The pruning layer, which is about to run.
            named: Its arguments.
        """
        cache: Cache | None = named.get("past_key_values")
        refuse_cache(cache)
        following = functools.partial(Plan.following, forward, self._decoder, cache, self._rotary)
        if forward.places is not None and text_attention(self._chooser.needs, "same"):
            self._probe(layer, named, following)
        keep = self._keep(forward, named["hidden_states"], cache)
        slots = None if keep is None else Slots.keeping(keep, forward.real)
        if slots is None and Ledger.of(cache) is None:
            return None
        return following(slots=slots, keep=keep)

    def end(self, forward: ForwardPass, selection: Selection) -> Prefill:
        """The facts of a pass that is done, for the report."""
        prefill_ms = 1e3 * (now(forward.real.device) - forward.started)
        counts = torch.stack([forward.real.sum(1), forward.visual.sum(1), selection.kept.sum(1)], 1)
        prompts = (Prompt(real - visual, visual, kept) for real, visual, kept in counts.tolist())
        return Prefill(tuple(prompts), forward.select_ms, prefill_ms)

    def forget(self) -> None:
        """Lets go of what was decided for a call of `generate`."""
        self.asked = self._frozen = None

    def _probe(self, layer: nn.Module, named: Arguments, following: Callable[[], Plan]) -> None:
        """Runs the pruning layer on everything, up to its attention, and leaves no trace in the cache."""
        cache: Cache | None = named.get("past_key_values")
        if Ledger.of(cache) is not None:
            named = following().arguments(self._decoder.layer, named)
        if cache is not None:
            named = {**named, "past_key_values": Glance(cache)}
        self._probing = True
        try:
            with torch.no_grad():
                layer.forward(**named)
        except Captured:
            return
        finally:
            self._probing = False

    def _keep(self, forward: ForwardPass, states: Tensor, cache: Cache | None) -> Keep | None:
        """Which of the new columns go on; None for all of them."""
        if self._frozen is not None:
            later = forward.length - self._frozen.shape[1]
            return torch.nn.functional.pad(self._frozen, (0, later), value=True)
        if forward.places is None:
            return None
        keep = self._choose(forward, forward.places, states)
        if self.asked is not None and cache is None:
            self._frozen = keep
        return keep

    def _choose(self, forward: ForwardPass, places: Places, states: Tensor) -> Keep:
        _refuse_unseen(forward, self._chooser)
        start = now(states.device)
        selection = self._chooser(forward, places, states)
        forward.selection = selection
        forward.select_ms = 1e3 * (now(states.device) - start)
        keep = ~forward.visual | places.mark(selection.kept, forward.length)
        _refuse_headless(keep, forward)
        return keep


def _refuse_unseen(forward: ForwardPass, chooser: Chooser) -> None:
    for need in chooser.needs:
        if isinstance(need, TextAttention) and need not in forward.signals:
            raise UnsupportedModel(
                f"The attention that {need} asks for did not pass through transformers' attention "
                "interface. Use a pipeline without TextAttention for this model."
            )


def _refuse_headless(keep: Keep, forward: ForwardPass) -> None:
    last, _ = prompt_queries("last", forward.visual, forward.real)
    if not bool(keep.gather(1, last).all()):
        raise PrunekitError(
            "The last token of a prompt is visual and was dropped, but the answer begins at it. End prompts "
            "with text."
        )
