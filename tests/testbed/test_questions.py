"""Laws of the questions: they point at one thing, their answers are true, grading is fair."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunekit.testbed import COORDINATES, SIDE, WORDS, Box, Question, grade, scene, scenes
from prunekit.testbed.questions import CONTENT_FREE, ask, read_box, references, spell

seeds = st.integers(0, 2**40)
splits = st.sampled_from(["train", "test"])
ALL = re.compile(r"<\d+>|\w+|[^\w\s]")


def fitting(phrase, objects):
    """The things an expression such as "small red ring" is true of, found by reading it."""
    words = [word for word in phrase.split() if word != "thing"]
    return [o for o in objects if all(w in (o.shape, o.colour, o.size) for w in words)]


def true_answer(text, objects):
    """Answer a question by reading it and looking at the things."""
    if match := re.fullmatch(r"where is the (.+)\?", text):
        (thing,) = fitting(match[1], objects)
        return spell(thing.box)
    if match := re.fullmatch(r"what (colour|shape) is the (.+)\?", text):
        (thing,) = fitting(match[2], objects)
        return getattr(thing, match[1])
    if match := re.fullmatch(r"how many (\w+) things\?", text):
        return str(len(fitting(match[1], objects)))
    if match := re.fullmatch(r"how many (\w+)\?", text):
        return str(sum(match[1] in (f"{o.shape}s", f"{o.shape}es") for o in objects))
    match = re.fullmatch(r"is there a (.+)\?", text)
    assert match is not None
    return "yes" if fitting(match[1], objects) else "no"


@given(seed=seeds, split=splits)
def test_every_answer_is_true(seed, split):
    one = scene(seed, split)
    for question in one.questions:
        assert question.answer == true_answer(question.text, one.objects)


@given(seed=seeds)
def test_every_expression_points_at_one_thing(seed):
    objects = scene(seed).objects
    found = references(objects)
    assert {thing for thing, _ in found} == set(objects)
    for thing, form in found:
        assert fitting(form.phrase(thing), objects) == [thing]


@given(seed=seeds, split=splits)
def test_every_scene_asks_every_kind_once_and_places_twice(seed, split):
    one = scene(seed, split)
    kinds = [question.kind for question in one.questions]
    assert kinds == ["where", "where", "colour", "shape", "count", "exists"]
    assert len({question.text for question in one.questions}) == 6


@given(seed=seeds)
def test_a_negative_is_hard(seed):
    one = scene(seed)
    question = one.questions[-1]
    colour, shape = question.text[:-1].split()[-2:]
    assert colour in {thing.colour for thing in one.objects}
    assert shape in {thing.shape for thing in one.objects}


def test_answers_are_balanced():
    asked = [one.questions[-1].answer for one in scenes(300)]
    assert 0.4 < asked.count("yes") / len(asked) < 0.6


@given(seed=seeds, kind=st.sampled_from(["where", "colour", "shape", "count", "exists", "gist"]))
def test_every_word_is_in_the_word_list(seed, kind):
    question = ask(np.random.default_rng(seed), scene(seed).objects, kind)
    known = {*WORDS, *COORDINATES}
    if question is not None:
        assert set(ALL.findall(f"{question.text} {question.answer}")) <= known


def test_the_content_free_prompts_are_in_the_word_list():
    assert {word for prompt in CONTENT_FREE for word in ALL.findall(prompt)} <= set(WORDS)


@given(seed=seeds, split=splits)
def test_the_right_answer_is_right(seed, split):
    for question in scene(seed, split).questions:
        result = grade(question, question.answer)
        assert result.correct
        assert (result.iou is None) == (question.kind != "where")
        assert result.iou is None or result.iou > 0.7


@given(seed=seeds)
def test_another_place_is_wrong(seed):
    one = scene(seed)
    first, second = one.questions[:2]
    if first.box != second.box:
        assert not grade(first, second.answer).correct


@given(seed=seeds, text=st.text() | st.from_regex(r"(<\d{0,3}>\s?){0,6}", fullmatch=True))
def test_no_answer_breaks_grading(seed, text):
    for question in scene(seed).questions:
        result = grade(question, text)
        assert result.iou is None or 0.0 <= result.iou <= 1.0


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("red", True),
        ("RED", True),
        (" red. ", True),
        ("red red", True),
        ("blue", False),
        ("redder", False),
        ("the red", False),
        ("", False),
    ],
)
def test_a_word_is_right_by_its_first_word(answer, correct):
    question = Question("colour", "what colour is the ring?", "red")
    assert grade(question, answer).correct == correct


@pytest.mark.parametrize(
    ("answer", "iou"),
    [
        ("<10> <10> <19> <19>", 1.0),
        ("<10> <10> <19> <14>", 0.5),
        ("<10> <10> <19> <13>", 0.4),
        ("at <10><10> , <19><19> <1>", 1.0),
        ("<19> <19> <10> <10>", 0.0),
        ("<10> <10> <19>", 0.0),
        ("10 10 19 19", 0.0),
        ("nowhere", 0.0),
    ],
)
def test_a_box_is_graded_by_its_overlap(answer, iou):
    question = Question("where", "where is the ring?", "", Box(20, 20, 40, 40))
    result = grade(question, answer)
    assert result.iou == pytest.approx(iou)
    assert result.correct == (iou >= 0.5)


@given(seed=seeds)
def test_a_spelt_box_reads_back_to_the_pixel_pair(seed):
    for thing in scene(seed).objects:
        box = read_box(spell(thing.box))
        assert box is not None
        assert box.overlap(thing.box) == thing.box.area
        assert box.area <= (thing.box.width + 2) * (thing.box.height + 2)
        assert 0 <= box.left < box.right <= SIDE
