"""Selection as published code writes it: one torch call after another, a handful for each token picked.

Each works on one sample, on a graph or similarity matrix that is there already, and gives the indices in
order of picking. They are what `prunekit bench` compares with, written down afresh; nothing else uses them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def naive_mis(edges: Bool[Tensor, "tokens tokens"], order: Int[Tensor, " candidates"], n: int) -> list[int]:
    """The greedy independent set of D²Pruner (arXiv:2512.19443): candidates in turn, a read for each."""
    chosen: list[int] = []
    removed = torch.zeros(len(edges), dtype=torch.bool, device=edges.device)
    for place in range(len(order)):
        if len(chosen) == n:
            break
        token = order[place]
        if not removed[token].item():
            chosen.append(int(token.item()))
            removed = removed | edges[token]
    return chosen


def naive_dpp(kernel: Float[Tensor, "tokens tokens"], n: int) -> list[int]:
    """CDPruner (arXiv:2506.10967), after Chen et al. 2018: an einsum over all earlier rows a step."""
    batch = torch.arange(1, device=kernel.device)
    kernels = kernel[None]
    residual = kernels.diagonal(dim1=1, dim2=2).clone()
    rows = kernel.new_zeros(n, 1, len(kernel))
    chosen = torch.empty(n, 1, dtype=torch.long, device=kernel.device)
    for step in range(n):
        token = residual.argmax(-1)
        chosen[step] = token
        shared = torch.einsum("tb,tbn->bn", rows[:step, batch, token], rows[:step])
        rows[step] = (kernels[batch, token] - shared) / residual[batch, token].sqrt()[:, None]
        residual -= rows[step].square()
        residual[batch, token] = -torch.inf
    return chosen[:, 0].tolist()


def naive_max_min(gram: Float[Tensor, "tokens tokens"], n: int) -> list[int]:
    """DivPrune (arXiv:2503.02175): the rows of all chosen gathered, and their minimum taken, each step."""
    distance = 1 - gram
    chosen = torch.zeros(n, dtype=torch.long, device=gram.device)
    chosen[0] = distance.topk(min(2, len(gram)), dim=0, largest=False).values[-1].argmax()
    for step in range(1, n):
        nearest = distance.index_select(0, chosen[:step]).amin(0)
        nearest[chosen[:step]] = -torch.inf
        chosen[step] = nearest.argmax()
    return chosen.tolist()


def naive_mmr(
    gram: Float[Tensor, "tokens tokens"], importance: Float[Tensor, " tokens"], n: int, balance: float
) -> list[int]:
    """IDPruner (arXiv:2602.13315): the rows of all chosen gathered, and their maximum taken, each step."""
    chosen = [int(importance.argmax())]
    while len(chosen) < n:
        nearest = gram[chosen].amax(0)
        worth = balance * importance - (1 - balance) * nearest
        worth[chosen] = -torch.inf
        chosen.append(int(worth.argmax()))
    return chosen


def naive_coverage(
    gram: Float[Tensor, "tokens tokens"], saliency: Float[Tensor, " tokens"], n: int, alpha: float
) -> list[int]:
    """SCOPE (NeurIPS 2025): every step computes every token's gain in coverage anew."""
    covered = gram.new_zeros(len(gram))
    chosen: list[int] = []
    for _ in range(n):
        worth = (gram - covered[:, None]).clamp(min=0).sum(0) * saliency**alpha
        worth[chosen] = -torch.inf
        chosen.append(int(worth.argmax()))
        covered = covered.maximum(gram[:, chosen[-1]])
    return chosen
