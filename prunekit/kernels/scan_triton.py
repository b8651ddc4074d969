"""The greedy walk as one Triton program a sample: thirty-two candidates at a time, settled as bits.

Inside a word of 32 the walk is found in rounds, as in `scan.rounds`, but in as many as it takes, at most 32.
From word to word it is sequential: the neighbours of those taken leave all later words at once. So the work
is bounded whatever the order of the candidates, and it ends where the room is used.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.bits import packed

MOST = 4096
"""How many candidates a program can hold."""

WORDS_PER_THREAD = 32
"""How many words of the adjacency a thread holds: a program reads 32 rows at once, of all words each."""


def walked(
    earlier: Bool[Tensor, "batch candidates candidates"],
    alive: Bool[Tensor, "batch candidates"],
    room: Int[Tensor, " batch"],
) -> tuple[Bool[Tensor, "batch candidates"], Bool[Tensor, " batch"]]:
    """Those taken of each sample, at most `room`: `scan.walked` with no value read on the host.

    For one sample or more, of 1 to `MOST` candidates.
    """
    later = packed(earlier.mT)
    batch, count, words = later.shape
    width = triton.next_power_of_2(words)
    picked = torch.zeros(batch, count, dtype=torch.bool, device=alive.device)
    with torch.cuda.device_of(later):
        _walk[(batch,)](
            later,
            alive.contiguous(),
            room.contiguous(),
            picked,
            count,
            width,
            num_warps=max(1, width // WORDS_PER_THREAD),  # pyright: ignore[reportCallIssue]
        )
    return picked, torch.ones_like(room, dtype=torch.bool)


# `no_type_check`: a checker that wraps the functions of a module would hide a kernel's source from Triton.


@triton.jit
@no_type_check
def _either(left, right):
    return left | right


@triton.jit
@no_type_check
def _has(bits, lane):
    return ((bits >> lane) & 1) != 0


@triton.jit
@no_type_check
def _walk(later, alive, room, picked, count, width: tl.constexpr):  # noqa: PLR0917
    """One sample. Bit t of `later[b, j, w]`: candidate 32w + t has an edge to candidate j."""
    sample = tl.program_id(0)
    words = tl.cdiv(count, 32)
    lane = tl.arange(0, 32)
    word = tl.arange(0, width)
    gone = word & 0
    left = tl.load(room + sample)
    block = 0
    while (block < words) & (left > 0):
        candidate = sample * count + block * 32 + lane
        real = block * 32 + lane < count
        living = tl.load(alive + candidate, mask=real, other=0).to(tl.int32)
        row = later + candidate * words
        # Only bits above a candidate's own stand for later ones. With no others left, every round settles
        # someone, whatever was given; a loop on a device that never ends takes the device with it.
        inside = tl.load(row + block, mask=real, other=0) & (-2 << lane)
        ahead = real[:, None] & ((word > block) & (word < words))[None, :]
        outside = tl.load(row[:, None] + word[None, :], mask=ahead, other=0)

        undecided = tl.sum(living << lane, 0) & ~tl.sum(tl.where(word == block, gone, 0), 0)
        taken = undecided & 0
        while undecided != 0:
            waiting = tl.reduce(tl.where(_has(undecided, lane), inside, 0), 0, _either)
            joining = undecided & ~waiting
            dropping = tl.reduce(tl.where(_has(joining, lane), inside, 0), 0, _either)
            taken |= joining
            undecided &= ~(joining | dropping)

        member = _has(taken, lane)
        member = member & (tl.cumsum(member.to(tl.int32), 0) <= left)
        tl.store(picked + candidate, member, mask=real)
        left -= tl.sum(member.to(tl.int32), 0)
        gone |= tl.reduce(tl.where(member[:, None], outside, 0), 0, _either)
        block += 1
