"""Two devices that are none: tensors are marked with where they are, and refuse to meet elsewhere.

Everything is computed on the CPU. Each torch function that is called from Python is watched: what it gives
is where its arguments are, arguments at two places are an error as on hardware, and only an explicit move
takes a tensor from one to the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

Device = torch.device
HOST, FIRST, SECOND = Device("cpu"), Device("xla:0"), Device("xla:1")
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}
"""What is on a device may be indexed from the host."""


def place(tensor: Tensor) -> Device:
    return getattr(tensor, "place", HOST)


def put(value: Any, where: Device) -> Any:
    """A value with its tensors marked."""

    def mark(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            leaf.place = where
        return leaf

    return tree_map(mark, value)


def moved(value: Any, where: Device) -> Any:
    """A value with its tensors there: copies of those that are not yet."""

    def move(leaf: Any) -> Any:
        elsewhere = isinstance(leaf, Tensor) and place(leaf) != where
        return put(leaf.clone(), where) if elsewhere else leaf

    return tree_map(move, value)


class Devices(TorchFunctionMode):
    """Watches where tensors meet."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.device.__get__:
            return place(args[0])
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        wanted = [leaf for leaf in leaves if isinstance(leaf, Device)]
        if func == Tensor.to and len(tensors) == 2:
            wanted = [place(tensors[1])]
        if func == Tensor.to and wanted:
            args = (moved(args[0], wanted[0]), *args[1:])
        elif func != Tensor.to:
            _refuse_meeting(func, tensors)
        home = wanted[0] if wanted else next((place(each) for each in tensors if place(each) != HOST), HOST)
        args, kwargs = tree_map(lambda leaf: HOST if isinstance(leaf, Device) else leaf, (args, kwargs or {}))
        return put(func(*args, **kwargs), home)


def _refuse_meeting(func: Any, tensors: list[Tensor]) -> None:
    homes = {place(tensor) for tensor in tensors if tensor.ndim}
    if func in INDEXING and place(tensors[0]) != HOST:
        homes -= {HOST}
    if len(homes) > 1:
        raise RuntimeError(f"{func.__name__}: tensors meet on {' and '.join(sorted(map(str, homes)))}")


@contextmanager
def split(model: Any, layer: int) -> Iterator[None]:
    """The model on the first device, but its layers from one on on the second; moved as accelerate does."""
    decoder = model.get_decoder()
    put([*model.parameters(), *model.buffers()], FIRST)
    handles = [decoder.norm.register_forward_pre_hook(lambda module, given: moved(given, FIRST))]

    def forth(module: nn.Module, given: Any, named: Any) -> Any:
        return moved(given, SECOND), moved(named, SECOND)

    for part in list(decoder.layers)[layer:]:
        put([*part.parameters(), *part.buffers()], SECOND)
        handles.append(part.register_forward_pre_hook(forth, with_kwargs=True))
    try:
        with Devices():
            yield
    finally:
        for handle in handles:
            handle.remove()
