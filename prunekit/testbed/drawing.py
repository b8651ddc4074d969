"""Arranging things on a canvas without overlap, and painting them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from prunekit.testbed.backgrounds import background
from prunekit.testbed.objects import COLOURS, SHAPES, SIDE, SIZES, Box, Object

PIXELS = {"small": (12, 18), "large": (24, 34)}
"""Least and greatest width and height of a thing of each size, in pixels."""

GAP = 2
"""Pixels left free between any two things, at least."""

_TONES = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (160, 50, 200),
    "white": (245, 245, 245),
}
_PLACEMENT_TRIES = 12


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How crowded a picture is.

    Attributes:
        least: Fewest things.
        most: Most things.
        small_share: Probability of a thing being small, in [0, 1].
    """

    least: int = 3
    most: int = 7
    small_share: float = 0.6


def arrange(rng: np.random.Generator, difficulty: Difficulty) -> tuple[Object, ...]:
    """Choose things and places for them.

    Colours and shapes come from a palette of three to five each, so that things share one
    or the other: naming a single attribute is often not enough to tell them apart. No two
    things agree in shape, colour and size at once.

    Args:
        rng: Source of randomness.
        difficulty: How many things, and how small.

    Returns:
        Between `difficulty.least` and `difficulty.most` things, `GAP` pixels apart or more.
    """
    while True:
        wanted = int(rng.integers(difficulty.least, difficulty.most + 1))
        palette = _palette(rng, SHAPES), _palette(rng, COLOURS)
        placed: list[Object] = []
        for _ in range(wanted):
            new = _place(rng, placed, palette, difficulty.small_share)
            if new is not None:
                placed.append(new)
        if len(placed) >= difficulty.least:
            return tuple(placed)


def _palette(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, ...]:
    """Three to five of the names, in random order."""
    order = rng.permutation(len(names))[: int(rng.integers(3, 6))]
    return tuple(names[int(index)] for index in order)


def _place(
    rng: np.random.Generator,
    placed: list[Object],
    palette: tuple[tuple[str, ...], tuple[str, ...]],
    small_share: float,
) -> Object | None:
    """Find a free place for one new thing; None when the picture seems full."""
    shapes, colours = palette
    for _ in range(_PLACEMENT_TRIES):
        size = SIZES[0] if rng.random() < small_share else SIZES[1]
        box = _random_box(rng, size)
        shape = shapes[int(rng.integers(len(shapes)))]
        colour = colours[int(rng.integers(len(colours)))]
        twin = any((o.shape, o.colour, o.size) == (shape, colour, size) for o in placed)
        if not twin and not any(box.grown(GAP).overlap(o.box) for o in placed):
            return Object(shape, colour, size, box)
    return None


def _random_box(rng: np.random.Generator, size: str) -> Box:
    """A box of the given size inside the picture, up to a third longer one way."""
    least, greatest = PIXELS[size]
    width = int(rng.integers(least, greatest + 1))
    height = int(np.clip(round(width * rng.uniform(0.75, 1.33)), least, greatest))
    left = int(rng.integers(SIDE - width + 1))
    top = int(rng.integers(SIDE - height + 1))
    return Box(left, top, left + width, top + height)


def paint(
    rng: np.random.Generator, objects: tuple[Object, ...], photographs: tuple[str, ...]
) -> NDArray[np.uint8]:
    """Paint things on a background.

    Args:
        rng: Source of randomness: background, tints and grain.
        objects: What to paint, in any order since nothing overlaps.
        photographs: Names of the photographs the background may be cut from.

    Returns:
        RGB picture of shape (SIDE, SIDE, 3).
    """
    canvas = background(rng, photographs)
    for thing in objects:
        box = thing.box
        cover = outline(thing.shape, box.width, box.height)[..., None]
        tone = np.clip(np.asarray(_TONES[thing.colour]) + rng.normal(0, 10, 3), 0, 255)
        grain = rng.normal(1, 0.05, (box.height, box.width, 1))
        under = canvas[box.top : box.bottom, box.left : box.right]
        canvas[box.top : box.bottom, box.left : box.right] = under * (1 - cover) + tone * grain * cover
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)


@cache
def outline(shape: str, width: int, height: int) -> NDArray[np.float64]:
    """Return how much of each pixel a shape covers, (height, width) in [0, 1].

    Four samples a pixel, on coordinates that run from -1 to 1 across the box.
    """
    across = np.abs((np.arange(2 * width) + 0.5) / width - 1)[None, :]
    down = ((np.arange(2 * height) + 0.5) / height - 1)[:, None]
    radius = across**2 + down**2
    inside = {
        "circle": radius < 1,
        "square": (across < 1) & (down < 1),
        "triangle": across < (down + 1) / 2,
        "diamond": across + np.abs(down) < 1,
        "cross": (across < 0.34) | (np.abs(down) < 0.34),
        "ring": (radius < 1) & (radius > 0.3),
    }[shape]
    samples = inside.reshape(height, 2, width, 2).astype(np.float64)
    cover: NDArray[np.float64] = samples.mean(axis=(1, 3))
    cover.setflags(write=False)
    return cover
