"""The greedy independent set of a graph whose edges do not reach far: only near cells are ever compared."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.known import Pick
from prunekit.kernels.mis.cells import Cells
from prunekit.kernels.mis.walk import Independent, Walk, Web
from prunekit.kernels.scan import walked


def stencil(
    key: Int[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
    web: Web,
    cells: Cells,
    around: Bool[Tensor, "batch tokens"] | None = None,
    *,
    block: int,
) -> Independent:
    """Walks in blocks of candidates, each compared with the few tokens within its reach that matter.

    Those are the tokens taken so far and the better candidates of its block, so the work is O(N · D) and
    mostly far less. Reads values as it goes.

    Args:
        key: Priorities from `packed_key`; `NEVER` for tokens that are no candidates.
        room: How many tokens each sample may take.
        web: A symmetric graph without edges between tokens that are not near.
        cells: Who is near whom.
        around: Tokens taken beforehand: their neighbours are not taken.
        block: How many candidates are looked at together.
    """
    walk = Walk(key, room)
    settled = torch.zeros_like(key, dtype=torch.bool) if around is None else around.clone()
    while walk.going:
        rows, alive = walk.next(block)
        count, width = rows.shape
        ordinal = torch.full_like(walk.order[walk.samples], width)
        ordinal.scatter_(1, rows, torch.arange(width, device=rows.device).expand_as(rows))
        near = cells.near(walk.samples, rows)
        there = near.clamp(min=0)
        flat = there.flatten(1)
        taken = settled[walk.samples].gather(1, flat).view_as(near)
        better = ordinal.gather(1, flat).view_as(near) < torch.arange(width, device=rows.device)[:, None]
        sample, row, step = ((near >= 0) & (taken | better) & alive[..., None]).nonzero(as_tuple=True)
        neighbour = there[sample, row, step]
        edge = _joined(web, walk.samples[sample], rows[sample, row], neighbour)
        sample, row, step, neighbour = sample[edge], row[edge], step[edge], neighbour[edge]
        beside = taken[sample, row, step]
        alive[sample[beside], row[beside]] = False
        earlier = alive.new_zeros(count, width, width)
        inside = ~beside
        sample, row, neighbour = sample[inside], row[inside], neighbour[inside]
        earlier[sample, row, ordinal[sample, neighbour]] = True
        picked, _ = walked(earlier, alive, walk.left)
        settled[walk.samples[:, None], rows] |= picked
        walk.take(rows, picked)
    return walk.result


def _joined(
    web: Web, samples: Int[Tensor, " pairs"], first: Int[Tensor, " pairs"], second: Int[Tensor, " pairs"]
) -> Bool[Tensor, " pairs"]:
    """Whether the pairs are joined, each pair a block of one row and one column."""
    rows, columns = (web.known(Pick(ends[:, None], samples, look=True)) for ends in (first, second))
    return web.joins(rows, columns).flatten()
