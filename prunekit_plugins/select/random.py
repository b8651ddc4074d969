"""The baseline every method must beat: tokens drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit import Candidates, Kept, Room, Selector, Stage, hookimpl
from prunekit.kernels.ranking import NEVER, take


class Random(Selector):
    """Keeps tokens drawn uniformly, without looking at them.

    The draw is a hash of the seed and the token's position: the same on every device, for every batch and
    order of tokens, and the same places for every image of one layout. To average over draws, run several
    seeds.
    """

    use: Literal["random"] = "random"
    seed: int = Field(0, ge=0, lt=2**31, description="Another seed is another draw.")

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        eligible = candidates.tokens.present & ~kept
        draw = _mixed(torch.full_like(candidates.tokens.positions[..., 0], self.seed + 1))
        for place in candidates.tokens.positions.long().unbind(-1):
            draw = _mixed(draw ^ place)
        key = (draw & torch.iinfo(torch.int64).max).masked_fill(~eligible, NEVER)
        return kept | take(key, room)


def _mixed(bits: Tensor) -> Tensor:
    """splitmix64: every input bit stirs every output bit."""
    bits = bits + -0x61C8864680B583EB
    bits = (bits ^ _shifted(bits, 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ _shifted(bits, 27)) * -0x6B2FB644ECCEEE15
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A right shift without sign, which torch has not for int64."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Random]
