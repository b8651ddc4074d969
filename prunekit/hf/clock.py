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
    """How long a call of `generate` took, once it has.

    Attributes:
        prefill_ms: Milliseconds of its first forward pass, hooks included.
        steps: How many forward passes came after.
        steps_ms: Milliseconds from the end of the first to the end of the block.
    """

    prefill_ms: float = 0.0
    steps: int = 0
    steps_ms: float = 0.0

    @property
    def decode_ms(self) -> float:
        """Milliseconds for each token after the first; 0 where there was none."""
        return self.steps_ms / self.steps if self.steps else 0.0


@contextmanager
def timed(model: PreTrainedModel) -> Generator[Timing]:
    """Measures the forward passes of a model inside the block: the prefill of `generate`, then its steps.

    Inside a `with attach(…)` block what pruning costs is in the times.
    """
    timing = Timing()
    times: list[float] = []

    def start(*_: object) -> None:
        if not times:
            times.append(now(model.device))

    def stop(*_: object) -> None:
        if len(times) == 1:
            times.append(now(model.device))
        else:
            timing.steps += 1

    hooks = [model.register_forward_pre_hook(start, prepend=True), model.register_forward_hook(stop)]
    try:
        yield timing
        if len(times) == 2:
            began, read = times
            timing.prefill_ms, timing.steps_ms = 1e3 * (read - began), 1e3 * (now(model.device) - read)
    finally:
        for hook in hooks:
            hook.remove()
