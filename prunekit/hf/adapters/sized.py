"""Families with a Pixtral tower: images of any size, a break token behind every row.

The break tokens have ids of their own and are text to prunekit; the patches between them are one plane.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prunekit.hf.adapters.family import TEKKEN, Family, image_sizes
from prunekit.hf.grids import Grid, Picture


def sized(inputs: Mapping[str, Any], config: Any) -> Iterable[Picture]:
    """One plane an image, by `image_sizes` in pixels (height, width)."""
    step = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    return [(Grid(height // step, width // step),) for height, width in image_sizes(inputs)]


PIXTRAL = Family(frozenset({"pixtral"}), sized, tails=(TEKKEN,))
