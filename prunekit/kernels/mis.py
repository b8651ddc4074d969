"""The greedy (lexicographically first) maximal independent set, lazily and for a whole batch.

The rule is the textbook one: walk the tokens from the best to the worst, take a token unless a neighbour was
taken before. The difference is what is computed: candidates come in blocks, and a block is compared only with
itself and with what has been taken so far. Where the budget is a small part of the tokens, most of the graph
is never asked for. Stopping early is exact: the first n of the full walk are the walk stopped at n.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.ranking import NEVER, descending


def greedy_mis(
    key: Int[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
    adjacent: Callable[[Tensor, Tensor], Tensor],
    around: Bool[Tensor, "batch tokens"] | None = None,
    block: int | None = None,
) -> Bool[Tensor, "batch tokens"]:
    """The first `room` tokens of the greedy maximal independent set of each sample; fewer where it runs dry.

    Args:
        key: Priorities from `packed_key`; `NEVER` for tokens that are no candidates.
        room: How many tokens each sample may take.
        adjacent: `adjacent(rows, columns)` of a symmetric graph without loops.
        around: Tokens taken beforehand: their neighbours are not taken.
        block: How many candidates are looked at together; by default about four times the largest
            room, from 32 to 128.
    """
    block = block or min(max(32, 4 * int(room.max())), 128) if room.numel() else 1
    order = descending(key)
    candidate = key.gather(-1, order) != NEVER
    taken = torch.zeros_like(candidate)
    settled, settled_valid = _gathered(around if around is not None else taken)
    left = room.clone()
    for start in range(0, key.shape[-1], block):
        rows, alive = order[:, start : start + block], candidate[:, start : start + block]
        alive = alive & (left > 0)[:, None]
        if not bool(alive.any()):
            break
        if settled.shape[-1]:
            touched = adjacent(rows, settled) & settled_valid[:, None]
            alive = alive & ~touched.any(-1)
        picked = _first_independent(adjacent(rows, rows), alive)
        picked = picked & (picked.cumsum(-1) <= left[:, None])
        left = left - picked.sum(-1)
        taken = taken.scatter(-1, rows, picked)
        settled, settled_valid = _gathered(taken if around is None else taken | around)
    return taken


def _first_independent(
    adjacent: Bool[Tensor, "batch block block"], alive: Bool[Tensor, "batch block"]
) -> Bool[Tensor, "batch block"]:
    """The greedy walk inside one block, in rounds: whoever has no undecided earlier neighbour is in."""
    earlier = adjacent.tril(-1)
    undecided, picked = alive, torch.zeros_like(alive)
    while bool(undecided.any()):
        waiting = (earlier & undecided[:, None]).any(-1)
        joining = undecided & ~waiting
        picked = picked | joining
        undecided = undecided & ~joining & ~(earlier & joining[:, None]).any(-1)
    return picked


def _gathered(
    mask: Bool[Tensor, "batch tokens"],
) -> tuple[Int[Tensor, "batch most"], Bool[Tensor, "batch most"]]:
    """The indices of the marked tokens, packed to the front, and which of them are real."""
    most = int(mask.sum(-1).max()) if mask.numel() else 0
    places = mask.long().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return places, mask.gather(-1, places)
