"""From a forward pass at a cut to a checked selection of its visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunekit.errors import TokenError
from prunekit.hf.adapters import FAMILIES
from prunekit.hf.cut import Cut
from prunekit.hf.forward import ForwardPass
from prunekit.hf.grids import Adapter, GenericAdapter, positions_on
from prunekit.hf.places import Places
from prunekit.hf.question import Tail
from prunekit.hf.signals import distances, padding_of, question_features
from prunekit.hf.slots import gather
from prunekit.hf.vision import Sight
from prunekit.signals import Distance, PaddedShare, Sizes, TextFeatures
from prunekit.tokens import Selection, TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class Chooser:
    """Lays the visual tokens of a pass out as a `TokenBatch` and asks which to keep.

    At later cuts the batch still has a place for every visual token of the prompts; those that are gone are
    absent.

    Attributes:
        adapters: Asked in order for the grids of the visual tokens; then the known families, and the
            generic one last.
        config: The model's configuration.
        sight: What the vision tower shows of the tokens; None where nobody asks.
        closes_up: Whether the gaps that dropped tokens leave are closed, and distances shrink.
    """

    adapters: Sequence[Adapter]
    config: Any
    sight: Sight | None
    closes_up: bool

    @property
    def tails(self) -> Sequence[Tail]:
        """What templates of the model are known to put behind a question."""
        return getattr(self._adapter(), "tails", ())

    def __call__(
        self, forward: ForwardPass, cut: Cut, places: Places, states: Float[Tensor, "batch length dim"]
    ) -> Selection:
        """The selection among the visual tokens that enter a cut.

        Args:
            forward: The pass.
            cut: The cut.
            places: Where the visual tokens of the prompts stand.
            states: What enters the cut.

        Raises:
            TokenError: The selection does not fit the tokens.
        """
        tokens = self._tokens(forward, cut, places, states.detach())
        selection = cut.select(tokens).settled()
        check(selection, tokens)
        return selection

    def _tokens(self, forward: ForwardPass, cut: Cut, places: Places, states: Tensor) -> TokenBatch:
        pictures, left = forward.pictures, forward.stream.places or places
        if forward.grids is None:
            forward.grids = self._adapter().grids(pictures.once(places.runs), pictures.inputs, self.config)
        if self.sight is not None and forward.seen is None:
            forward.seen = self.sight.seen(forward, places)
        signals = dict(forward.signals.get(cut.layer, {}))
        if forward.seen is not None:
            signals |= {need: value for need, value in forward.seen.signals.items() if need in cut.needs}
        signals |= {need: value for need, value in forward.entered.items() if need in cut.needs}
        if PaddedShare() in cut.needs:
            signals[PaddedShare()] = padding_of(pictures, forward.grids, places)
        if TextFeatures() in cut.needs:
            signals[TextFeatures()] = question_features(states, forward)
        if Distance() in cut.needs:
            stream = forward.stream if self.closes_up else forward
            signals[Distance()] = distances(stream.real, stream.visual, left if self.closes_up else places)
        if Sizes() in cut.needs:
            signals[Sizes()] = torch.ones(places.present.shape, device=places.index.device)
        features = forward.seen.features if forward.seen and cut.features == "vision" else None
        if features is None:
            features = gather(states, left.index, -2).to(left.index.device)
        features = features.masked_fill(~left.present[..., None], 0)
        positions = positions_on(pictures.repeated(forward.grids), places.counts, places.index.device)
        total = places.present.sum(-1)
        return TokenBatch(features, positions, left.present, MappingProxyType(signals), total)

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
