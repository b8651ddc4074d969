"""What is captured of the question and of keys is the model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choosing import every, keep_all
from families import FAMILIES, IMAGE, Case, gemma3, llava
from masked import eager_twin
from torch import Tensor

from prunekit import (
    Distance,
    InputFeatures,
    Keys,
    Selection,
    Sizes,
    TextFeatures,
    TextKeys,
    TextRows,
    TokenBatch,
)
from prunekit.hf import Cut, attach
from prunekit.hf.question import Template, question_columns

NEEDS = [
    TextFeatures(),
    TextFeatures("input"),
    InputFeatures(),
    Sizes(),
    *(kind(layer=layer) for kind in (TextRows, Keys, TextKeys) for layer in ("previous", "same")),
]


def seen(case: Case, *before: Cut, layer: int = 2, needs: Any = NEEDS) -> TokenBatch:
    """What a cut is given."""
    given: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Selection:
        given.append(tokens)
        return keep_all(tokens)

    with torch.no_grad(), attach(case.model, *before, Cut(look, layer, needs)):
        case.model(**case.inputs)
    return given[0]


def columns(case: Case) -> tuple[Tensor, Tensor]:
    """Where each row's question stands; which count."""
    ids, real = case.inputs["input_ids"], case.inputs["attention_mask"].bool()
    return question_columns(Template.of(case.model), ids, case.visual, real)


def at(values: Tensor, index: Tensor, counted: Tensor) -> Tensor:
    """Of values along columns those at an index; 0 where none counts."""
    picked = values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
    return picked.masked_fill(~counted[..., None], 0)


def visual_columns(case: Case) -> tuple[Tensor, Tensor]:
    counts = case.visual.sum(1)
    most = int(counts.max())
    index = case.visual.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return index, torch.arange(most) < counts[:, None]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_signals_are_the_models_own(family: str, implementation: str) -> None:
    case = FAMILIES[family](implementation)
    tokens = seen(case)
    with torch.no_grad():
        whole = eager_twin(case.model)(
            **case.inputs, output_attentions=True, output_hidden_states=True, use_cache=True
        )
    asked, visual = columns(case), visual_columns(case)
    assert asked[1].any(1).all()
    if family != "qwen3_vl":  # whose features are added to between its first layers
        close(tokens.signal(TextFeatures()), at(whole.hidden_states[2], *asked))
    close(tokens.signal(TextFeatures("input")), at(whole.hidden_states[0], *asked))
    close(tokens.signal(InputFeatures()).mT, at(whole.hidden_states[0], *visual))
    assert torch.equal(tokens.signal(Sizes()), torch.ones(tokens.present.shape))
    for name, number in (("previous", 1), ("same", 2)):
        keys = whole.past_key_values.layers[number].keys
        if keys.shape[-2] == case.visual.shape[1]:  # a layer that slides has forgotten some
            for head in range(keys.shape[1]):
                close(tokens.signal(Keys(name))[:, head].mT, at(keys[:, head], *visual))
            close(tokens.signal(TextKeys(name)), at(keys.transpose(1, 2).flatten(2), *asked))
        attention = whole.attentions[number]
        for head in range(attention.shape[1]):
            rows = at(attention[:, head], *asked)
            paid = at(rows.mT, *visual).mT
            close(tokens.signal(TextRows(name))[:, head], paid)


@pytest.mark.parametrize("family", [llava, gemma3])
def test_later_cuts_see_the_question_where_it_stands_then(family: Any) -> None:
    """The texts are all there after a cut; of visual tokens those that are left."""
    case = family("sdpa")
    whole, later = seen(case, layer=3), seen(case, Cut(every(3), 1), layer=3)
    assert torch.equal(whole.signal(TextFeatures("input")), later.signal(TextFeatures("input")))
    assert whole.signal(TextFeatures()).shape == later.signal(TextFeatures()).shape
    assert ((later.signal(TextFeatures()) != 0).any(-1) == columns(case)[1]).all()
    rows, keys = later.signal(TextRows()), later.signal(Keys())
    assert (rows.movedim(-1, 1)[~later.present] == 0).all()
    assert (keys.movedim(-1, 1)[~later.present] == 0).all()
    assert (keys.movedim(-1, 1)[later.present] != 0).flatten(1).any(1).all()
    first = seen(case, Cut(keep_all, 1), layer=3)
    close(first.signal(Keys()), whole.signal(Keys()))


def test_a_prompt_without_a_question() -> None:
    case = llava("sdpa", [[16]])
    ids = case.inputs["input_ids"]
    end = int((ids[0] == IMAGE).nonzero()[-1]) + 1
    case.model.generation_config.eos_token_id = int(ids[0, end])
    bare = {name: value[:, : end + 1] for name, value in case.inputs.items() if name != "pixel_values"}
    bare["input_ids"] = bare["input_ids"].clone()
    bare["input_ids"][:, : int((ids[0] == IMAGE).nonzero()[0])] = 1
    tokens = seen(Case(case.model, bare | {"pixel_values": case.inputs["pixel_values"]}))
    assert tokens.signal(TextFeatures()).shape[1] == 0
    assert tokens.signal(TextRows()).shape[2] == 0


def test_nothing_is_captured_that_nobody_asks_for() -> None:
    case = llava("sdpa")
    assert set(seen(case, needs=[]).signals) == set()
    assert set(seen(case, needs=[TextFeatures()]).signals) == {TextFeatures()}
    layer = case.model.get_decoder().layers[0]
    with attach(case.model, Cut(keep_all, 2, [TextFeatures()])):
        assert not layer._forward_pre_hooks
    with attach(case.model, Cut(keep_all, 2, [InputFeatures()])):
        assert len(layer._forward_pre_hooks) == 1
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("positions", ["keep", "repack"])
def test_distances_are_those_of_the_positions(positions: Any) -> None:
    case, given = llava("sdpa"), []

    def look(tokens: TokenBatch) -> Selection:
        given.append(tokens)
        return every(2)(tokens)

    cuts = [Cut(look, layer, [Distance()]) for layer in (1, 3)]
    with torch.no_grad(), attach(case.model, *cuts, positions=positions):
        case.model(**case.inputs)
    after = case.inputs["input_ids"].shape[1] - 1
    first, second = (tokens.signal(Distance()) for tokens in given)
    index, counted = visual_columns(case)
    assert torch.equal(first, (after - index).masked_fill(~counted, 0).float())
    left = given[1].present
    if positions == "keep":
        assert torch.equal(second[left], first[left])
    else:
        assert (second[left] <= first[left]).all()
        assert (second[left] < first[left]).any()
