"""Which way an independent set is walked: the one place that decides.

    engine   graph                        way
    device   any                          prefix    the best M candidates at once, static shapes, nothing read
    host     edges reach 2 cells or less  stencil   only pairs of cells that near are ever compared
    host     any other                    lazy      blocks of candidates against what was taken so far

All give the tokens of the textbook walk over the whole graph; `prefix` says where it could not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from prunekit.kernels.engine import Engine

Way: TypeAlias = Literal["lazy", "stencil", "prefix"]

REACH = 2
"""The reach up to which pairs of near cells are fewer than pairs in blocks; 24 neighbours a token."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to walk.

    Attributes:
        way: In which way.
        block: How many candidates are looked at together; for `prefix`, how many at all.
    """

    way: Way
    block: int

    def __str__(self) -> str:
        looked_at = "the best {} candidates at once" if self.way == "prefix" else "blocks of {} candidates"
        return f"{self.way}: {looked_at.format(self.block)}"


def plan_for(engine: Engine, tokens: int, most: int, reach: int | None) -> Plan:
    """The way to walk to an independent set.

    Args:
        engine: Whether values may be read.
        tokens: How many tokens a sample has, padding included.
        most: The most tokens any sample may take.
        reach: How many cells apart adjacent tokens can be; None if nothing is known.
    """
    if engine == "device":
        return Plan("prefix", min(tokens, max(256, _up(2 * most, 128))))
    if reach is not None and reach <= REACH:
        return Plan("stencil", min(max(64, _up(most, 32)), 256))
    return Plan("lazy", min(max(32, _up(most, 16)), 128))


def _up(count: int, step: int) -> int:
    """The count, up to a multiple of `step`."""
    return -(-count // step) * step
