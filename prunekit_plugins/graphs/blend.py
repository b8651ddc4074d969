"""The hybrid graph: likeness and nearness in one number, with one threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Graph, GraphBuilder, Stage, TokenBatch, hookimpl
from prunekit.graph import blend


class Blend(GraphBuilder):
    """An edge where alpha * semantic + (1 - alpha) * spatial is above a threshold.

    The hybrid graph of D²Pruner (arXiv:2512.19443): alpha 1.0 for understanding, 0.5 for localisation,
    where an edge above 0.8 needs the two to sum to more than 1.6, a soft AND of near and alike. The
    thresholds of `cosine` and `grid` play no role here; a stored or joined graph says 0 where it has no edge.
    """

    use: Literal["blend"] = "blend"
    semantic: GraphBuilder = Field(description="The graph whose similarity weighs alpha.")
    spatial: GraphBuilder = Field(description="The graph whose similarity weighs 1 - alpha.")
    alpha: float = Field(0.5, ge=0, le=1, description="The weight of the semantic similarity.")
    above: float = Field(0.8, ge=0, le=1, description="An edge where the blend exceeds this.")

    def __call__(self, tokens: TokenBatch) -> Graph:
        return blend(self.semantic(tokens), self.spatial(tokens), self.alpha, self.above)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Blend]
