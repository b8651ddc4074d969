"""What is asked about a picture, in which words, and how an answer is graded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunekit.testbed.objects import COLOURS, SHAPES, SIDE, SIZES, Box, Object

Kind = Literal["where", "colour", "shape", "count", "exists", "gist"]
"""What a question asks for. No test scene asks for the gist: it is the content-free prompt."""

BIN = 2
"""Pixels in one coordinate step: `<k>` names pixels `BIN * k` to `BIN * k + BIN - 1`."""

COORDINATES = tuple(f"<{step}>" for step in range(SIDE // BIN))
"""The coordinate words, `<0>` to `<47>`."""

CONTENT_FREE = (
    "describe the picture.",
    "describe the image.",
    "describe this picture.",
    "describe this image.",
    "what is in the picture?",
    "what is in this image?",
)
"""Prompts that ask for nothing in particular; the answer is the number of things."""

ENOUGH = 0.5
"""Least intersection over union for which a box is right."""

_PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}

WORDS = (
    *("where", "what", "how", "many", "is", "are", "there", "a", "the", "this", "in"),
    *("describe", "picture", "image", "colour", "shape", "thing", "things", "yes", "no"),
    *("?", "."),
    *SHAPES,
    *_PLURALS.values(),
    *COLOURS,
    *SIZES,
    *(str(number) for number in range(10)),
)
"""Every word of questions and answers, save the coordinates."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its only right answer.

    Attributes:
        kind: What is asked for.
        text: Such as `"where is the small red triangle?"`.
        answer: Such as `"red"`, `"3"`, `"no"` or `"<12> <30> <19> <37>"`.
        box: For `where`, the box of the thing asked for, in pixels; otherwise None.
    """

    kind: Kind
    text: str
    answer: str
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Grade:
    """How good an answer is.

    Attributes:
        correct: Whether it counts as right.
        iou: For `where`, intersection over union with the true box, in [0, 1]; otherwise None.
    """

    correct: bool
    iou: float | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """Which attributes an expression names: `Form(True, True, False)` is `"red ring"`."""

    shape: bool
    colour: bool
    size: bool

    def fits(self, thing: Object, other: Object) -> bool:
        """Whether the expression made for `thing` is also true of `other`."""
        return (
            (not self.shape or thing.shape == other.shape)
            and (not self.colour or thing.colour == other.colour)
            and (not self.size or thing.size == other.size)
        )

    def phrase(self, thing: Object) -> str:
        """Put the named attributes into words, such as `"small red thing"`."""
        words = [thing.size] if self.size else []
        words += [thing.colour] if self.colour else []
        words += [thing.shape if self.shape else "thing"]
        return " ".join(words)


FORMS = (
    Form(True, True, True),
    Form(True, True, False),
    Form(True, False, True),
    Form(False, True, True),
    Form(True, False, False),
    Form(False, True, False),
)
"""All forms in use, redundant and minimal; size alone is never enough to point at a thing."""


def references(objects: Sequence[Object]) -> list[tuple[Object, Form]]:
    """List every expression that is true of exactly one thing."""
    return [
        (thing, form)
        for thing in objects
        for form in FORMS
        if sum(form.fits(thing, other) for other in objects) == 1
    ]


def ask(rng: np.random.Generator, objects: Sequence[Object], kind: Kind) -> Question | None:
    """Think of one question about the things in a picture.

    Args:
        rng: Source of randomness.
        objects: At least one thing.
        kind: What to ask for.

    Returns:
        The question, or None where nothing in the picture can be asked for in that way
        (no thing that is unique without its colour, say).
    """
    if kind == "count":
        return _count(rng, objects)
    if kind == "exists":
        return _exists(rng, objects)
    if kind == "gist":
        prompt = CONTENT_FREE[int(rng.integers(len(CONTENT_FREE)))]
        return Question(kind, prompt, f"{len(objects)} things")
    return _point(rng, objects, kind)


def _point(rng: np.random.Generator, objects: Sequence[Object], kind: Kind) -> Question | None:
    """Ask for the box, colour or shape of a thing that an expression singles out."""
    choices = [
        (thing, form)
        for thing, form in references(objects)
        if not (kind == "colour" and form.colour) and not (kind == "shape" and form.shape)
    ]
    if not choices:
        return None
    candidates = list(dict.fromkeys(thing for thing, _ in choices))
    thing = candidates[int(rng.integers(len(candidates)))]
    forms = [form for other, form in choices if other is thing]
    phrase = forms[int(rng.integers(len(forms)))].phrase(thing)
    if kind == "where":
        return Question(kind, f"where is the {phrase}?", spell(thing.box), thing.box)
    answer = thing.colour if kind == "colour" else thing.shape
    return Question(kind, f"what {kind} is the {phrase}?", answer)


def _count(rng: np.random.Generator, objects: Sequence[Object]) -> Question:
    """Ask how many things have a shape or a colour, mostly one that is there."""
    model = objects[int(rng.integers(len(objects)))]
    absent = rng.random() < 0.15
    if rng.random() < 0.5:
        shape = SHAPES[int(rng.integers(len(SHAPES)))] if absent else model.shape
        number = sum(thing.shape == shape for thing in objects)
        return Question("count", f"how many {_PLURALS[shape]}?", str(number))
    colour = COLOURS[int(rng.integers(len(COLOURS)))] if absent else model.colour
    number = sum(thing.colour == colour for thing in objects)
    return Question("count", f"how many {colour} things?", str(number))


def _exists(rng: np.random.Generator, objects: Sequence[Object]) -> Question | None:
    """Ask whether a coloured shape is there; where it is not, both halves of it are."""
    there = {(thing.colour, thing.shape) for thing in objects}
    colours = sorted({colour for colour, _ in there})
    shapes = sorted({shape for _, shape in there})
    absent = [(c, s) for c in colours for s in shapes if (c, s) not in there]
    choices = sorted(there) if rng.random() < 0.5 else absent
    if not choices:
        return None
    colour, shape = choices[int(rng.integers(len(choices)))]
    answer = "yes" if (colour, shape) in there else "no"
    return Question("exists", f"is there a {colour} {shape}?", answer)


def spell(box: Box) -> str:
    """Write a box in coordinate words: first column, first row, last column, last row."""
    ends = (box.left, box.top, box.right - 1, box.bottom - 1)
    return " ".join(COORDINATES[end // BIN] for end in ends)


def read_box(text: str) -> Box | None:
    """Read the first four coordinate words of a text as a box; None if there are fewer."""
    steps = [int(digits) for digits in re.findall(r"<(\d{1,2})>", text, re.ASCII)[:4]]
    if len(steps) < 4:
        return None
    left, top, right, bottom = steps
    return Box(BIN * left, BIN * top, BIN * (right + 1), BIN * (bottom + 1))


def grade(question: Question, answer_text: str) -> Grade:
    """Grade what a model answered.

    A box is right if its intersection over union with the true box is `ENOUGH` or more;
    a text without four coordinate words has 0. Any other answer is right if its first word
    is the first word of the right answer, whatever the case.

    Args:
        question: What was asked.
        answer_text: The decoded answer; any text at all.

    Returns:
        The grade; never an exception.
    """
    if question.box is not None:
        box = read_box(answer_text)
        iou = box.iou(question.box) if box is not None else 0.0
        return Grade(iou >= ENOUGH, iou)
    words = re.findall(r"\w+", answer_text.lower())
    return Grade(words[:1] == question.answer.split()[:1])
