"""Measuring: what tensors do, by count, and how long it takes, by medians.

Counts say what milliseconds on a busy machine cannot: they are the same on every run, and on the CPU they
tell what an accelerator would have to launch and how often it would have to wait for the host.
"""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

READING_METHODS = frozenset({
    Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__,
    Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__complex__, Tensor.__index__,
})  # fmt: skip
"""What Python asks a tensor for; on the CPU some of it never becomes an operation."""

READING_OPS = frozenset({
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.allclose, aten.nonzero, aten.masked_select,
    aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.unique_dim_consecutive,
    aten.bincount,
})  # fmt: skip
"""Operations that give a Python value, or a shape that depends on values."""

INDEXING_OPS = frozenset({aten.index, aten._unsafe_index, aten.index_put, aten.index_put_})
"""Operations that look for what is True where an index is a mask."""

COPYING_OPS = frozenset({aten._to_copy, aten.copy_})
MASKS = (torch.bool, torch.uint8)

Called: TypeAlias = Callable[..., Any]
Handler: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class Counting:
    """Counts what is done on a device inside a `with` block; on the CPU, what an accelerator would do.

    A value fetched to the host is the host's: what is done with it there costs the device nothing and is not
    counted. On the CPU that is whatever comes from `Tensor.cpu()`. Of a copy from the host nothing is seen
    there, and of the memory neither NumPy's nor what operations use inside.

    Attributes:
        ops: Operations dispatched, views and copies to the host not counted: about what is launched.
        syncs: How often the host must wait for a value: it was read, decides a shape, or is copied from one
            device to another. Each counts once, however many operations it takes.
        peak_bytes: The most memory that tensors made inside the block held at once.

    Example:
        >>> with Counting() as counted:
        ...     total = float(torch.ones(1000).sum())
        >>> counted.syncs, counted.peak_bytes
        (1, 4004)
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.ops = self.syncs = self.peak_bytes = 0
        self._modes = ExitStack()
        self._reading = False
        self._before = self._held = 0
        self._sizes: dict[int, int] = {}
        self._fetched: set[int] = set()
        self._ends: list[weakref.finalize[..., Any]] = []

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        self._modes.enter_context(_Operations(self._operation))
        self._modes.enter_context(_Methods(self._method))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()
        for end in self._ends:
            end.detach()
        if self.device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device) - self._before

    def _method(self, function: Called, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Does what Python asks for; a read is one, whatever operations it takes."""
        if function not in READING_METHODS or not self._concerns(given[0]):
            return function(*given, **named)
        self.syncs += 1
        self._reading = True
        try:
            found = function(*given, **named)
            if function is Tensor.cpu:
                found = found.clone() if found is given[0] else found
                self._know(found)
                self._fetched.add(_memory(found))
            return found
        finally:
            self._reading = False

    def _operation(self, function: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Does an operation, and counts it, the reads in it, and the memory of what it gives."""
        asked = _tensors((given, named))
        if function.overloadpacket is not aten.lift_fresh:
            for tensor in asked:
                self._know(tensor)
        found = function(*given, **named)
        made = _tensors(found)
        if asked and all(_memory(tensor) in self._fetched for tensor in asked):
            for tensor in made:
                self._know(tensor)
                self._fetched.add(_memory(tensor))
        elif not self._reading and any(map(self._concerns, (*asked, *made))):
            self.ops += not (function.is_view or function.overloadpacket is aten._unsafe_view)
            self.syncs += _reads(function, given, named, {tensor.device for tensor in (*asked, *made)})
            for tensor in filter(self._concerns, made):
                self._know(tensor, tensor.untyped_storage().nbytes())
        return found

    def _concerns(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the device, and not a host's copy of what is there."""
        return tensor.device.type == self.device.type and _memory(tensor) not in self._fetched

    def _know(self, tensor: Tensor, size: int = 0) -> None:
        """Notes memory when it is first met, with what it counts for until it is given back."""
        memory = _memory(tensor)
        if memory in self._sizes:
            return
        self._sizes[memory] = size
        self._held += size
        self.peak_bytes = max(self.peak_bytes, self._held)
        self._ends.append(weakref.finalize(tensor.untyped_storage(), self._forget, memory))

    def _forget(self, memory: int) -> None:
        self._held -= self._sizes.pop(memory)
        self._fetched.discard(memory)


class _Methods(TorchFunctionMode):
    """Hands over every call of a method or function of torch made in Python."""

    def __init__(self, called: Handler) -> None:
        super().__init__()
        self.called = called

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.called(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    """Hands over every operation that is dispatched."""

    def __init__(self, called: Handler) -> None:
        super().__init__()
        self.called = called

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.called(func, args, kwargs or {})


def _reads(function: Any, given: tuple[Any, ...], named: dict[str, Any], devices: set[torch.device]) -> bool:
    """Whether the host must wait for a value before this operation is done."""
    name = function.overloadpacket
    if name in INDEXING_OPS:
        return any(index.dtype in MASKS for index in _tensors(given[1]))
    if name is aten.repeat_interleave:
        return named.get("output_size") is None
    return name in READING_OPS or (name in COPYING_OPS and len(devices) > 1)


def _tensors(held: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    """What tells the memory of a tensor from any other that is there at the same time."""
    return tensor.untyped_storage()._cdata


def median_ms(
    *calls: Callable[[], object],
    device: torch.device | str = "cpu",
    runs: int = 7,
    warm_up: int = 2,
    patience: float = math.inf,
) -> list[float]:
    """The median time of each call in milliseconds, the first `warm_up` rounds not counted.

    A round makes each call once, so that what else the machine does slows all of them alike and leaves their
    ratios. No round starts after `patience` seconds; if not even one is counted by then, the last is. On a
    CUDA device times are taken between events on its stream, so that work queued there is waited for.
    """
    where = torch.device(device)
    clock = partial(_cuda_ms, where) if where.type == "cuda" else _host_ms
    rounds: list[list[float]] = []
    end = time.perf_counter() + patience
    while len(rounds) < warm_up + runs and (not rounds or time.perf_counter() < end):
        rounds.append([clock(call) for call in calls])
    return [statistics.median(spans) for spans in zip(*(rounds[warm_up:] or rounds[-1:]), strict=True)]


def _host_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _cuda_ms(device: torch.device, call: Callable[[], object]) -> float:
    with torch.cuda.device(device):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
