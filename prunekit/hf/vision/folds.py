"""How values of patches become values of tokens: the mean of the patches that a token is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunekit.errors import UnsupportedModel

Patches = Float[Tensor, "images patches channels"]
Tokens = Float[Tensor, "images tokens channels"]

Fold = Callable[[Patches, int, Mapping[str, Any], Any], Tokens]
"""From patches, the number of tokens an image, the arguments of the call and the model without its head."""


def squares(patches: Patches, tokens: int, given: Mapping[str, Any], base: Any) -> Tokens:
    """Images of one size, square blocks of patches a token; what the model cuts off stands in front."""
    del given, base
    side = isqrt(patches.shape[1] // tokens)
    patches = patches[:, -tokens * side**2 :]
    if side == 1:
        return patches
    across = isqrt(patches.shape[1])
    if across**2 != patches.shape[1] or across % side:
        raise UnsupportedModel(
            f"{tokens} visual tokens do not lie on {patches.shape[1]} patches in square blocks, so what the "
            "vision tower says of patches cannot be said of tokens."
        )
    return _blocks(patches, across, across, side)


def runs(patches: Patches, tokens: int, given: Mapping[str, Any], base: Any) -> Tokens:
    """As many patches a token, one behind the other."""
    del given, base
    return patches.unflatten(1, (tokens, -1)).mean(2)


def sized(patches: Patches, tokens: int, given: Mapping[str, Any], base: Any) -> Tokens:
    """All images in one row, each of a size of its own, square blocks of patches a token."""
    del tokens
    sizes = torch.as_tensor(given["image_sizes"]) // base.vision_tower.patch_size
    ends = [0, *sizes.prod(1).cumsum(0).tolist()]
    side = base.config.spatial_merge_size
    parts = [
        _blocks(patches[:, start:stop], rows, columns, side)
        for (start, stop), (rows, columns) in zip(pairwise(ends), sizes.tolist(), strict=True)
    ]
    return torch.cat(parts, 1)


def _blocks(patches: Patches, rows: int, columns: int, side: int) -> Tokens:
    """The means of square blocks; rows and columns that fill no block are left out."""
    down, across = rows // side, columns // side
    grid = patches.unflatten(1, (rows, columns))[:, : down * side, : across * side]
    return grid.unflatten(2, (across, side)).unflatten(1, (down, side)).mean((2, 4)).flatten(1, 2)
