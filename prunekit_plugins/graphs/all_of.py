"""A graph of graphs: an edge where every part has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Graph, GraphBuilder, Stage, TokenBatch, hookimpl
from prunekit.graph import AllOf as Joined


class AllOf(GraphBuilder):
    """An edge where every part has one, each by its own threshold."""

    use: Literal["all_of"] = "all_of"
    of: tuple[GraphBuilder, ...] = Field(min_length=1, strict=False, description="The parts.")

    def __call__(self, tokens: TokenBatch) -> Graph:
        return Joined(tokens.present, tuple(part(tokens) for part in self.of))


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [AllOf]
