"""Laws of the pictures: the same for the same seed, nothing outside, nothing on top."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.testbed import COLOURS, GRID, SHAPES, SIDE, SIZES, Box, Difficulty, scene, scenes
from prunekit.testbed.backgrounds import TEST_PHOTOGRAPHS, TRAINING_PHOTOGRAPHS, photograph
from prunekit.testbed.drawing import GAP, PIXELS, outline

seeds = st.integers(0, 2**40)
splits = st.sampled_from(["train", "test"])
edges = st.integers(0, SIDE)
boxes = st.builds(Box, edges, edges, edges, edges)


@given(seed=seeds, split=splits)
def test_a_seed_gives_one_scene(seed, split):
    first, second = scene(seed, split), scene(seed, split)
    assert np.array_equal(first.image, second.image)
    assert (first.objects, first.questions) == (second.objects, second.questions)
    assert first.seed == seed


@given(seed=seeds)
def test_splits_share_no_picture(seed):
    assert not np.array_equal(scene(seed, "train").image, scene(seed, "test").image)


def test_sets_share_no_picture():
    pictures = {
        one.image.tobytes() for split in ("train", "test") for s in (0, 1) for one in scenes(20, s, split)
    }
    assert len(pictures) == 80


def test_a_larger_set_begins_like_a_smaller_one():
    assert [one.objects for one in scenes(3, 5)] == [one.objects for one in scenes(6, 5)][:3]


@pytest.mark.parametrize("count", [-1, 1_000_001])
def test_a_set_has_a_size(count):
    with pytest.raises(ValueError, match="a set holds"):
        scenes(count)


@given(seed=seeds, split=splits)
def test_things_lie_inside_and_apart(seed, split):
    one = scene(seed, split)
    assert one.image.shape == (SIDE, SIDE, 3)
    assert one.image.dtype == np.uint8
    assert 3 <= len(one.objects) <= 7
    for thing in one.objects:
        least, greatest = PIXELS[thing.size]
        assert 0 <= thing.box.left < thing.box.right <= SIDE
        assert 0 <= thing.box.top < thing.box.bottom <= SIDE
        assert least <= thing.box.width <= greatest
        assert least <= thing.box.height <= greatest
    for first, second in combinations(one.objects, 2):
        assert first.box.grown(GAP).overlap(second.box) == 0
        assert (first.shape, first.colour, first.size) != (second.shape, second.colour, second.size)


@given(seed=seeds)
def test_things_are_painted_where_they_are(seed):
    """The middle of everything but a ring is of its colour's hue."""
    one = scene(seed)
    leading = {"red": 0, "green": 1, "blue": 2}
    for thing in one.objects:
        if thing.shape == "ring" or thing.colour not in leading:
            continue
        row, column = (
            (thing.box.top + thing.box.bottom) // 2,
            (thing.box.left + thing.box.right) // 2,
        )
        assert one.image[row, column].argmax() == leading[thing.colour]


@settings(max_examples=20)
@given(seed=seeds)
def test_difficulty_is_obeyed(seed):
    one = scene(seed, difficulty=Difficulty(least=4, most=5, small_share=1.0))
    assert len(one.objects) in (4, 5)
    assert {thing.size for thing in one.objects} == {"small"}


def test_everything_occurs():
    things = [thing for one in scenes(100) for thing in one.objects]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.size for thing in things} == set(SIZES)


@given(first=boxes, second=boxes)
def test_overlap_counts_pixels(first, second):
    def mask(box: Box) -> np.ndarray:
        pixels = np.zeros((SIDE, SIDE), bool)
        pixels[box.top : box.bottom, box.left : box.right] = True
        return pixels

    shared, union = (mask(first) & mask(second)).sum(), (mask(first) | mask(second)).sum()
    assert first.overlap(second) == shared
    assert first.iou(second) == pytest.approx(shared / union if union else 0.0)


@given(seed=seeds)
def test_a_box_touches_the_tokens_its_pixels_are_in(seed):
    for thing in scene(seed).objects:
        pixels = np.zeros((SIDE, SIDE), bool)
        pixels[thing.box.top : thing.box.bottom, thing.box.left : thing.box.right] = True
        patches = pixels.reshape(GRID, SIDE // GRID, GRID, SIDE // GRID).any(axis=(1, 3))
        assert tuple(np.flatnonzero(patches)) == thing.box.tokens()


@given(shape=st.sampled_from(SHAPES), width=st.integers(12, 34), height=st.integers(12, 34))
def test_a_shape_reaches_all_four_sides_of_its_box(shape, width, height):
    cover = outline(shape, width, height)
    assert cover.shape == (height, width)
    assert 0 <= cover.min() <= cover.max() <= 1
    assert all(side.any() for side in (cover[:2], cover[-2:], cover[:, :2], cover[:, -2:]))


def test_one_photograph_is_for_tests_only():
    assert set(TEST_PHOTOGRAPHS) - set(TRAINING_PHOTOGRAPHS) == {"rocket"}
    for name in TEST_PHOTOGRAPHS:
        assert min(photograph(name).shape[:2]) > SIDE
