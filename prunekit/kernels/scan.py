"""The greedy walk on a ready adjacency: in order, take a candidate unless a neighbour was taken before.

One function in three forms, of the same answer wherever they say that it is exact:

- `walked`, where values can be read: a loop over candidates whose neighbours are the bits of one integer;
- `rounds`, where they must not be: a fixed number of rounds, each of which decides on many at once;
- `scanned`, the door for accelerators: one Triton program a sample where that runs, else `rounds`.

Of `earlier` only what lies below the diagonal is read: `earlier[b, i, j]` says that candidate i has an edge
to candidate j, who comes before it. Dead candidates are not taken, and stand in nobody's way.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import numpy
import torch
from jaxtyping import Bool, Int
from torch import Tensor


def walked(
    earlier: Bool[Tensor, "batch candidates candidates"],
    alive: Bool[Tensor, "batch candidates"],
    room: Int[Tensor, " batch"],
) -> Bool[Tensor, "batch candidates"]:
    """Those taken of each sample, at most `room`, by walking candidate by candidate on the host.

    Returns:
        Whom the walk takes.
    """
    if not alive.numel():
        return alive.clone()
    count = alive.shape[-1]
    octets = -(-count // 8)
    # Fixed-width byte strings come back without their trailing zeros: no loss, as those are the highest bits.
    strings = numpy.packbits(earlier.cpu().numpy(), axis=-1, bitorder="little").view(f"S{octets}")
    walks: list[bytes] = []
    for rows, living, left in zip(strings[..., 0].tolist(), alive.tolist(), room.tolist(), strict=True):
        walks.append(_walk(rows, living, left).to_bytes(octets, "little"))
    taken = numpy.frombuffer(b"".join(walks), numpy.uint8).reshape(-1, octets)
    picked = numpy.unpackbits(taken, axis=-1, count=count, bitorder="little").view(numpy.bool_)
    return torch.from_numpy(picked).to(alive.device)


def _walk(rows: list[bytes], living: list[bool], left: int) -> int:
    """The candidates taken of one sample, as bits; a row is the bits of the candidate's neighbours."""
    taken, bit = 0, 1
    if left <= 0:
        return taken
    for row, lives in zip(rows, living, strict=True):
        if lives and not (row and int.from_bytes(row, "little") & taken):
            taken |= bit
            left -= 1
            if not left:
                break
        bit <<= 1
    return taken


def rounds(
    earlier: Bool[Tensor, "batch candidates candidates"],
    alive: Bool[Tensor, "batch candidates"],
    room: Int[Tensor, " batch"],
    times: int = 16,
) -> tuple[Bool[Tensor, "batch candidates"], Bool[Tensor, " batch"]]:
    """Those taken of each sample, at most `room`, in `times` rounds, reading no value on the host.

    In each round all join who have no undecided earlier neighbour, and their later neighbours drop out
    (Blelloch et al., arXiv:1202.3205). A path of n candidates needs n / 2 rounds, so a fixed number may leave
    some undecided; they are not taken.

    Returns:
        The first `room` of those known to be taken, and whether that is the walk's answer: no one is
        undecided before the room is used. Where it is not, those picked are still independent, and each of
        them is taken by the walk that has room for all.
    """
    earlier = earlier.tril(-1)
    undecided, picked = alive, torch.zeros_like(alive)
    for _ in range(times):
        waiting = (earlier & undecided[:, None]).any(-1)
        joining = undecided & ~waiting
        picked = picked | joining
        undecided = undecided & waiting & ~(earlier & joining[:, None]).any(-1)
    rank = picked.cumsum(-1)
    exact = ~(undecided & (rank < room[:, None])).any(-1)
    return picked & (rank <= room[:, None]), exact


def scanned(
    earlier: Bool[Tensor, "batch candidates candidates"],
    alive: Bool[Tensor, "batch candidates"],
    room: Int[Tensor, " batch"],
    times: int = 16,
) -> tuple[Bool[Tensor, "batch candidates"], Bool[Tensor, " batch"]]:
    """Those taken of each sample, at most `room`, reading no value on the host after a device's first call.

    A device's first call tries Triton on a small case, so it must not be one that a CUDA graph records.
    Where the answer is wrong or none comes, a warning says so once, and `times` rounds do the work; where
    Triton is not installed, or on other devices, they do it without a word.

    Returns:
        What `rounds` returns; exact wherever Triton runs, which it does for not too many candidates.
    """
    if alive.is_cuda and alive.numel() and _triton_runs(alive.device):
        from prunekit.kernels import scan_triton

        if alive.shape[-1] <= scan_triton.MOST:
            return scan_triton.walked(earlier, alive, room)
    return rounds(earlier, alive, room, times)


@cache
def _triton_runs(device: torch.device) -> bool:
    """Whether Triton gives the walk's answer on this device: to two samples of three words, one cut short."""
    if find_spec("triton") is None:
        return False
    places = torch.arange(70)
    distance = places[:, None] - places
    earlier = ((distance == 1) | (distance == 37)).expand(2, -1, -1)
    alive = torch.stack([places >= 0, places > 0])
    room = torch.tensor([70, 20])
    try:
        from prunekit.kernels import scan_triton

        picked, _ = scan_triton.walked(earlier.to(device), alive.to(device), room.to(device))
        agrees = torch.equal(picked.cpu(), walked(earlier, alive, room))
        reason = "it gives a wrong answer to a known case"
    except Exception as error:
        agrees, reason = False, f"{type(error).__name__}: {error}"
    if not agrees:
        warnings.warn(
            f"Triton is installed but not used on {device} ({reason}). The greedy scan runs in plain torch "
            "instead: slower, and not always exact.",
            RuntimeWarning,
            stacklevel=3,
        )
    return agrees
