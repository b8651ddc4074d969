"""What runs inside the model's forward while an attachment is on."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import Cache

from prunekit.errors import PrunekitError, UnsupportedModel
from prunekit.hf import deepstack
from prunekit.hf.capture import Attending, Captured, Tap
from prunekit.hf.choose import Chooser
from prunekit.hf.decoder import (
    Decoder,
    refuse_cache,
    refuse_changes,
    refuse_generation,
    refuse_inputs,
)
from prunekit.hf.flops import Prompt
from prunekit.hf.forward import Arguments, ForwardPass, Keep, Plan
from prunekit.hf.glance import Glance
from prunekit.hf.ledger import Ledger
from prunekit.hf.places import Places
from prunekit.hf.pruning import Pruning
from prunekit.hf.report import Prefill
from prunekit.hf.rotary import Rotary
from prunekit.hf.signals import attention_to_visual, text_attention
from prunekit.hf.slots import Slots
from prunekit.tokens import Selection, TextAttention


class Hooks:
    """The hooks of one block, and the forward pass they are in.

    A pass runs: `_begin` (what is there to prune?) → `_see` (attention on the way) → `_before` the pruning
    layer (which tokens go on?) and each later one → `_lengthen` what the decoder gives → `_end`.
    """

    def __init__(self, decoder: Decoder, chooser: Chooser, rotary: Rotary | None, pruning: Pruning) -> None:
        self._decoder = decoder
        self._chooser = chooser
        self._rotary = rotary
        self._pruning = pruning
        self._forward: ForwardPass | None = None
        self._probing = False
        self._generating = False
        self._frozen: Keep | None = None
        """What `generate` keeps of its prompt, where no cache remembers it from step to step."""

    def install(self, stack: ExitStack) -> None:
        """Puts everything on the model, and on the stack how to take it off."""
        model, module = self._decoder.model, self._decoder.module
        handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
            module.register_forward_hook(self._lengthen),
        ]
        for number, layer in self._decoder.pruned:
            before = functools.partial(self._before, number)
            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        for handle in handles:
            stack.callback(handle.remove)
        self._install_taps(stack)
        for owner, name, make in (
            (model, "generate", self._generate),
            (module, deepstack.METHOD, self._deepstack),
        ):
            if hasattr(owner, name):
                _override(stack, owner, name, make(getattr(owner, name)))
        stack.callback(self._forget)

    def _install_taps(self, stack: ExitStack) -> None:
        needs, layer = self._chooser.needs, self._decoder.layer
        for signals, number in (
            (text_attention(needs, "previous"), layer - 1),
            (text_attention(needs, "same"), layer),
        ):
            if signals:
                attention: Any = self._decoder.layers[number].self_attn
                tap = Tap(attention, functools.partial(self._see, signals))
                tap.open()
                stack.callback(tap.close)

    def _forget(self) -> None:
        self._forward, self._frozen = None, None

    # The model

    def _begin(self, model: nn.Module, given: tuple[Any, ...], named: Arguments) -> None:
        self._forward = None
        inputs = _by_name(model, given, named)
        refuse_changes(self._decoder)
        refuse_inputs(inputs)
        forward = ForwardPass.beginning(inputs, self._decoder.visual_ids)
        _refuse_foreign(Ledger.of(inputs.get("past_key_values")), self._decoder.layer, forward.past)
        if self._frozen is not None:
            forward.places = None
        if forward.places is not None:
            forward.started = _now(forward.real.device)
        self._forward = forward

    def _end(self, model: nn.Module, given: tuple[Any, ...], output: object) -> None:
        forward, self._forward = self._forward, None
        if output is None or forward is None or forward.selection is None:
            return
        prefill_ms = 1e3 * (_now(forward.real.device) - forward.started)
        facts = Prefill(_prompts(forward, forward.selection), forward.select_ms, prefill_ms)
        self._pruning.add(forward.selection, facts)

    def _generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate(*given: Any, **named: Any) -> Any:
            refuse_generation(self._decoder.model, named)
            self._generating, self._frozen = True, None
            try:
                return original(*given, **named)
            finally:
                self._generating, self._frozen = False, None

        return generate

    # The decoder

    def _lengthen(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """Puts the last hidden states back at their columns, so that logits and labels keep their shape."""
        forward = self._forward
        if forward is None or forward.plan is None or forward.plan.slots is None:
            return output
        states = forward.plan.slots.spread(output[0], forward.length)
        if isinstance(output, tuple):
            return (states, *output[1:])
        output.last_hidden_state = states
        return output

    def _deepstack(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(original)
        def process(states: Tensor, visual: Tensor, features: Tensor, *rest: Any) -> Tensor:
            plan = self._forward and self._forward.plan
            if plan is None or plan.slots is None or states.shape[1] == visual.shape[1]:
                return original(states, visual, features, *rest)
            return deepstack.thinned(original, plan.slots, states, visual, features, *rest)

        return process

    # The layers

    def _see(self, signals: Sequence[TextAttention], module: nn.Module, attending: Attending) -> None:
        forward = self._forward
        if forward is None or forward.places is None:
            return
        if signals[0].layer == "same" and not self._probing:
            return
        with torch.no_grad():
            for signal in signals:
                value = attention_to_visual(signal, attending, forward, forward.places)
                forward.signals[signal] = value
        if self._probing:
            raise Captured

    def _before(
        self, number: int, layer: nn.Module, given: tuple[Any, ...], named: Arguments
    ) -> tuple[tuple[Any, ...], Arguments] | None:
        forward = self._forward
        if forward is None:
            return None
        if number == self._decoder.layer:
            forward.plan = self._plan(forward, layer, _by_name(layer, given, named))
        if forward.plan is None:
            return None
        named = forward.plan.arguments(number, _by_name(layer, given, named))
        named["hidden_states"] = forward.plan.states(number, named["hidden_states"])
        return (), named

    def _plan(self, forward: ForwardPass, layer: nn.Module, named: Arguments) -> Plan | None:
        cache: Cache | None = named.get("past_key_values")
        refuse_cache(cache)
        following = functools.partial(Plan.following, forward, self._decoder, cache, self._rotary)
        keep = self._keep(forward, layer, named, following, cache)
        slots = Slots.keeping(keep, forward.real) if forward.length > 1 else None
        if slots is None and Ledger.of(cache) is None:
            return None
        plan = following(slots=slots, keep=keep)
        plan.enter(keep)
        return plan

    def _keep(
        self,
        forward: ForwardPass,
        layer: nn.Module,
        named: Arguments,
        following: Callable[[], Plan],
        cache: Cache | None,
    ) -> Keep:
        everything = torch.ones_like(forward.real)
        if self._frozen is not None:
            everything[:, : self._frozen.shape[1]] = self._frozen
            return everything
        if forward.places is None:
            return everything
        if text_attention(self._chooser.needs, "same"):
            self._probe(layer, named, following, cache)
        keep = self._choose(forward, forward.places, named["hidden_states"])
        if self._generating and cache is None:
            self._frozen = keep
        return keep

    def _choose(self, forward: ForwardPass, places: Places, states: Tensor) -> Keep:
        _refuse_unseen(forward, self._chooser)
        start = _now(states.device)
        forward.selection = self._chooser(forward, places, states)
        forward.select_ms = 1e3 * (_now(states.device) - start)
        keep = ~forward.visual | places.mark(forward.selection.kept, forward.length)
        _refuse_headless(keep, forward.real)
        return keep

    def _probe(
        self, layer: nn.Module, named: Arguments, following: Callable[[], Plan], cache: Cache | None
    ) -> None:
        """Runs the pruning layer on everything, up to its attention, and leaves no trace in the cache."""
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


def _by_name(module: nn.Module, given: tuple[Any, ...], named: Arguments) -> Arguments:
    """The arguments of a module's forward, all by name."""
    if not given:
        return dict(named)
    signature = inspect.signature(type(module).forward)
    bound = signature.bind_partial(module, *given, **named).arguments
    first = next(iter(signature.parameters))
    extra = [name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD]
    plain = {name: value for name, value in bound.items() if name not in (first, *extra)}
    return plain | {key: value for name in extra for key, value in bound.get(name, {}).items()}


def _override(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute of this one object, and on the stack how to undo it."""
    own = owner.__dict__
    if name in own:
        stack.callback(own.__setitem__, name, own[name])
    else:
        stack.callback(own.pop, name, None)
    own[name] = value


def _refuse_foreign(ledger: Ledger | None, layer: int, past: int) -> None:
    if ledger is None:
        return
    if ledger.layer != layer:
        raise PrunekitError(
            f"This cache was pruned at layer {ledger.layer} and cannot go on at layer {layer}: its layers "
            "would hold different tokens. Attach with the same layer, or start with a new cache."
        )
    if ledger.keys.index.shape[1] + ledger.dropped != past:
        raise PrunekitError(
            "This pruned cache was changed outside of a `with attach(…)` block, or by a forward pass that "
            "failed half way. Start with a new cache."
        )


def _refuse_unseen(forward: ForwardPass, chooser: Chooser) -> None:
    needed = [*text_attention(chooser.needs, "previous"), *text_attention(chooser.needs, "same")]
    for need in needed:
        if need not in forward.signals:
            raise UnsupportedModel(
                f"The attention that {need} asks for did not pass through transformers' attention "
                "interface. Use a pipeline without TextAttention for this model."
            )


def _refuse_headless(keep: Keep, real: Bool[Tensor, "batch length"]) -> None:
    ordinal = torch.arange(1, real.shape[1] + 1, device=real.device)
    last = (real * ordinal).argmax(1, keepdim=True)
    if not bool(keep.gather(1, last).all()):
        raise PrunekitError(
            "The last token of a prompt is visual and was dropped, but the answer begins at it. End prompts "
            "with text."
        )


def _prompts(forward: ForwardPass, selection: Selection) -> tuple[Prompt, ...]:
    counts = torch.stack([forward.real.sum(1), forward.visual.sum(1), selection.kept.sum(1)], 1)
    return tuple(Prompt(real - visual, visual, kept) for real, visual, kept in counts.tolist())


def _now(device: torch.device) -> float:
    """The time when everything asked of the device so far is done, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
