"""The greedy independent set of a graph whose edges do not reach far: only near cells are ever compared."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.known import Pick, each
from prunekit.kernels.mis.cells import Cells
from prunekit.kernels.mis.walk import Independent, Walk, Web
from prunekit.kernels.scan import walked

PAIRS = 4096
"""How many pairs are compared at once: what is known of a token is held for each of its pairs."""


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
    held = torch.zeros_like(key, dtype=torch.bool) if around is None else around.clone()
    while walk.going:
        rows, alive = walk.next(block)
        count, width = rows.shape
        ordinal = torch.full_like(walk.order[walk.samples], width)
        ordinal.scatter_(1, rows, torch.arange(width, device=rows.device).expand_as(rows))
        near = cells.near(walk.samples, rows)
        there = near.clamp(min=0)
        flat = there.flatten(1)
        taken = held[walk.samples].gather(1, flat).view_as(near)
        better = ordinal.gather(1, flat).view_as(near) < torch.arange(width, device=rows.device)[:, None]
        sample, row, step = ((near >= 0) & (taken | better) & alive[..., None]).nonzero(as_tuple=True)
        neighbour = there[sample, row, step]
        edge = _edges(web, walk.samples[sample], rows[sample, row], neighbour)
        sample, row, step, neighbour = sample[edge], row[edge], step[edge], neighbour[edge]
        beside = taken[sample, row, step]
        alive[sample[beside], row[beside]] = False
        earlier = alive.new_zeros(count, width, width)
        inside = ~beside
        sample, row, neighbour = sample[inside], row[inside], neighbour[inside]
        earlier[sample, row, ordinal[sample, neighbour]] = True
        newest = walked(earlier, alive, walk.left)
        held[walk.samples[:, None], rows] |= newest
        walk.take(rows, newest)
    return walk.result


def _edges(
    web: Web, samples: Int[Tensor, " pairs"], first: Int[Tensor, " pairs"], second: Int[Tensor, " pairs"]
) -> Bool[Tensor, " pairs"]:
    """Whether the pairs are joined, each pair a block of one row and one column; so many at once."""
    parts = [torch.zeros_like(samples[:0], dtype=torch.bool)]
    for sample, *ends in zip(samples.split(PAIRS), first.split(PAIRS), second.split(PAIRS), strict=True):
        nodes, which = (
            torch.stack([sample.expand(2, -1), torch.stack(ends)], -1)
            .flatten(0, 1)
            .unique(dim=0, return_inverse=True)
        )
        known = web.known(Pick(nodes[:, 1:], nodes[:, 0], look=True))
        rows, columns = (each(Pick(torch.zeros_like(end)[:, None], end), known) for end in which.view(2, -1))
        parts.append(web.joins(rows, columns).flatten())
    return torch.cat(parts)
