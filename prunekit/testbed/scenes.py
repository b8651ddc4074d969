"""Scenes: a picture, what is in it, and questions about it, all from one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prunekit.testbed.backgrounds import TEST_PHOTOGRAPHS, TRAINING_PHOTOGRAPHS
from prunekit.testbed.drawing import Difficulty, arrange, paint
from prunekit.testbed.objects import Object
from prunekit.testbed.questions import Kind, Question, ask

Split = Literal["train", "test"]

ASKED: tuple[Kind, ...] = ("where", "where", "colour", "shape", "count", "exists")
"""The questions every scene carries."""

SET_SIZE = 1_000_000
"""Scenes in one set: set `s` holds the scenes with seeds from `s * SET_SIZE` on."""

_STREAMS: dict[Split, int] = {"train": 0, "test": 1}
_STANDARD = Difficulty()


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture with questions.

    Attributes:
        image: RGB pixels, shape (SIDE, SIDE, 3), uint8.
        objects: The things in it; no two overlap.
        questions: One of each kind in `ASKED`, no two alike.
        seed: The number that `scene` makes it from.
    """

    image: NDArray[np.uint8]
    objects: tuple[Object, ...]
    questions: tuple[Question, ...]
    seed: int


def generator(seed: int, split: Split) -> np.random.Generator:
    """Return the random stream of one scene; streams of the two splits never meet."""
    return np.random.default_rng([_STREAMS[split], seed])


def scene(seed: int, split: Split = "test", difficulty: Difficulty = _STANDARD) -> Scene:
    """Make the scene with a given seed: the same one on every machine.

    Args:
        seed: Any number from 0 on.
        split: `"test"` scenes share no random stream with `"train"` scenes, and use one
            photograph more.
        difficulty: How many things, and how small.

    Returns:
        A scene with three to seven things and six questions, unless `difficulty` says
        otherwise.
    """
    rng = generator(seed, split)
    while True:
        objects = arrange(rng, difficulty)
        asked = [ask(rng, objects, kind) for kind in ASKED]
        questions = tuple(question for question in asked if question is not None)
        if len({question.text for question in questions}) == len(ASKED):
            break
    photographs = TEST_PHOTOGRAPHS if split == "test" else TRAINING_PHOTOGRAPHS
    return Scene(paint(rng, objects, photographs), objects, questions, seed)


def scenes(count: int, seed: int = 0, split: Split = "test") -> tuple[Scene, ...]:
    """Make a set of scenes.

    Args:
        count: How many, at most `SET_SIZE`.
        seed: Number of the set, from 0 on; sets share no scene, and a larger `count` only
            adds scenes at the end.
        split: As for `scene`.

    Returns:
        `count` scenes.

    Raises:
        ValueError: If `count` is negative or greater than `SET_SIZE`.
    """
    if not 0 <= count <= SET_SIZE:
        raise ValueError(f"count is {count}: a set holds 0 to {SET_SIZE} scenes")
    return tuple(scene(seed * SET_SIZE + index, split) for index in range(count))
