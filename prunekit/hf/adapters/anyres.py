"""LLaVA-NeXT and LLaVA-OneVision: a thumbnail, then tiles put together, without their padding.

The tiles of an image are one plane. Behind each of its rows stands a newline token, which is the last
column of the plane: it has no patch of its own, but its neighbours are the ends of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import ceil, sqrt
from typing import Any

import torch

from prunekit.hf.adapters.family import MISTRAL, VICUNA, Family, Layout, image_sizes
from prunekit.hf.grids import Grid, Picture

NEWLINE = Grid(1, 1)
"""A newline token that ends a picture, not a row: a plane of its own."""


def next_images(inputs: Mapping[str, Any], config: Any) -> Iterable[Picture]:
    """Thumbnail and tiles, by `image_sizes` in pixels (height, width)."""
    return [(_thumbnail(config), _lined(*_canvas(size, config))) for size in image_sizes(inputs)]


def onevision_images(inputs: Mapping[str, Any], config: Any) -> Iterable[Picture]:
    """The same, shrunk to so many tiles; where a row has several images, their thumbnails only."""
    sizes = image_sizes(inputs)
    counts = inputs.get("batch_num_images")
    counts = [1] * len(sizes) if counts is None else torch.as_tensor(counts).tolist()
    alone = [number == 1 for number in counts for _ in range(number)]
    return [
        (_thumbnail(config), _lined(*_shrunk(*_canvas(size, config), config)) if tiled else NEWLINE)
        for size, tiled in zip(sizes, alone, strict=False)
    ]


def pooled_videos(side: Callable[[int, Any], int], *end: Grid) -> Layout:
    """One plane a frame of `pixel_values_videos`, pooled to another side; then what ends the video."""

    def videos(inputs: Mapping[str, Any], config: Any) -> Iterable[Picture]:
        pooled, pixels = side(_side(config), config), inputs.get("pixel_values_videos")
        return [] if pixels is None else [(Grid(pooled, pooled, len(frames)), *end) for frames in pixels]

    return videos


def _side(config: Any) -> int:
    """Patches along a side of a tile."""
    return config.vision_config.image_size // config.vision_config.patch_size


def _thumbnail(config: Any) -> Grid:
    return Grid(_side(config), _side(config))


def _lined(rows: int, columns: int) -> Grid:
    """With a newline behind each row."""
    return Grid(rows, columns + 1)


def _canvas(size: list[int], config: Any) -> tuple[int, int]:
    """Rows and columns of patches that are left of the tiles, as the model itself works them out."""
    from transformers.models.llava_next import modeling_llava_next as model

    tile, side = config.vision_config.image_size, _side(config)
    down, across = model.get_anyres_image_grid_shape(size, config.image_grid_pinpoints, tile)
    rows, columns = model.unpad_image(torch.empty(0, down * side, across * side), size).shape[1:]
    return rows, columns


def _shrunk(rows: int, columns: int, config: Any) -> tuple[int, int]:
    """The same within the area of so many tiles; the model's packing has no function for it to be asked."""
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = sqrt(rows * columns / (most * _side(config) ** 2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


LLAVA_NEXT = Family(frozenset({"llava_next"}), next_images, tails=(VICUNA, MISTRAL))
LLAVA_NEXT_VIDEO = Family(
    frozenset({"llava_next_video"}),
    next_images,
    pooled_videos(lambda side, config: side // config.spatial_pool_stride),
    tails=(VICUNA, MISTRAL),
)
LLAVA_ONEVISION = Family(
    frozenset({"llava_onevision"}),
    onevision_images,
    pooled_videos(lambda side, config: ceil(side / 2), NEWLINE),
)
