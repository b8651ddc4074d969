"""Prompts given as embeddings: placeholders tell where the visual tokens stand, or a mark does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from choosing import every, top
from families import FAMILIES, IMAGE, Case, llava
from packaging.version import Version
from torch import Tensor

from prunekit import PrunekitError, TextAttention, TokenError, UnsupportedModel, VisionAttention
from prunekit.hf import Cut, attach

GREEDY = {"max_new_tokens": 5, "do_sample": False, "use_cache": True}
NEED = TextAttention()


def embedded(case: Case) -> dict[str, Any]:
    """The same prompt with placeholders as embeddings."""
    inputs = dict(case.inputs)
    ids = inputs.pop("input_ids")
    return {**inputs, "inputs_embeds": case.model.get_input_embeddings()(ids)}


def merged(case: Case) -> dict[str, Any]:
    """The same prompt with its pictures in it."""
    features = case.model.model.get_image_features(case.inputs["pixel_values"])
    embeds = embedded(case)["inputs_embeds"].clone()
    embeds[case.visual] = torch.cat(list(getattr(features, "pooler_output", features)))
    return {"inputs_embeds": embeds, "attention_mask": case.inputs["attention_mask"]}


def answers(case: Case, inputs: dict[str, Any], mark: Tensor | None = None, **more: Any) -> Tensor:
    torch.manual_seed(3)
    with attach(case.model, Cut(top(0.3, NEED), 2, [NEED])) as pruning:
        if mark is not None:
            pruning.mark(mark)
        given = case.model.generate(**inputs, **{**GREEDY, **more})
    assert len(pruning.selections) == 1
    return given


@pytest.mark.parametrize("family", ["llava", "paligemma", "gemma3", "internvl"])
@torch.no_grad()
def test_placeholders_tell(family: str) -> None:
    case = FAMILIES[family]("sdpa")
    with attach(case.model, Cut(every(3), 2)) as pruning:
        expected = case.model(**case.inputs).logits
        torch.testing.assert_close(case.model(**embedded(case)).logits, expected)
    assert torch.equal(pruning.selections[0].kept, pruning.selections[1].kept)


@torch.no_grad()
def test_placeholders_tell_in_generate() -> None:
    case = llava("sdpa")
    asked = case.inputs["input_ids"].shape[1]
    assert torch.equal(answers(case, embedded(case)), answers(case, case.inputs)[:, asked:])


@pytest.mark.parametrize(
    "more", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}], ids=str
)
@torch.no_grad()
def test_a_mark_tells(more: dict[str, Any]) -> None:
    if more and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("this release of transformers gives the copies of a row with two images wrong ones")
    case = llava("sdpa")
    asked = case.inputs["input_ids"].shape[1]
    expected = answers(case, case.inputs, **more)[:, asked:]
    assert torch.equal(answers(case, merged(case), case.visual, **more), expected)


@pytest.mark.parametrize(
    "more", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}], ids=str
)
@pytest.mark.parametrize("family", ["llava", "llava_next", "smolvlm"])
@torch.no_grad()
def test_pictures_are_those_of_the_prompt_whatever_it_is_repeated_for(
    family: str, more: dict[str, Any]
) -> None:
    """What the encoder shows, and how tokens lie, is told once for rows that stand several times."""
    case, need = FAMILIES[family]("sdpa"), VisionAttention(query="mean")
    found: list[tuple[Tensor, Tensor]] = []
    for inputs in (case.inputs, embedded(case)):
        torch.manual_seed(3)
        with attach(case.model, Cut(top(0.4, need), 0, [need], "vision")) as pruning:
            given = case.model.generate(**inputs, **{**GREEDY, **more})
        found.append((given[:, -GREEDY["max_new_tokens"] :], pruning.selections[0].positions))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@torch.no_grad()
def test_a_mark_is_for_one_prompt() -> None:
    case = llava("sdpa")
    with attach(case.model, Cut(every(2), 2)) as pruning:
        pruning.mark(case.visual)
        case.model(**merged(case))
        with pytest.raises(UnsupportedModel, match=r"pruning\.mark"):
            case.model(**merged(case))
        pruning.mark(torch.zeros_like(case.visual))
        case.model(**merged(case))
    assert pruning.prompts == 1


@torch.no_grad()
def test_a_mark_that_is_refused_is_forgotten() -> None:
    case = llava("sdpa")
    with attach(case.model, Cut(every(2), 2)) as pruning:
        pruning.mark(case.visual[:, 1:])
        with pytest.raises(TokenError, match="mark of visual tokens"):
            case.model(**merged(case))
        case.model(**embedded(case))
    assert pruning.prompts == 1


@torch.no_grad()
def test_a_mark_after_the_block_is_refused() -> None:
    case = llava("sdpa")
    with attach(case.model, Cut(every(2), 2)) as pruning:
        case.model(**case.inputs)
    with pytest.raises(PrunekitError, match="block"):
        pruning.mark(case.visual)


@pytest.mark.parametrize("mark", [torch.ones(2, 3).bool(), torch.ones(2, 50)])
@torch.no_grad()
def test_a_mark_of_another_shape(mark: Tensor) -> None:
    case = llava("sdpa")
    with attach(case.model, Cut(every(2), 2)) as pruning:
        pruning.mark(mark)
        with pytest.raises(TokenError, match="mark of visual tokens"):
            case.model(**merged(case))
    assert IMAGE in case.inputs["input_ids"]
