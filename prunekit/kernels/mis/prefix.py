"""The walk over the best candidates at once: static shapes, and nothing read."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.known import Pick
from prunekit.kernels.mis.walk import Independent, Web
from prunekit.kernels.ranking import NEVER
from prunekit.kernels.scan import scanned


def prefix(
    key: Int[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
    web: Web,
    around: Bool[Tensor, "batch tokens"] | None = None,
    *,
    block: int,
    most: int,
) -> Independent:
    """Walks among the best `block` candidates only, all compared at once; shapes are static, nothing is read.

    Exact wherever these hold enough tokens to use the room, or are all there are.

    Args:
        key: As for `lazy`.
        room: As for `lazy`.
        web: As for `lazy`.
        around: As for `lazy`; at most `most` tokens a sample.
        block: How many candidates are looked at.
        most: The most tokens of `around`.
    """
    best, places = key.topk(block)
    known = web.known(Pick(places))
    alive = best != NEVER
    if around is not None:
        real, near = around.int().topk(min(most, key.shape[-1]))
        alive = alive & ~(web.joins(known, web.known(Pick(near))) & (real == 1)[:, None]).any(-1)
    picked, exact = scanned(web.joins(known, known), alive, room)
    taken = torch.zeros_like(key, dtype=torch.bool).scatter(-1, places, picked)
    seen_all = (key != NEVER).sum(-1) <= block
    return Independent(taken, exact & (seen_all | (picked.sum(-1) >= room)))
