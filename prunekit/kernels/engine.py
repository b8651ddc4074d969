"""The two ways kernels run: where values can be read for nothing, and where reading one stops the machine."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch

Engine: TypeAlias = Literal["host", "device"]
"""`host`: values are read as work goes on, so it stops early and skips what it need not do. `device`: shapes
depend on nothing but sizes, and no value is read, so an accelerator never waits for the host."""

ENGINES: tuple[Engine, ...] = get_args(Engine)


def engine_for(device: torch.device) -> Engine:
    """The engine that suits a device: `host` on the CPU, `device` on accelerators."""
    return "host" if device.type == "cpu" else "device"
