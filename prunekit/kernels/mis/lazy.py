"""The walk in blocks: most of the graph is never asked for."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.front import to_front
from prunekit.kernels.known import Pick, each, picked
from prunekit.kernels.mis.walk import Independent, Walk, Web
from prunekit.kernels.scan import walked

LEAST_BLOCK, MOST_BLOCK = 64, 192
"""How many candidates a later block has at least and at most."""

WORTH_MOVING = 0.6
"""The share of a block's candidates that may survive for it to pay to move them together."""


def lazy(
    key: Int[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
    web: Web,
    around: Bool[Tensor, "batch tokens"] | None = None,
    *,
    block: int,
) -> Independent:
    """Walks in blocks of candidates: each is compared with what was taken, its survivors with one another.

    Where the room is a small part of the tokens, most of the graph is never asked for. Samples that are done
    leave the batch. Reads values as it goes.

    Args:
        key: Priorities from `packed_key`; `NEVER` for tokens that are no candidates.
        room: How many tokens each sample may take.
        web: A symmetric graph.
        around: Tokens taken beforehand: their neighbours are not taken.
        block: How many candidates are looked at together at first. The longer the walk, the fewer survive,
            so blocks grow as it goes on.
    """
    walk = Walk(key, room)
    held, real, size = None, None, block
    if around is not None and bool(around.any()):
        places, real = to_front(around[walk.samples])
        held = web.known(Pick(places, walk.samples, look=True))
    while walk.going:
        rows, alive = walk.next(size)
        known = web.known(Pick(rows, walk.samples, look=True))
        if held is not None and real is not None:
            alive = alive & ~(web.joins(known, held) & real[:, None]).any(-1)
            survivors, living = to_front(alive)
            if survivors.shape[-1] <= WORTH_MOVING * rows.shape[-1]:
                known, rows, alive = picked(known, survivors), rows.gather(-1, survivors), living
        taken = walked(web.joins(known, known), alive, walk.left)
        places, fresh = to_front(taken)
        newest = picked(known, places)
        held = newest if held is None else each(_beside, held, newest)
        real = fresh if real is None else _beside(real, fresh)
        size = _next_size(size, taken, walk.left)
        still = walk.take(rows, taken)
        if still is not None:
            places, real = to_front(real[still])
            held = each(Pick(places, still), held)
    return walk.result


def _next_size(size: int, taken: Bool[Tensor, "going block"], left: Int[Tensor, " going"]) -> int:
    """Twice as many candidates as before; fewer where fewer should do, at the rate of the last block."""
    got = int(taken.sum(-1).max())
    need = size * (int(left.max()) - got) // max(got, 1)
    return min(max(min(2 * size, 5 * need // 4), LEAST_BLOCK), MOST_BLOCK)


def _beside(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second], 1)
