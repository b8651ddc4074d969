"""Where each visual token looks, found by differentiating the real model: the grid by another way.

Pictures are made of coordinates: a pixel's three channels are its row, its column and the number of its
picture. The attention of the vision tower is silenced, so that a token depends on its own patches only. The
pixels by which its embedding changes then say, by their colour, what picture it shows, and where.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from families import IMAGE, VIDEO, Case, noise
from PIL import Image
from torch import Tensor, nn

from prunekit import TokenBatch

PIXELS = ("pixel_values", "pixel_values_videos")
OUTPUT = re.compile(r"(attn|attention)\.(out_proj|o_proj|proj|projection_layer)$")

Sight = tuple[int, float, float] | None
"""Picture, row and column; None for a token that looks nowhere, like a newline."""


def coordinates(numbers: Sequence[int], height: int, width: int) -> Tensor:
    """Pictures with these numbers from 1 on; 0 is one of padding only."""
    rows, columns = torch.meshgrid(torch.arange(height) + 1.0, torch.arange(width) + 1.0, indexing="ij")
    shown = [torch.stack([rows, columns, torch.full_like(rows, number)]) * (number > 0) for number in numbers]
    return torch.stack(shown)


def picture(number: int, height: int, width: int) -> Image.Image:
    """The same for an image processor."""
    return Image.fromarray(coordinates([number], height, width)[0].permute(1, 2, 0).numpy().astype(np.uint8))


def sights(case: Case) -> list[list[Sight]]:
    """What each visual token of each row looks at."""
    _silence(case.model)
    inputs = dict(case.inputs)
    leaves = {name: inputs[name].clone().requires_grad_() for name in PIXELS if name in inputs}
    embedded = _embedded(case.model, inputs | leaves)
    ids = inputs["input_ids"]
    visual = (ids == IMAGE) | (ids == VIDEO)
    probe = noise(embedded.shape[-1], seed=5)
    return [
        [_sight(embedded[row, column] @ probe, leaves) for column in visual[row].nonzero()[:, 0].tolist()]
        for row in range(len(ids))
    ]


def check(tokens: TokenBatch, seen: list[list[Sight]], shown: list[list[int]]) -> None:
    """Each plane shows its picture, its rows lie below each other and its columns side by side.

    Tokens that look nowhere are the last column of a plane, or a plane of their own.
    """
    for positions, present, looks, numbers in zip(tokens.positions, tokens.present, seen, shown, strict=True):
        cells = [tuple(cell) for cell in positions[present].tolist()]
        assert len(cells) == len(looks)
        assert cells == sorted(set(cells)), "raster order"
        found: dict[int, dict[tuple[int, int], Sight]] = {}
        for (plane, row, column), look in zip(cells, looks, strict=True):
            found.setdefault(plane, {})[row, column] = look
        assert [_check_plane(plane) for plane in found.values()] == numbers


def _check_plane(plane: dict[tuple[int, int], Sight]) -> int:
    """The number of the picture on it; 0 for a plane of one token that looks nowhere."""
    looks = {cell: look for cell, look in plane.items() if look is not None}
    if not looks:
        assert list(plane) == [(0, 0)]
        return 0
    rows, columns = (1 + max(cell[axis] for cell in looks) for axis in (0, 1))
    assert set(looks) == {(row, column) for row in range(rows) for column in range(columns)}
    assert set(plane) - set(looks) in (set(), {(row, columns) for row in range(rows)})
    for axis, lines in ((0, rows), (1, columns)):
        bands = [
            [look[1 + axis] for cell, look in looks.items() if cell[axis] == line] for line in range(lines)
        ]
        assert all(max(a) < min(b) for a, b in pairwise(bands))
    (number,) = {look[0] for look in looks.values()}
    return number


def _silence(model: Any) -> None:
    """What attention gives is nothing, but in the language model."""
    decoder = set(model.get_decoder().modules())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module not in decoder and OUTPUT.search(name):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class _Stop(Exception):
    """Ends a forward where the language model begins."""


def _embedded(model: Any, inputs: dict[str, Any]) -> Tensor:
    found: list[Tensor] = []

    def stop(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(named["inputs_embeds"])
        raise _Stop

    handle = model.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**inputs)
    except _Stop:
        return found[0]
    finally:
        handle.remove()
    raise AssertionError("the decoder was not reached")


def _sight(value: Tensor, leaves: dict[str, Tensor]) -> Sight:
    slopes = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
    weights, colours = [], []
    for leaf, slope in zip(leaves.values(), slopes, strict=True):
        if slope is not None:
            colours.append(_colours(leaf.detach()))
            weights.append(_colours(slope.abs()).sum(0))
    if not weights:
        return None
    colour, weight = torch.cat(colours, 1), torch.cat(weights)
    weight = weight * (colour[2] > 0)
    if not weight.any():
        return None
    row, column, _ = ((colour * weight).sum(1) / weight.sum()).tolist()
    (number,) = colour[2, weight > 0].unique().tolist()
    return int(number), row, column


def _colours(pixels: Tensor) -> Tensor:
    """(3, pixels), from pictures or from the flat patches of Qwen-VL and GLM-V."""
    if pixels.ndim == 2:
        pixels = pixels.reshape(len(pixels), 3, -1, 1)
    return pixels.movedim(-3, 0).flatten(1)
