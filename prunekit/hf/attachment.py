"""Hooks on, hooks off: pruning a model's visual tokens inside a `with` block, and nowhere else."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from prunekit.errors import PrunekitError, UnsupportedModel
from prunekit.hf.choose import Chooser
from prunekit.hf.cut import Cut
from prunekit.hf.decoder import Decoder, find_decoder
from prunekit.hf.grids import Adapter
from prunekit.hf.hooks import Hooks
from prunekit.hf.pruner import Pruner
from prunekit.hf.pruning import Pruning
from prunekit.hf.rotary import Rotary
from prunekit.hf.shape import Shape
from prunekit.hf.signals import refuse_unknown
from prunekit.hf.vision import Sight

Positions = Literal["keep", "repack"]

_attached: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""The language models with hooks on."""


def attach(
    model: PreTrainedModel,
    *cuts: Cut,
    positions: Positions = "keep",
    adapters: Sequence[Adapter] = (),
) -> Attachment:
    """Prunes the visual tokens of what `model` reads, inside a `with` block.

    In each forward pass with visual tokens, each cut says at the entry of its layer which of them go on;
    the others leave the sequence and, from that layer on, the cache. The output keeps its shape, with zeros
    for what was dropped. Text-only passes and rows without visual tokens are left as they are.

    With keep-all the model computes exactly what it does without prunekit. Otherwise it computes what it
    would with the dropped tokens masked from the layer on, up to rounding.

    A pruned cache can be reused for further turns inside the same or a later block with the same layers,
    not outside of one. With `use_cache=False`, `generate` chooses once, from the prompt.

    Args:
        model: Any transformers model with an `image_token_id` and a decoder of ordinary layers.
        *cuts: Where tokens leave, and which, by ascending layers.
        positions: `keep` leaves each token its rotary position; `repack` closes the gaps from each cut on, so
            that the tokens of a row stand at 0, 1, 2, … (Sliding windows go by the old distances either way.)
        adapters: Asked in order for the grid of the visual tokens, before the generic rule.

    Raises:
        UnsupportedModel: The model or the settings cannot be pruned; nothing has run yet.
    """
    for cut in cuts:
        refuse_unknown(cut.needs)
    if positions not in ("keep", "repack"):
        raise UnsupportedModel(f"positions is 'keep' or 'repack'; got {positions!r}.")
    decoder = find_decoder(model, [cut.layer for cut in cuts])
    sight = Sight.of(
        model,
        dict.fromkeys(need for cut in cuts for need in cut.needs),
        features=any(cut.features == "vision" for cut in cuts),
    )
    if sight is not None and sight.projection is None and any(_merges_before(cut) for cut in cuts):
        raise UnsupportedModel(
            f"{type(model).__name__} puts the tiles of an image together behind its projector, so that "
            "features merged before it cannot be sent through. Merge what the decoder has: at: {layer: 0}."
        )
    rotary = Rotary.of(decoder) if positions == "repack" else None
    return Attachment(decoder, cuts, Chooser(adapters, model.config, sight, rotary is not None), rotary)


def _merges_before(cut: Cut) -> bool:
    """Whether a cut merges what is still to go through the projector."""
    return cut.merges and cut.features == "vision"


class Attachment:
    """A model and what to prune in it; `with` puts the hooks on and takes them off."""

    def __init__(
        self, decoder: Decoder, cuts: Sequence[Cut], chooser: Chooser, rotary: Rotary | None
    ) -> None:
        self._decoder = decoder
        self._cuts = cuts
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
        pruner = Pruner(decoder, self._cuts, self._chooser, self._rotary)
        pruning = Pruning(shape, decoder.cuts, decoder.implementation, pruner.mark)
        with ExitStack() as stack:
            _attached.add(module)
            stack.callback(_attached.discard, module)
            stack.callback(pruning.leave)
            if self._chooser.sight is not None:
                self._chooser.sight.install(stack)
            Hooks(decoder, self._cuts, pruner, pruning).install(stack)
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
