"""A graph of graphs: an edge where at least one part has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Graph, GraphBuilder, Stage, TokenBatch, hookimpl
from prunekit.graph import AnyOf as Joined


class AnyOf(GraphBuilder):
    """An edge where at least one part has one, each by its own threshold."""

    use: Literal["any_of"] = "any_of"
    of: tuple[GraphBuilder, ...] = Field(min_length=1, strict=False, description="The parts.")

    def __call__(self, tokens: TokenBatch) -> Graph:
        return Joined(tokens.present, tuple(part(tokens) for part in self.of))


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [AnyOf]
