"""Time, told when the device is done with what it was asked so far."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


def now(device: torch.device) -> float:
    """The time in seconds at which everything asked of a device so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(slots=True)
class Timing:
    """How long something took, once it has."""

    milliseconds: float = 0.0


@contextmanager
def first_forward(model: PreTrainedModel) -> Generator[Timing]:
    """Measures the first forward pass of a model inside the block: the prefill of `generate`, unpruned."""
    timing = Timing()
    started: list[float] = []

    def start(*_: object) -> None:
        started.append(now(model.device))

    def stop(*_: object) -> None:
        if len(started) == 1:
            timing.milliseconds = 1e3 * (now(model.device) - started[0])

    hooks = [model.register_forward_pre_hook(start), model.register_forward_hook(stop)]
    try:
        yield timing
    finally:
        for hook in hooks:
            hook.remove()
