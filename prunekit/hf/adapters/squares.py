"""Families whose images, tiles and frames all have the same grid, each a plane of its own.

Tiles follow each other with text between them (Idefics3, SmolVLM, Aya Vision, Cohere2 Vision, Ovis2) or
without (InternVL, thumbnail last); frames of a video are marked as images are. Where a tile lies in its
image is not among the inputs, so that no two planes are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from math import isqrt
from typing import Any

from prunekit.hf.adapters.family import VICUNA, Family, Layout
from prunekit.hf.grids import Grid, Picture


def squares(merged: Callable[[Any], int]) -> Layout:
    """Images of one size each, so many patches a side merged into one token.

    The class token of a CLIP tower, where the model keeps it, goes before the grid, on a plane of its own.
    """

    def images(inputs: Mapping[str, Any], config: Any) -> Iterable[Picture]:
        del inputs
        image, patch = _sides(config, "image_size"), _sides(config, "patch_size")
        grid = Grid(*(whole // part // merged(config) for whole, part in zip(image, patch, strict=True)))
        picture = (Grid(1, 1), grid) if _keeps_class_token(config) else (grid,)
        return repeat(picture) if grid.size else ()

    return images


def _sides(config: Any, name: str) -> tuple[int, int]:
    """Height and width, for which some configurations give one number; (1, 1) where they give none."""
    size = getattr(config.vision_config, name, 1)
    return (size, size) if isinstance(size, int) else tuple(size)


def _keeps_class_token(config: Any) -> bool:
    full = getattr(config, "vision_feature_select_strategy", None) == "full"
    return full and config.vision_config.model_type == "clip_vision_model"


def _pooled(config: Any) -> int:
    """Gemma 3 averages patches until so many tokens are left, whatever the size of its images."""
    vision = config.vision_config
    return vision.image_size // vision.patch_size // isqrt(config.mm_tokens_per_image)


SQUARES = (
    Family(frozenset({"llava", "vipllava"}), squares(lambda config: 1), tails=(VICUNA,)),
    Family(frozenset({"paligemma", "janus"}), squares(lambda config: 1)),
    Family(frozenset({"internvl"}), squares(lambda config: round(1 / config.downsample_ratio))),
    Family(frozenset({"idefics3", "smolvlm"}), squares(lambda config: config.scale_factor)),
    Family(frozenset({"aya_vision", "cohere2_vision"}), squares(lambda config: config.downsample_factor)),
    Family(frozenset({"ovis2"}), squares(lambda config: config.vision_config.hidden_stride)),
    Family(frozenset({"gemma3"}), squares(_pooled)),
)
