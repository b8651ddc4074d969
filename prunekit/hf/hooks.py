"""Where pruning reaches into a model: every hook, tap and override, and how each comes off again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from prunekit.hf import deepstack
from prunekit.hf.capture import Tap
from prunekit.hf.cut import Cut, InLayer
from prunekit.hf.decoder import Decoder, refuse_generation
from prunekit.hf.forward import Arguments, ForwardPass
from prunekit.hf.override import override
from prunekit.hf.pruner import Pruner
from prunekit.hf.pruning import Pruning
from prunekit.hf.turn import Turn
from prunekit.kernels.attention import Attending
from prunekit.signals import InputFeatures, TextFeatures


class Hooks:
    """The hooks of one block, and the forward pass they are in.

    A pass runs: `_begin` (what is there to prune?) → `_see` (attention on the way) → `_before` each pruning
    layer (which tokens go on?) and those after it → `_lengthen` what the decoder gives → `_end`.
    """

    def __init__(self, decoder: Decoder, cuts: Sequence[Cut], pruner: Pruner, pruning: Pruning) -> None:
        self._decoder = decoder
        self._cuts = cuts
        self._pruner = pruner
        self._pruning = pruning
        self._forward: ForwardPass | None = None
        self._turn = Turn()

    def install(self, stack: ExitStack) -> None:
        """Puts everything on the model, and on the stack how to take it off."""
        model, module = self._decoder.model, self._decoder.module
        handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
            module.register_forward_hook(self._lengthen),
        ]
        if self._pruner.needs & {InputFeatures(), TextFeatures("input")}:
            first = self._decoder.layers[0]
            handles.append(first.register_forward_pre_hook(self._note, with_kwargs=True))
        for number, layer in self._decoder.pruned:
            before = functools.partial(self._before, number)
            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        for handle in handles:
            stack.callback(handle.remove)
        for cut in self._cuts:
            self._tap(stack, cut, cut.layer - 1, cut.seen_in("previous"))
            self._tap(stack, cut, cut.layer, cut.seen_in("same"))
        override(stack, model, "generate", self._generate)
        override(stack, module, deepstack.METHOD, self._deepstack)

    def _tap(self, stack: ExitStack, cut: Cut, number: int, signals: list[InLayer]) -> None:
        if signals:
            attention: Any = self._decoder.layers[number].self_attn
            tap = Tap(attention, functools.partial(self._see, cut, signals))
            tap.open()
            stack.callback(tap.close)

    # On the model

    def _begin(self, model: nn.Module, given: tuple[Any, ...], named: Arguments) -> None:
        self._turn.take()
        self._forward = None
        inputs = _by_name(model, given, named)
        if inputs.get("input_ids") is not None or inputs.get("inputs_embeds") is not None:
            self._forward = self._pruner.begin(inputs)

    def _end(self, model: nn.Module, given: tuple[Any, ...], output: object) -> None:
        """Called after an error, too; then there is no output."""
        if not self._turn.give_back():
            return
        forward, self._forward = self._forward, None
        if output is not None and forward is not None and forward.selections:
            self._pruning.add(tuple(forward.selections.values()), self._pruner.end(forward))

    def _generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate(*given: Any, **named: Any) -> Any:
            settings = dict(zip(inspect.signature(original).parameters, given, strict=False)) | named
            refuse_generation(self._decoder.model, settings)
            self._turn.take()
            self._pruner.asked = settings
            try:
                return original(*given, **named)
            finally:
                self._pruner.forget()
                self._turn.give_back()

        return generate

    # On the language model

    def _lengthen(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """Puts the last hidden states back at their columns, so that logits and labels keep their shape."""
        plan = self._forward and self._forward.plan
        if self._forward is None or plan is None:
            return output
        self._pruner.enter(self._forward)
        if plan.slots is None:
            return output
        states = plan.slots.spread(output[0], plan.length)
        if isinstance(output, tuple):
            return (states, *output[1:])
        output.last_hidden_state = states
        return output

    def _deepstack(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(original)
        def process(states: Tensor, visual: Tensor, features: Tensor, *rest: Any) -> Tensor:
            plan = self._forward and self._forward.plan
            if plan is None or plan.slots is None:
                return original(states, visual, features, *rest)
            return deepstack.thinned(original, plan.slots, states, visual, features, *rest)

        return process

    # On the layers

    def _see(self, cut: Cut, signals: list[InLayer], attending: Attending) -> None:
        self._pruner.see(self._forward, cut, signals, attending)

    def _note(self, layer: nn.Module, given: tuple[Any, ...], named: Arguments) -> None:
        if self._forward is not None:
            self._pruner.note_inputs(self._forward, _by_name(layer, given, named)["hidden_states"])

    def _before(
        self, number: int, layer: nn.Module, given: tuple[Any, ...], named: Arguments
    ) -> tuple[tuple[Any, ...], Arguments] | None:
        forward = self._forward
        if forward is None:
            return None
        named = _by_name(layer, given, named)
        if number in self._decoder.cuts:
            self._pruner.cut(forward, number, layer, named)
        plan = forward.plan
        if plan is None:
            return None
        states = named.pop("hidden_states")
        if number in forward.plans:
            states = plan.states(states)
        return (states,), plan.arguments(number, named)


def _by_name(module: nn.Module, given: tuple[Any, ...], named: Arguments) -> Arguments:
    """The arguments of a module's forward, all by name."""
    return dict(zip(_parameters(type(module)), given, strict=False)) | named


@functools.cache
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    """The parameters of a module's forward, itself left out; asked for in every layer of every step."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]
