"""Kept tokens that listen around: each gathers from the tokens most like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prunekit import Merger, Pairs, Selection, Signal, Stage, TokenBatch, hookimpl
from prunekit.kernels.merging import Rule, merged, surrounded
from prunekit_plugins import compared
from prunekit_plugins.merge import weighing


class Neighbours(Merger):
    """Each representative gathers from the k other tokens of largest cosine, kept or not.

    The merging of PruMerge (arXiv:2403.15388), with its defaults. A token may count in several
    representatives, or in none, and counts with the features it had before. Where there are fewer than k
    others, all count; the official code fails there. Ties fall to the lowest index. A token that holds NaN or
    infinities does not count.

    Returns:
        The features in float32, changed for representatives alone.
    """

    use: Literal["neighbours"] = "neighbours"
    into: tuple[str, ...] = Field(
        (), strict=False, description="The selectors whose tokens are representatives; all, if none is named."
    )
    k: int = Field(32, ge=1, description="How many tokens each gathers from.")
    by: compared.By = Field("features", description=compared.WHAT)
    layer: int = Field(-2, description=compared.LAYER)
    rule: Rule = Field("add", description=weighing.RULE)
    weight: weighing.Weight = Field("score", description=weighing.WHAT)

    @property
    def needs(self) -> frozenset[Signal]:
        return compared.signals_of(self.by, self.layer) | weighing.signals_of(self.weight)

    @property
    def after(self) -> frozenset[str]:
        return frozenset(self.into)

    @property
    def compares(self) -> Pairs:
        return "kept"

    def __call__(self, tokens: TokenBatch, selection: Selection) -> Float[Tensor, "batch tokens dim"]:
        weight = weighing.weights_of(tokens, selection, self.weight)
        groups = surrounded(
            compared.vectors_of(tokens, self.by, self.layer),
            selection.by(self.into),
            tokens.present,
            self.k,
        )
        return merged(tokens.features, groups.weighed(weight), weight, self.rule)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Neighbours]
