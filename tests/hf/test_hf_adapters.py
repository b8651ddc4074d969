"""How the visual tokens of each family lie: by what each token looks at, and by the models' own packing."""

from __future__ import annotations

import warnings
from functools import cache
from itertools import count, pairwise
from types import SimpleNamespace
from typing import Any

import families
import pytest
import torch
import transformers as hf
from choosing import keep_all
from families import IMAGE, LAYOUTS, PINPOINTS, VIDEO, Case, prompts, token_types
from hypothesis import given, settings
from hypothesis import strategies as st
from sight import check, coordinates, picture, sights
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from prunekit import TokenBatch
from prunekit.hf import Cut, GenericAdapter, Grid, attach
from prunekit.hf.adapters import FAMILIES, Family
from prunekit.hf.grids import Picture, _warn, deal, positions_on
from prunekit.hf.places import Places

RAW = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}


def adapted(case: Case, **more: Any) -> TokenBatch:
    """What a stage is given by the family's adapter in a forward, or in `generate`; nothing is guessed."""
    seen: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Any:
        seen.append(tokens)
        return keep_all(tokens)

    _warn.cache_clear()
    with (
        warnings.catch_warnings(),
        torch.no_grad(),
        attach(case.model, Cut(look, layer=2), adapters=FAMILIES),
    ):
        warnings.filterwarnings("error", "prunekit guesses")
        case.model.generate(**case.inputs, **more) if more else case.model(**case.inputs)
    return seen[0]


def processor(name: str, **sizes: Any) -> Any:
    """An image processor in its form without torchvision where there are two."""
    kind = getattr(hf, f"{name}ImageProcessorPil", None) or getattr(hf, f"{name}ImageProcessor")
    try:
        return kind(**sizes)
    except ImportError as error:
        pytest.skip(f"needs torchvision in this release: {error}")


ONE_SIZE = {
    "llava": [[1, 2], [3]],
    "llava_with_class_token": [[0, 1, 0, 2], [0, 3]],
    "vipllava": [[1, 2], [3]],
    "janus": [[1, 2], [3]],
    "ovis2": [[1, 2], [3]],
    "internvl": [[1, 2, 3], [4]],
    "smolvlm": [[1, 2, 3], [4, 5]],
    "idefics3": [[1, 2, 3], [4, 5]],
    "gemma3": [[1, 2], [3]],
    "paligemma": [[1, 2], [3]],
    "aya_vision": [[1, 2], [3]],
    "cohere2_vision": [[1, 2], [3]],
}
"""What is shown on each plane of each row; 0 for a class token."""


@pytest.mark.parametrize("family", ONE_SIZE)
def test_images_of_one_size(family: str) -> None:
    case = LAYOUTS[family]("sdpa")
    pixels: Tensor = case.inputs["pixel_values"]
    number = count(1)
    numbers = [next(number) if tile.any() else 0 for tile in pixels.reshape(-1, *pixels.shape[-3:])]
    case.inputs["pixel_values"] = coordinates(numbers, *pixels.shape[-2:]).view(pixels.shape)
    check(adapted(case), sights(case), ONE_SIZE[family])


TALL, WIDE, SQUARE = (60, 50), (20, 60), (64, 64)


def processed(name: str, *images: Any, first: int = 1, **config: Any) -> dict[str, Tensor]:
    """What an image processor makes of pictures of these sizes, or of rows of them, numbered from `first`."""
    number = count(first)
    shown = [
        [picture(next(number), *size) for size in image]
        if isinstance(image, list)
        else picture(next(number), *image)
        for image in images
    ]
    made: dict[str, Any] = processor(name, **config)(shown, **RAW)
    return dict(made) | {"pixel_values": made["pixel_values"].float()}


SIDE = {"height": 32, "width": 32}
TILES = {
    "LlavaNext": {"size": {"shortest_edge": 32}, "crop_size": SIDE, "image_grid_pinpoints": PINPOINTS},
    "LlavaOnevision": {"size": SIDE, "image_grid_pinpoints": PINPOINTS},
}


ANYRES = [
    ("llava_next", "LlavaNext"),
    ("llava_next_video", "LlavaNext"),
    ("llava_onevision", "LlavaOnevision"),
]


def packed(family: str, name: str, **config: Any) -> Case:
    """A case of images of several sizes, by the processor of the family."""
    inputs = processed(name, TALL, WIDE, SQUARE, **TILES[name])
    model = LAYOUTS[family]("sdpa").model
    for setting, value in config.items():
        setattr(model.config, setting, value)
    return families.tiled(model, inputs)


@pytest.mark.parametrize(("family", "name"), ANYRES)
def test_a_thumbnail_and_tiles(family: str, name: str) -> None:
    case = packed(family, name)
    tokens = adapted(case)
    check(tokens, sights(case), [[1, 1, 2, 2], [3, 3]])
    assert tokens.positions[1].amax(0).tolist() == [1, 7, 8]


@pytest.mark.parametrize(("family", "name"), ANYRES)
def test_a_thumbnail_and_tiles_in_generate(family: str, name: str) -> None:
    inputs = processed(name, TALL, SQUARE, **TILES[name])
    case = families.tiled(LAYOUTS[family]("sdpa").model, inputs, first=1)
    beams = adapted(case, max_new_tokens=2, num_beams=2)
    assert torch.equal(beams.positions, adapted(case).positions.repeat_interleave(2, 0))


def test_onevision_shrinks_to_its_tiles() -> None:
    case = packed("llava_onevision", "LlavaOnevision", vision_aspect_ratio="anyres_max_1")
    tokens = adapted(case)
    check(tokens, sights(case), [[1, 1, 2, 2], [3, 3]])
    assert tokens.positions[1].amax(0).tolist() == [1, 3, 4]


def test_onevision_does_not_tile_several_images() -> None:
    inputs = processed("LlavaOnevision", [SQUARE, SQUARE], [(32, 64)], **TILES["LlavaOnevision"])
    assert inputs["batch_num_images"].tolist() == [2, 1]
    case = Case(LAYOUTS["llava_onevision"]("sdpa").model, prompts([[17, 17], [16 + 4 * 9]]) | inputs)
    check(adapted(case), sights(case), [[1, 0, 2, 0], [3, 3]])


def plane_sizes(tokens: TokenBatch, row: int) -> list[int]:
    """How many tokens lie on each plane of a row."""
    return tokens.positions[row, tokens.present[row], 0].bincount().tolist()


POOLED = [("llava_onevision", [4, 4, 4, 1]), ("llava_next_video", [4, 4, 4])]


@pytest.mark.parametrize(("family", "planes"), POOLED)
def test_pooled_frames(family: str, planes: list[int]) -> None:
    """OneVision ends a video with a newline."""
    model = LAYOUTS[family]("sdpa").model
    ids = prompts([[(VIDEO, sum(planes))]] * 2)
    frames = coordinates(range(1, 7), 32, 32).view(2, 3, 3, 32, 32)
    case = Case(model, ids | {"pixel_values_videos": frames})
    end = [0] * (len(planes) - 3)
    check(adapted(case), sights(case), [[1, 2, 3, *end], [4, 5, 6, *end]])


@pytest.mark.parametrize(("family", "planes"), POOLED)
def test_images_and_pooled_frames_take_turns(family: str, planes: list[int]) -> None:
    name = "LlavaOnevision" if family == "llava_onevision" else "LlavaNext"
    inputs = processed(name, (32, 64), (32, 64), **TILES[name])
    frames = coordinates(range(3, 9), 32, 32).view(2, 3, 3, 32, 32)
    video, image = (VIDEO, sum(planes)), 16 + 4 * 9
    ids = prompts([[video, image, video], [image]])
    case = Case(LAYOUTS[family]("sdpa").model, ids | inputs | {"pixel_values_videos": frames})
    tokens = adapted(case)
    assert plane_sizes(tokens, 0) == [*planes, 16, 36, *planes]
    end = [0] * (len(planes) - 3)
    check(tokens, sights(case), [[3, 4, 5, *end, 1, 1, 6, 7, 8, *end], [2, 2]])


PATCHES = [
    ("qwen2_vl", "Qwen2VL", 14),
    ("qwen2_5_vl", "Qwen2VL", 14),
    ("qwen3_vl", "Qwen2VL", 16),
    ("glm4v", "Glm4v", 14),
]


def patched(name: str, patch: int, *images: tuple[int, int], first: int = 1) -> dict[str, Tensor]:
    size = {"shortest_edge": 4 * patch * patch, "longest_edge": 128 * 128}
    return processed(name, *images, first=first, patch_size=patch, size=size)


@pytest.mark.parametrize(("family", "name", "patch"), PATCHES)
def test_images_whose_grid_is_told(family: str, name: str, patch: int) -> None:
    inputs = patched(name, patch, (100, 90), (40, 120), (64, 64))
    model = LAYOUTS[family]("sdpa").model
    sizes = (inputs["image_grid_thw"].prod(1) // 4).tolist()
    ids = prompts([sizes[:2], sizes[2:]])
    case = Case(model, ids | inputs | token_types(model, ids["input_ids"]))
    check(adapted(case), sights(case), [[1, 2], [3]])


def filmed(name: str, patch: int, frames: int, first: int) -> dict[str, Tensor]:
    """A video, made of what the image processor makes of its frames."""
    made = patched(name, patch, *[(100, 60)] * frames, first=first)
    rows, columns = made["image_grid_thw"][0, 1:].tolist()
    return {
        "pixel_values_videos": made["pixel_values"],
        "video_grid_thw": torch.tensor([[frames, rows, columns]]),
    }


def two_videos(name: str, patch: int) -> tuple[dict[str, Tensor], int]:
    """Of three frames and of two, numbered through; and how many tokens a frame has."""
    first, second = filmed(name, patch, 3, 1), filmed(name, patch, 2, 4)
    inputs = {key: torch.cat([first[key], second[key]]) for key in first}
    return inputs, int(inputs["video_grid_thw"][0, 1:].prod()) // 4


@pytest.mark.parametrize(("family", "name", "patch"), [each for each in PATCHES if each[0] != "glm4v"])
@pytest.mark.parametrize("alone", [True, False])
def test_videos_whose_grid_is_told(family: str, name: str, patch: int, alone: bool) -> None:
    """One frame a plane; images and videos of one prompt in the order of their tokens."""
    inputs, frame = two_videos(name, patch)
    inputs |= {} if alone else patched(name, patch, (100, 90), (64, 64), first=6)
    images = [] if alone else (inputs["image_grid_thw"].prod(1) // 4).tolist()
    # Qwen3-VL writes the time between frames.
    videos = [[(VIDEO, frame)] * n if family == "qwen3_vl" else [(VIDEO, frame * n)] for n in (3, 2)]
    ids = prompts([[*images[:1], *videos[0]], [*videos[1], *images[1:]]])
    model = LAYOUTS[family]("sdpa").model
    case = Case(model, ids | inputs | token_types(model, ids["input_ids"]))
    plain, beams = adapted(case), adapted(case, max_new_tokens=2, num_beams=2)
    check(plain, sights(case), [[1, 2, 3], [4, 5]] if alone else [[6, 1, 2, 3], [4, 5, 7]])
    assert torch.equal(beams.positions, plain.positions.repeat_interleave(2, 0))


def test_videos_made_of_image_tokens() -> None:
    """GLM-V writes when each frame is, and where a video begins and ends; it mixes them with no images."""
    inputs, frame = two_videos("Glm4v", 14)
    begin, end = (110, 1), (111, 1)
    ids = prompts([[begin, *[frame] * frames, end] for frames in (3, 2)])
    model = LAYOUTS["glm4v"]("sdpa").model
    kinds = {name: 2 * kind for name, kind in token_types(model, ids["input_ids"]).items()}
    case = Case(model, ids | inputs | kinds)
    check(adapted(case), sights(case), [[1, 2, 3], [4, 5]])


@pytest.mark.parametrize(("family", "step"), [("mistral3", 16), ("pixtral", 8)])
def test_rows_with_breaks_between_them(family: str, step: int) -> None:
    patch = {"height": step, "width": step}
    inputs = processed("Pixtral", TALL, (30, 60), (48, 40), size={"longest_edge": 64}, patch_size=patch)
    rows = [[columns] * lines for lines, columns in (inputs["image_sizes"] // step).tolist()]
    case = Case(LAYOUTS[family]("sdpa").model, prompts([rows[0] + rows[1], rows[2]]) | inputs)
    check(adapted(case), sights(case), [[1, 2], [3]])


@cache
def packer(family: str) -> Any:
    return LAYOUTS[family]("sdpa").model.model


def marked(down: int, across: int) -> Tensor:
    """Features of a thumbnail and so many tiles of 4 × 4: (plane, row, column) of each, from 0."""
    lines, places = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    thumbnail = torch.stack([torch.zeros(4, 4), lines, places], -1)
    tiles = [
        torch.stack([torch.ones(4, 4), lines + 4 * row, places + 4 * column], -1)
        for row in range(down)
        for column in range(across)
    ]
    return torch.stack([thumbnail, *tiles]).flatten(1, 2)


SIDES = st.tuples(st.integers(8, 300), st.integers(8, 300))
PINPOINT = st.tuples(st.integers(1, 4), st.integers(1, 4))


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
@settings(deadline=None, max_examples=60)
@given(size=SIDES, tiles=st.lists(PINPOINT, min_size=1, max_size=4), most=st.integers(1, 9))
def test_as_the_model_packs(family: str, size: tuple[int, int], tiles: Any, most: int) -> None:
    """Features marked with where they stand, packed by the model itself."""
    model = packer(family)
    model.config.image_grid_pinpoints = [[32 * down, 32 * across] for down, across in tiles]
    down, across = get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, 32)
    sizes, newline = torch.tensor([size]), torch.full((3,), -1.0)
    if family == "llava_next":
        more: dict[str, Any] = {"vision_feature_select_strategy": "default"}
    else:
        model.config.vision_aspect_ratio = f"anyres_max_{most}"
        more = {"vision_aspect_ratio": model.config.vision_aspect_ratio}
    (features,), _ = model.pack_image_features([marked(down, across)], sizes, image_newline=newline, **more)
    adapter = next(each for each in FAMILIES if each.fits(model.config))
    grids = adapter.grids(((len(features),),), {"image_sizes": sizes}, model.config)
    positions = positions_on(grids, [len(features)], torch.device("cpu"))[0]
    blind = features[:, 0] < 0
    for plane, grid in enumerate(grids[0]):
        here = positions[:, 0] == plane
        assert torch.equal(blind & here, here & (positions[:, 2] == grid.columns - 1) & (plane == 1))
        marks, cells = features[here & ~blind], positions[here & ~blind]
        assert bool((marks[:, 0].round() == plane).all())
        for axis in (1, 2):  # the further down or to the right a mark was, the further its cell is
            lines = [marks[cells[:, axis] == line, axis] for line in cells[:, axis].unique().tolist()]
            assert all(torch.allclose(line, line[0].expand_as(line)) for line in lines)
            assert all(a[0] < b[0] for a, b in pairwise(lines))


@st.composite
def shows(draw: st.DrawFn) -> tuple[list[list[tuple[bool, Picture]]], bool]:
    """Rows of images (False) and videos (True), and whether words stand between them."""
    grid = st.builds(Grid, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
    shown = st.tuples(st.booleans(), st.lists(grid, min_size=1, max_size=2).map(tuple))
    return draw(st.lists(st.lists(shown, max_size=4), min_size=1, max_size=3)), draw(st.booleans())


@given(shows())
def test_what_is_dealt_out_comes_back(drawn: tuple[list[list[tuple[bool, Picture]]], bool]) -> None:
    rows, words = drawn
    written = [
        [token for video, grids in row for token in [VIDEO if video else IMAGE] * total(grids) + [1] * words]
        for row in rows
    ]
    longest = max(map(len, written))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in written], dtype=torch.long)
    runs = Places.of((ids == IMAGE) | (ids == VIDEO)).runs
    images, videos = (
        [grids for row in rows for video, grids in row if video == kind] for kind in (False, True)
    )
    inputs: dict[str, Any] = {"input_ids": ids}
    inputs |= {"pixel_values": ids} if images else {}
    inputs |= {"pixel_values_videos": ids} if videos else {}
    config = SimpleNamespace(image_token_id=IMAGE, video_token_id=VIDEO)
    expected = [[grid for _, grids in row for grid in grids] for row in rows]
    assert deal(runs, inputs, config, images, videos) == expected
    for told in (images, videos):
        if told and len(rows) > 1:
            assert (
                deal(runs, inputs, config, *(each[1:] if each is told else each for each in (images, videos)))
                is None
            )


def total(grids: Picture) -> int:
    return sum(grid.size for grid in grids)


def test_a_later_turn_names_the_earlier_pictures_again() -> None:
    earlier, new = (Grid(2, 3),), (Grid(3, 2),)
    config = SimpleNamespace()
    assert deal(((6,),), {}, config, [earlier, new], []) == [[*new]]
    assert deal(((6,), (6,)), {}, config, [earlier, new, new], []) is None


@pytest.mark.parametrize("family", LAYOUTS)
def test_no_two_families_fit_one_model(family: str) -> None:
    """But for a tower that goes before the model around it."""
    config = LAYOUTS[family]("sdpa").model.config
    fitting = [adapter.names for adapter in FAMILIES if adapter.fits(config)]
    assert len(fitting) <= 1 or fitting[0] == {"pixtral"}


def guesses(model: str, runs: Any, adapter: Any = None) -> tuple[Any, list[str]]:
    """The grids of runs of a model of this class, and what was said about them."""
    config = SimpleNamespace(architectures=[model], model_type="llava", vision_config=None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        grids = (adapter or GenericAdapter()).grids(runs, {}, config)
    return grids, [str(each.message) for each in said]


def test_a_guess_is_owned_up_to_once_a_class() -> None:
    grids, said = guesses("NewModel", ((16, 6),))
    assert grids == [[Grid(4, 4), Grid(1, 6)]]
    assert len(said) == 1
    assert "NewModel" in said[0]
    assert "prunekit_adapters" in said[0]
    assert guesses("NewModel", ((16,),))[1] == []
    assert len(guesses("NewerModel", ((16,),))[1]) == 1


def test_facts_that_do_not_fit_give_way_to_a_guess() -> None:
    threes = Family(frozenset({"llava"}), lambda inputs, config: [(Grid(1, 3),)])
    assert guesses("OddModel", ((3,),), threes) == ([[Grid(1, 3)]], [])
    grids, said = guesses("OddModel", ((4,),), threes)
    assert grids == [[Grid(2, 2)]]
    assert len(said) == 1
