"""From a forward pass at the pruning layer to a checked selection of its visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jaxtyping import Float
from torch import Tensor

from prunekit.errors import TokenError
from prunekit.hf.adapters import FAMILIES
from prunekit.hf.forward import ForwardPass
from prunekit.hf.grids import Adapter, GenericAdapter, positions_on
from prunekit.hf.places import Places
from prunekit.hf.signals import padding_of
from prunekit.hf.slots import gather
from prunekit.hf.vision import Seen, Sight
from prunekit.tokens import PaddedShare, Selection, Signal, TokenBatch

Select = Callable[[TokenBatch], Selection]
"""All that an attachment knows of a pipeline."""


@dataclass(frozen=True, slots=True, eq=False)
class Chooser:
    """Lays the visual tokens of a pass out as a `TokenBatch` and asks which to keep.

    Attributes:
        select: Says which.
        needs: The signals it needs.
        adapters: Asked in order for the grids of the visual tokens; then the known families, and the
            generic one last.
        config: The model's configuration.
        sight: What the vision tower shows of the tokens; None where nobody asks.
    """

    select: Select
    needs: Collection[Signal]
    adapters: Sequence[Adapter]
    config: Any
    sight: Sight | None

    def __call__(
        self, forward: ForwardPass, places: Places, states: Float[Tensor, "batch length dim"]
    ) -> Selection:
        """The selection among the visual tokens of this pass.

        Raises:
            TokenError: The selection does not fit the tokens.
        """
        tokens = self._tokens(forward, places, states.detach())
        selection = self.select(tokens).settled()
        check(selection, tokens)
        return selection

    def _tokens(self, forward: ForwardPass, places: Places, states: Tensor) -> TokenBatch:
        pictures = forward.pictures
        told = self._adapter().grids(pictures.once(places.runs), pictures.inputs, self.config)
        grids = pictures.repeated(told)
        signals = dict(forward.signals)
        if PaddedShare() in self.needs:
            signals[PaddedShare()] = padding_of(pictures, told, places)
        seen = Seen({}) if self.sight is None else self.sight.seen(forward, places)
        signals |= seen.signals
        features = seen.features
        if features is None:
            features = gather(states, places.index, -2).to(places.index.device)
            features = features.masked_fill(~places.present[..., None], 0)
        positions = positions_on(grids, places.counts, places.index.device)
        return TokenBatch(features, positions, places.present, MappingProxyType(signals))

    def _adapter(self) -> Adapter:
        fitting = (adapter for adapter in (*self.adapters, *FAMILIES) if adapter.fits(self.config))
        return next(fitting, GenericAdapter())


def check(selection: Selection, tokens: TokenBatch) -> None:
    """Refuses a selection that cannot be carried out. Syncs once.

    Raises:
        TokenError: Wrong shape or dtype, padding kept, or a sample left without a token.
    """
    kept, present = selection.kept, tokens.present
    if kept.shape != present.shape or kept.dtype != present.dtype:
        raise TokenError(
            f"Selection.kept is a bool mask (batch, tokens) = {tuple(present.shape)}; "
            f"got {kept.dtype} {tuple(kept.shape)}."
        )
    padding = (kept & ~present).any(1)
    bare = present.any(1) & ~(kept & present).any(1)
    for row, (keeps_padding, keeps_nothing) in enumerate(zip(padding.tolist(), bare.tolist(), strict=True)):
        if keeps_padding:
            raise TokenError(f"The selection keeps padding in sample {row}; keep present tokens only.")
        if keeps_nothing:
            raise TokenError(f"The selection keeps no visual token of sample {row}; keep at least one.")
