"""A merger of mergers: one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prunekit import Merger, Selection, Stage, TokenBatch, hookimpl


class InTurn(Merger):
    """Merges several times, each time the features that the merger before gave."""

    use: Literal["in_turn"] = "in_turn"
    of: tuple[Merger, ...] = Field(min_length=1, strict=False, description="The mergers.")

    def __call__(self, tokens: TokenBatch, selection: Selection) -> Float[Tensor, "batch tokens dim"]:
        for merger in self.of:
            tokens = replace(tokens, features=merger(tokens, selection))
        return tokens.features


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [InTurn]
