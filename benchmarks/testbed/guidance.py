"""A push, early in the second course, for one layer to look where the question points.

Left alone, a model this small may first learn to read a summary of the scene at fixed places,
and stay there for long. So for the first part of the course the second layer is asked to look
at what a `where` question is about; for the rest it does as it likes.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from benchmarks.testbed.packed import PREFIX

LAYER = 1
"""Index of the layer that is pushed: the second."""

_FULL_UNTIL, _OVER_AT = 156, 325


def push(step: int) -> float:
    """Return the weight of the push: 1 until step 156, then down to 0 at step 325."""
    return min(1.0, max(0.0, (_OVER_AT - step) / (_OVER_AT - _FULL_UNTIL)))


@contextmanager
def watching(model: LlavaForConditionalGeneration) -> Generator[list[Tensor]]:
    """Collect the attention of layer `LAYER`, (batch, heads, total, total), at each forward."""
    attention: Any = model.model.language_model.layers[LAYER].self_attn
    config = attention.config
    attention.config = copy.copy(config)
    attention.config._attn_implementation_internal = "eager"
    seen: list[Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        seen.append(output[1])

    hook = attention.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()
        attention.config = config


def gaze_loss(attention: Tensor, places: Tensor, due: Tensor) -> tuple[Tensor, float]:
    """Ask for attention on the tokens that the thing asked for touches.

    Args:
        attention: Of packed questions, (batch, heads, total, total).
        places: Whether the thing touches a visual token, (batch, questions, tokens).
        due: Whether a coordinate is due next, (batch, questions, length).

    Returns:
        Mean negative logarithm of the attention on those tokens, heads averaged, over all
        positions where a coordinate is due; and the mean attention itself, in [0, 1].
    """
    on_image = attention[:, :, PREFIX:, 1:PREFIX].float().mean(dim=1)
    on_image = on_image.unflatten(1, due.shape[1:])
    on_thing = (on_image * places[:, :, None]).sum(dim=-1)[due]
    return -(on_thing + 1e-6).log().mean(), on_thing.mean().item()
