"""What things are drawn on: stripes, checks, clouds and pieces of photographs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prunekit.testbed.objects import SIDE

TRAINING_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")
"""Photographs that training backgrounds are cut from."""

TEST_PHOTOGRAPHS = (*TRAINING_PHOTOGRAPHS, "rocket")
"""Photographs that test backgrounds are cut from: one of them was never seen in training."""

_FOLDER = Path(__file__).parent / "photographs"

Pixels = NDArray[np.float64]


def background(rng: np.random.Generator, photographs: tuple[str, ...]) -> Pixels:
    """Draw a muted background, so that the six colours of things stand out.

    Args:
        rng: Source of randomness.
        photographs: Names of the photographs a piece may be cut from.

    Returns:
        Array of shape (SIDE, SIDE, 3), values about 0 to 255, not yet clipped.
    """
    kind = int(rng.integers(4))
    if kind == 0:
        return _two_toned(rng, _stripes(rng))
    if kind == 1:
        return _two_toned(rng, _checks(rng))
    if kind == 2:
        return _two_toned(rng, _clouds(rng))
    return _piece(rng, photographs[int(rng.integers(len(photographs)))])


def _two_toned(rng: np.random.Generator, mixture: Pixels) -> Pixels:
    """Blend two near tones by `mixture` (SIDE, SIDE) in [0, 1], with a little grain."""
    dark = rng.uniform(60, 140) + rng.uniform(-25, 25, 3)
    light = np.clip(dark + rng.uniform(-35, 35) + rng.uniform(-8, 8, 3), 20, 200)
    grain = rng.normal(0, 6, (SIDE, SIDE, 1))
    return dark * mixture[..., None] + light * (1 - mixture[..., None]) + grain


def _stripes(rng: np.random.Generator) -> Pixels:
    """Soft stripes of any direction, 12 to 60 pixels apart."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    frequency, angle, phase = rng.uniform(0.1, 0.5), rng.uniform(0, np.pi), rng.uniform(0, 6.28)
    across = columns * np.cos(angle) + rows * np.sin(angle)
    return 0.5 + 0.5 * np.sin(frequency * across + phase)


def _checks(rng: np.random.Generator) -> Pixels:
    """A chessboard with squares of 6 to 19 pixels, anywhere in its period."""
    square, (down, right) = int(rng.integers(6, 20)), rng.integers(0, 40, 2)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    return (((columns + right) // square + (rows + down) // square) % 2).astype(np.float64)


def _clouds(rng: np.random.Generator) -> Pixels:
    """Smooth noise: the mean of three octaves of random values, scaled up."""
    octaves: list[Pixels] = []
    for scale in (8, 24, 64):
        coarse = (rng.random((SIDE // scale + 3, SIDE // scale + 3)) * 255).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        octaves.append(np.asarray(smooth, np.float64) / 255)
    return np.mean(octaves, axis=0)


def _piece(rng: np.random.Generator, name: str) -> Pixels:
    """A square cut out of a photograph, perhaps mirrored, with its contrast lowered."""
    pixels = photograph(name)
    top = int(rng.integers(pixels.shape[0] - SIDE + 1))
    left = int(rng.integers(pixels.shape[1] - SIDE + 1))
    piece = pixels[top : top + SIDE, left : left + SIDE]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    return piece.astype(np.float64) * rng.uniform(0.5, 0.7) + rng.uniform(15, 45)


@cache
def photograph(name: str) -> NDArray[np.uint8]:
    """Load a shipped photograph by name, as (height, width, 3) pixels."""
    with Image.open(_FOLDER / f"{name}.jpg") as file:
        return np.asarray(file.convert("RGB"), np.uint8)
