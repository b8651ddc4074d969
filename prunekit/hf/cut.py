"""A place where visual tokens leave a model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from prunekit.errors import UnsupportedModel
from prunekit.signals import Keys, Signal, TextAttention, TextKeys, TextRows
from prunekit.tokens import Selection, TokenBatch

Select = Callable[[TokenBatch], Selection]
"""All that an attachment knows of a pipeline."""

Source = Literal["decoder", "vision"]
"""Whose features tokens carry: the decoder's hidden states, or the vision tower's, not yet projected."""


InLayer = TextAttention | TextRows | Keys | TextKeys
"""The signals that are seen while a decoder layer attends."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Visual tokens leave at the entry of a decoder layer.

    Attributes:
        select: Says which go on. Called once a prompt.
        layer: The first decoder layer to run on fewer tokens; 0 prunes before the language model.
        needs: What `select` wants to find in `TokenBatch.signals`. Signals of the pruning layer itself
            (`layer="same"`) cost its query and key projections once more.
        features: `decoder`, a token's features are its hidden state at the entry of `layer`; `vision`, what
            enters the model's own projector for it, and 0 for tokens that come from no patch.
        merges: Whether the selection has `merged` features, to go on in place of the tokens' own.

    Raises:
        UnsupportedModel: There are no such features, or no attention before layer 0.
    """

    select: Select
    layer: int
    needs: Collection[Signal] = ()
    features: Source = "decoder"
    merges: bool = False

    def __post_init__(self) -> None:
        if self.features not in ("decoder", "vision"):
            raise UnsupportedModel(f"features is 'decoder' or 'vision'; got {self.features!r}.")
        for need in self.seen_in("previous") if self.layer == 0 else ():
            raise UnsupportedModel(
                f"{need} is of the layer before the pruning layer, and there is none before layer 0. Ask for "
                "that of the layer itself (layer: same), or prune at a later layer."
            )
        if self.merges and self.features == "vision" and self.layer > 0:
            raise UnsupportedModel(
                "Features of the vision encoder are merged before the language model alone, at layer 0: what "
                "they are merged into is sent through the projector."
            )

    def seen_in(self, layer: Literal["previous", "same"]) -> list[InLayer]:
        """The signals among the needs that are seen in this layer."""
        return [need for need in self.needs if isinstance(need, InLayer) and need.layer == layer]
