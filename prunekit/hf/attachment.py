"""Hooks on, hooks off: pruning a model's visual tokens inside a `with` block, and nowhere else."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from prunekit.errors import PrunekitError, UnsupportedModel
from prunekit.hf.choose import Chooser, Select
from prunekit.hf.decoder import Decoder, find_decoder
from prunekit.hf.grids import Adapter
from prunekit.hf.hooks import Hooks
from prunekit.hf.pruner import Pruner
from prunekit.hf.pruning import Pruning
from prunekit.hf.rotary import Rotary
from prunekit.hf.shape import Shape
from prunekit.hf.signals import refuse_unknown
from prunekit.hf.vision import Sight
from prunekit.tokens import Signal

Positions = Literal["keep", "repack"]
Features = Literal["decoder", "vision"]

_attached: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""The language models with hooks on."""


def attach(
    model: PreTrainedModel,
    select: Select,
    *,
    layer: int,
    needs: Collection[Signal] = (),
    positions: Positions = "keep",
    features: Features = "decoder",
    adapters: Sequence[Adapter] = (),
) -> Attachment:
    """Prunes the visual tokens of what `model` reads, inside a `with` block.

    In each forward pass with visual tokens, `select` says at the entry of `layer` which of them go on;
    the others leave the sequence and, from that layer on, the cache. The output keeps its shape, with zeros
    for what was dropped. Text-only passes and rows without visual tokens are left as they are.

    With keep-all the model computes exactly what it does without prunekit. Otherwise it computes what it
    would with the dropped tokens masked from `layer` on, up to rounding.

    A pruned cache can be reused for further turns inside the same or a later block with the same `layer`,
    not outside of one. With `use_cache=False`, `generate` chooses once, from the prompt.

    Args:
        model: Any transformers model with an `image_token_id` and a decoder of ordinary layers.
        select: Called once a prompt.
        layer: The first decoder layer to run on fewer tokens, from 1 to the number of layers - 1.
        needs: What `select` wants to find in `TokenBatch.signals`. `TextAttention(layer="same")` costs the
            query and key projections of one more layer.
        positions: `keep` leaves each token its rotary position; `repack` closes the gaps from `layer` on, so
            that the tokens of a row stand at 0, 1, 2, … (Sliding windows go by the old distances either way.)
        features: `decoder`, a token's features are its hidden state at the entry of `layer`; `vision`, what
            enters the model's own projector for it, and 0 for tokens that come from no patch.
        adapters: Asked in order for the grid of the visual tokens, before the generic rule.

    Raises:
        UnsupportedModel: The model or the settings cannot be pruned; nothing has run yet.
    """
    refuse_unknown(needs)
    if positions not in ("keep", "repack"):
        raise UnsupportedModel(f"positions is 'keep' or 'repack'; got {positions!r}.")
    if features not in ("decoder", "vision"):
        raise UnsupportedModel(f"features is 'decoder' or 'vision'; got {features!r}.")
    decoder = find_decoder(model, layer)
    sight = Sight.of(model, needs, features=features == "vision")
    rotary = Rotary.of(decoder) if positions == "repack" else None
    return Attachment(decoder, Chooser(select, needs, adapters, model.config, sight), rotary)


class Attachment:
    """A model and what to prune in it; `with` puts the hooks on and takes them off."""

    def __init__(self, decoder: Decoder, chooser: Chooser, rotary: Rotary | None) -> None:
        self._decoder = decoder
        self._chooser = chooser
        self._rotary = rotary
        self._stack = ExitStack()

    def __enter__(self) -> Pruning:
        """Hooks on.

        Raises:
            PrunekitError: The model is attached to already.
        """
        decoder, module = self._decoder, self._decoder.module
        if module in _attached:
            raise PrunekitError(
                "This model is being pruned already; leave that `with attach(…)` block first."
            )
        shape = Shape.read(module)
        pruning = Pruning(shape, decoder.layer, decoder.implementation)
        with ExitStack() as stack:
            _attached.add(module)
            stack.callback(_attached.discard, module)
            pruner = Pruner(decoder, self._chooser, self._rotary)
            if self._chooser.sight is not None:
                self._chooser.sight.install(stack)
            Hooks(decoder, pruner, pruning).install(stack, frozenset(self._chooser.needs))
            self._stack = stack.pop_all()
        return pruning

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Hooks off, also after an error."""
        self._stack.close()
