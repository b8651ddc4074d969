"""Where visual tokens stand, how they lie in their images, and how much of each is padding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from choosing import keep_all
from families import FAMILIES, IMAGE, THW, llava
from safetensors.torch import load_file

from prunekit import PaddedShare, Signal, TokenBatch, TokenError, UnsupportedModel
from prunekit.hf import Cut, GenericAdapter, Grid, attach
from prunekit.hf.grids import positions_on
from prunekit.hf.padding import Box, content_boxes, padded_share
from prunekit.hf.places import Places, visual_token_ids

GOLDEN = Path(__file__).parents[1] / "golden" / "data"


def tokens_of(
    case: Any, needs: Sequence[Signal] = (), features: Any = "decoder", adapters: Sequence[Any] = ()
) -> TokenBatch:
    """What a stage is given for the prompts of a case."""
    seen: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Any:
        seen.append(tokens)
        return keep_all(tokens)

    with torch.no_grad(), attach(case.model, Cut(look, 2, needs, features), adapters=adapters):
        case.model(**case.inputs)
    return seen[0]


def raster(*planes: tuple[int, int]) -> list[list[int]]:
    return [
        [plane, row, column]
        for plane, (rows, columns) in enumerate(planes)
        for row in range(rows)
        for column in range(columns)
    ]


def test_places() -> None:
    ids = torch.tensor([[0, 5, 5, 1, 5, 1], [5, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    places = Places.of(ids == 5)
    assert places.index.tolist() == [[1, 2, 4], [0, 0, 0], [0, 0, 0]]
    assert places.present.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert places.runs == ((2, 1), (1,), ())
    assert places.counts == (3, 1, 0)
    columns = torch.arange(6.0).expand(3, 2, 6)
    assert places.pick(columns)[:, 0].tolist() == [[1, 2, 4], [0, 0, 0], [0, 0, 0]]
    chosen = torch.tensor([[True, False, True], [True, True, True], [True, True, True]])
    assert places.mark(chosen, 6).nonzero().tolist() == [[0, 1], [0, 4], [1, 0]]


def test_visual_token_ids() -> None:
    assert visual_token_ids(SimpleNamespace(image_token_id=5, video_token_id=6)) == (5, 6)
    assert visual_token_ids(SimpleNamespace(image_token_index=5, video_token_id=None)) == (5,)
    assert visual_token_ids(SimpleNamespace()) == ()


TILES = {
    "llava": [[(4, 4), (4, 4)], [(4, 4)]],
    "internvl": [[(4, 4), (4, 4), (4, 4)], [(4, 4)]],
    "qwen2_5_vl": [[(4, 3), (2, 4)], [(4, 4)]],
    "qwen3_vl": [[(4, 3), (2, 4)], [(4, 4)]],
    "smolvlm": [[(4, 4)] * 3, [(4, 4)] * 2],
    "idefics3": [[(4, 4)] * 3, [(4, 4)] * 2],
    "gemma3": [[(4, 4)] * 2, [(4, 4)]],
    "paligemma": [[(4, 4)] * 2, [(4, 4)]],
}


@pytest.mark.parametrize("family", TILES)
def test_each_family_lies_on_its_grid(family: str) -> None:
    tokens = tokens_of(FAMILIES[family]("sdpa"))
    for row, planes in enumerate(TILES[family]):
        expected = raster(*planes)
        assert tokens.positions[row, : len(expected)].tolist() == expected
        assert tokens.present[row].sum() == len(expected)
        assert not tokens.positions[row, len(expected) :].any()


def test_features_are_what_enters_the_pruning_layer() -> None:
    case = llava("sdpa", [[16, 16], [], [16]])
    tokens = tokens_of(case)
    with torch.no_grad():
        hidden = case.model(**case.inputs, output_hidden_states=True).hidden_states[2]
    for row, visual in enumerate(case.visual):
        count = int(visual.sum())
        assert torch.equal(tokens.features[row, :count], hidden[row, visual])
        assert not tokens.features[row, count:].any()


@pytest.mark.parametrize(
    ("runs", "inputs", "config", "expected"),
    [
        ([(9,)], {}, {}, [[Grid(3, 3)]]),
        ([(18,)], {}, {"image_seq_length": 9}, [[Grid(3, 3)] * 2]),
        ([(18,)], {"pixel_values": torch.zeros(2, 3, 4, 4)}, {}, [[Grid(3, 3)] * 2]),
        ([(18,)], {"pixel_values": torch.zeros(2, 5, 3, 4, 4)}, {}, [[Grid(1, 18)]]),
        ([(12,)], {}, {"mm_tokens_per_image": 9}, [[Grid(1, 12)]]),
        ([(12,), ()], {}, {"image_seq_length": 6}, [[Grid(1, 6)] * 2, []]),
        ([(6, 8), (4,)], {"image_grid_thw": torch.tensor([[1, 4, 6], [2, 4, 4], [1, 4, 4]])}, {"merge": 2},
         [[Grid(2, 3), Grid(2, 2, 2)], [Grid(2, 2)]]),
        ([(4, 4)], {"video_grid_thw": torch.tensor([[2, 4, 4]])}, {"merge": 2}, [[Grid(2, 2, 2)]]),
        ([(16,)], {"image_grid_thw": torch.tensor([[1, 4, 6], [1, 8, 8]])}, {"merge": 2}, [[Grid(4, 4)]]),
        ([(16, 4)], {"image_grid_thw": THW, "video_grid_thw": THW}, {"merge": 2}, [[Grid(4, 4), Grid(2, 2)]]),
    ],
)  # fmt: skip
def test_the_generic_rule(runs: Any, inputs: Any, config: Any, expected: Any) -> None:
    vision = SimpleNamespace(spatial_merge_size=config.pop("merge", 1))
    config = SimpleNamespace(vision_config=vision, **config)
    assert GenericAdapter().grids(tuple(runs), inputs, config) == expected


def test_planes_are_numbered_through_a_row() -> None:
    grids = [[Grid(1, 2, planes=2), Grid(2, 1)], [Grid(1, 2)]]
    positions = positions_on(grids, [6, 2], torch.device("cpu"))
    assert positions[0].tolist() == raster((1, 2), (1, 2), (2, 1))
    assert positions[1].tolist() == [*raster((1, 2)), *[[0, 0, 0]] * 4]
    with pytest.raises(TokenError, match="adapter"):
        positions_on(grids, [6, 3], torch.device("cpu"))


class Upright:
    """Knows better for the models it fits."""

    def __init__(self, family: str) -> None:
        self.family = family

    def fits(self, config: Any) -> bool:
        return config.model_type == self.family

    def grids(self, runs: Any, inputs: Any, config: Any) -> Any:
        assert IMAGE in inputs["input_ids"]
        return [[Grid(sum(row), 1)] if row else [] for row in runs]


def test_a_fitting_adapter_goes_before_the_generic_rule() -> None:
    case = llava("sdpa", [[16]])
    adapters = [Upright("other"), Upright("llava")]
    assert tokens_of(case, adapters=adapters).positions[0].tolist() == raster((16, 1))
    assert tokens_of(case, adapters=adapters[:1]).positions[0].tolist() == raster((4, 4))


def _official() -> list[Any]:
    described = json.loads((GOLDEN / "index.json").read_text())["methods"]["pad_mask"]["cases"]
    return [pytest.param(case, id=case["id"]) for case in described]


@pytest.mark.parametrize("case", _official())
def test_padding_against_the_official_mask(case: dict[str, Any]) -> None:
    expected = load_file(GOLDEN / "pad_mask.safetensors")[f"{case['id']}.expected.pad_mask"]
    numbers = case["params"]
    share = padded_share(Box.centred(*numbers["image_size"]), Grid(numbers["grid"], numbers["grid"]))
    assert torch.equal(share <= numbers["pad_threshold"], expected)


def test_boxes_are_read_off_the_pixels() -> None:
    pictures = torch.full((6, 3, 8, 8), 0.5)
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures[0] = noise
    pictures[1, :, 2:6] = noise[:, 2:6]
    pictures[2, :, :, 1:7] = noise[:, :, 1:7]
    pictures[3, :, 3:, 5:] = noise[:, 3:, 5:]
    pictures[5, :, :, 4:] = 0.7
    assert content_boxes(pictures) == [
        Box(),
        Box(top=0.25, bottom=0.75),
        Box(left=0.125, right=0.875),
        Box(top=0.375, left=0.625),
        Box(),
        Box(),
    ]


def test_padding_reaches_the_stage() -> None:
    case = llava("sdpa", [[16, 16], [], [16]])
    case.inputs["pixel_values"][1, :, :12] = 0.0
    case.inputs["pixel_values"][2, :, :, 16:] = 0.0
    share = tokens_of(case, needs=[PaddedShare()]).signals[PaddedShare()]
    upper = [0.0] * 16 + [1.0] * 4 + [0.5] * 4 + [0.0] * 8
    assert share[0].tolist() == upper
    assert share[1].tolist() == [0.0] * 32
    assert share[2].tolist() == [0.0, 0.0, 1.0, 1.0] * 4 + [0.0] * 16


def test_padding_that_cannot_be_read_is_refused() -> None:
    case = FAMILIES["qwen2_5_vl"]("sdpa")
    with pytest.raises(UnsupportedModel, match="one picture a plane"):
        tokens_of(case, needs=[PaddedShare()])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_generate_lays_tokens_out_as_a_forward_does(name: str, more: dict[str, Any]) -> None:
    """Also where it runs the vision tower before the forward, which then sees no pixels, and repeats rows."""
    case = FAMILIES[name]("sdpa")
    needs = [] if name == "qwen2_5_vl" else [PaddedShare()]
    plain = tokens_of(case, needs=needs)
    seen: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Any:
        seen.append(tokens)
        return keep_all(tokens)

    with torch.no_grad(), attach(case.model, Cut(look, layer=2, needs=needs)):
        case.model.generate(**case.inputs, max_new_tokens=2, **more)
    copies = len(seen[0].present) // len(plain.present)
    assert copies == more.get("num_beams", more.get("num_return_sequences", 1))
    assert torch.equal(seen[0].positions, plain.positions.repeat_interleave(copies, 0))
    for need in needs:
        assert torch.equal(seen[0].signals[need], plain.signals[need].repeat_interleave(copies, 0))
