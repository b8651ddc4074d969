"""What kept tokens are merged into goes on in their places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from choosing import Select, every
from families import FAMILIES, llava, llava_next
from torch import Tensor

import prunekit as pk
from prunekit import Selection, TokenBatch, TokenError, UnsupportedModel
from prunekit.hf import Cut, attach
from prunekit.hf.vision.necks import NECKS

STRAIGHT = [name for name in FAMILIES if name not in ("llava_next", "llava_onevision")]


def merging(change: Any) -> Select:
    """Every third token, its features changed."""

    def select(tokens: TokenBatch) -> Selection:
        merged = tokens.features.clone()
        selection = every(3)(tokens)
        merged[selection.kept] = change(merged[selection.kept])
        return replace(selection, merged=merged)

    return select


def logits(model: Any, inputs: dict[str, Any], *cuts: Cut, **more: Any) -> Tensor:
    settings = {"max_new_tokens": 3, "do_sample": False, **more}
    with torch.no_grad(), attach(model, *cuts):
        out = model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
    return torch.stack(out.logits)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_into_what_it_was_a_token_is_as_before(family: str, layer: int) -> None:
    case = FAMILIES[family]("sdpa")
    plain = logits(case.model, case.inputs, Cut(every(3), layer))
    same = logits(case.model, case.inputs, Cut(merging(lambda own: own), layer, merges=True))
    assert torch.equal(plain, same)
    other = logits(case.model, case.inputs, Cut(merging(lambda own: -own), layer, merges=True))
    assert (other - plain).abs().max() > 1e-2


@pytest.mark.parametrize("family", STRAIGHT)
def test_features_of_the_vision_encoder_go_through_the_projector(family: str) -> None:
    """Merged before it, and into what they were, tokens enter the decoder as ever."""
    assert FAMILIES[family]("sdpa").model.config.model_type in NECKS
    case = FAMILIES[family]("sdpa")
    plain = logits(case.model, case.inputs, Cut(every(3), 0))
    same = logits(case.model, case.inputs, Cut(merging(lambda own: own), 0, (), "vision", merges=True))
    torch.testing.assert_close(plain, same, atol=1e-4, rtol=1e-4)
    other = logits(case.model, case.inputs, Cut(merging(lambda own: -own), 0, (), "vision", merges=True))
    assert (other - plain).abs().max() > 1e-2


def test_kept_tokens_enter_the_layer_merged_and_others_as_they_were() -> None:
    case, seen = llava("sdpa"), []
    layer = case.model.get_decoder().layers[2]
    layer.self_attn.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["hidden_states"]), with_kwargs=True
    )
    layer.input_layernorm = torch.nn.Identity()
    for change in (lambda own: own, lambda own: own + 1):
        with torch.no_grad(), attach(case.model, Cut(merging(change), 2, merges=True)) as pruning:
            case.model(**case.inputs)
    plain, merged = seen
    kept = pruning.selections[0].kept
    changed = torch.isclose(merged - plain, torch.ones(()), atol=1e-5).all(-1)
    assert changed.sum(1).tolist() == kept.sum(1).tolist()
    assert torch.equal(merged[~changed], plain[~changed])


def test_steps_merge_what_was_merged() -> None:
    """A later cut sees what an earlier one has made of its tokens."""
    case, entering = llava("sdpa"), []

    def look(tokens: TokenBatch) -> Selection:
        entering.append(tokens)
        return every(1)(tokens)

    with torch.no_grad(), attach(case.model, Cut(merging(torch.zeros_like), 0, merges=True), Cut(look, 1)):
        case.model(**case.inputs)
    zeros = entering[0].features
    with torch.no_grad(), attach(case.model, Cut(every(3), 0), Cut(look, 1)):
        case.model(**case.inputs)
    assert not torch.allclose(zeros, entering[1].features)


@pytest.mark.parametrize("layers", [(0,), (2,), (1, 3)], ids=str)
@pytest.mark.parametrize("rows", [[[16, 16], [16]], [[16], [], [16]]], ids=str)
def test_without_a_cache_it_stays_merged(rows: Any, layers: tuple[int, ...]) -> None:
    case = llava("sdpa", rows)
    cuts = [Cut(merging(lambda own: own.flip(-1)), layer, merges=True) for layer in layers]
    cached, again = (logits(case.model, case.inputs, *cuts, use_cache=use) for use in (True, False))
    torch.testing.assert_close(cached, again, atol=1e-4, rtol=1e-4)


def test_a_cut_that_merges_nothing() -> None:
    case = llava("sdpa")
    with (
        torch.no_grad(),
        attach(case.model, Cut(every(3), 2, merges=True)),
        pytest.raises(TokenError, match="merged features"),
    ):
        case.model(**case.inputs)


def test_what_cannot_be_sent_through_the_projector_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="behind its projector"):
        attach(llava_next("sdpa").model, Cut(every(3), 0, (), "vision", merges=True))
    with pytest.raises(UnsupportedModel, match="at layer 0"):
        Cut(every(3), 2, (), "vision", merges=True)


def _attachable() -> list[str]:
    """The shipped pipelines for models that see."""
    return [entry.name for entry in pk.installed().pipelines if entry.name != "ippro"]


def for_six_layers(pipeline: pk.Pipeline) -> pk.Pipeline:
    """The same for a model of six layers, without what must be measured."""
    if pipeline.stages:
        stages = [{**each.given, "at": {"layer": number + 1}} for number, each in enumerate(pipeline.stages)]
        return pipeline.swap(stages=stages)
    layer = min(pipeline.at.layer, 4)
    bias = [each for each in pipeline.bias if each.use != "measured"]
    return pipeline.swap(at=pipeline.at.model_copy(update={"layer": layer}), bias=bias)


@pytest.mark.parametrize("name", _attachable())
def test_every_shipped_pipeline_runs_inside_a_model(name: str) -> None:
    case = llava("sdpa", [[16, 16], [], [16]], num_hidden_layers=10)
    pipeline = for_six_layers(pk.load(name))
    with torch.no_grad(), pipeline.attach(case.model) as pruning:
        case.model.generate(**case.inputs, max_new_tokens=2, do_sample=False)
        logits = case.model(**case.inputs).logits
    assert logits[:, -1].isfinite().all()
    report = pruning.report()
    for kept, cut in zip(report.visual_by_cut, pipeline.cuts, strict=True):
        counts = torch.tensor(report.visual_before)
        assert list(kept) == pk.budget.room_for(counts, cut.budget).tolist()
