"""A doctor says how a model is made, what works, and what does not, and leaves the model as it was."""

from __future__ import annotations

from typing import Any

import families
import pytest
import torch
from families import Case
from leftovers import marks

import prunekit as pk
from prunekit.hf import LoadedModel
from prunekit.hf.anatomy import Held
from prunekit.hf.doctor import Diagnosis, Way, examine

FASTV = pk.load("fastv")
BARE = FASTV.swap(importance="feature_norm")


def way(name: str, model: Any, pipeline: pk.Pipeline) -> Way:
    return Way(name, lambda share: pipeline.swap(budget=share).attach(model))


def examined(case: Case, pipeline: pk.Pipeline = BARE, **others: pk.Pipeline) -> Diagnosis:
    loaded = LoadedModel(case.model, None, "a model")
    more = [way(name, case.model, other) for name, other in others.items()]
    return examine(loaded, case.inputs, way("layer 2", case.model, pipeline), more, new_tokens=3)


def found(diagnosis: Diagnosis) -> dict[str, bool]:
    return {check.name: check.ok for check in diagnosis.checks}


@pytest.fixture
def case() -> Case:
    return families.llava("sdpa")


def test_a_healthy_model(case: Case):
    diagnosis = examined(case, attention=FASTV)
    assert diagnosis.healthy
    assert all(check.ok and check.why for check in diagnosis.checks)
    assert [check.needed for check in diagnosis.checks if not check.needed] == [False]
    assert diagnosis.checks[-1].name == "detached"
    assert diagnosis.anatomy is not None
    assert (diagnosis.anatomy.decoder, diagnosis.anatomy.layers) == ("LlamaModel", families.LAYERS)
    assert (diagnosis.anatomy.attention, diagnosis.anatomy.visual_ids) == ("sdpa", (families.IMAGE,))
    assert diagnosis.anatomy.parameters == sum(part.numel() for part in case.model.parameters())
    assert diagnosis.layout is not None
    assert (diagnosis.layout.tokens, diagnosis.layout.planes) == (32, ((4, 4), (4, 4)))
    assert (diagnosis.layout.known, diagnosis.layout.adapter) == ("family", "Family")
    assert diagnosis.cache == (Held("DynamicLayer", families.LAYERS, False),)


def test_nothing_is_left_on_the_model(case: Case):
    examined(case)  # what transformers itself puts on a model in its first pass is there now
    before = marks(case.model)
    examined(case, attention=FASTV)
    assert marks(case.model) == before


def test_windows_are_told():
    diagnosis = examined(families.gemma3("sdpa"))
    assert diagnosis.healthy, diagnosis.checks
    assert {held.sliding for held in diagnosis.cache} == {False, True}


def test_grids_of_the_processor_and_positions_that_cannot_be_closed_up():
    diagnosis = examined(families.qwen2_5_vl("sdpa"), repack=BARE.swap(positions="repack"))
    assert diagnosis.healthy
    assert found(diagnosis)["repack"] is False
    assert diagnosis.layout is not None
    assert diagnosis.layout.known == "inputs"


def test_a_guess_is_called_one(case: Case):
    case.model.config.model_type = "nobody_knows"
    case.model.config.vision_config.model_type = "nobody_knows"
    for _ in range(2):
        diagnosis = examined(case)
        assert diagnosis.layout is not None
        assert (diagnosis.layout.known, diagnosis.layout.adapter) == ("guess", "GenericAdapter")


def shares_keys(model: Any) -> None:
    model.model.language_model.layers[3].self_attn.is_kv_shared_layer = True


def has_a_static_cache(model: Any) -> None:
    model.generation_config.cache_implementation = "static"


def overflows(model: Any) -> None:
    model.lm_head.weight.data.fill_(torch.inf)


ILL = {
    "shared keys": (shares_keys, "layer 2, keep-all", "shares the keys"),
    "a static cache": (has_a_static_cache, "layer 2, keep-all, answers", "DynamicCache"),
    "logits that are not finite": (overflows, "reads the prompt", "not finite"),
}


@pytest.mark.parametrize(("spoil", "where", "why"), ILL.values(), ids=ILL.keys())
def test_what_is_wrong_is_named_and_ends_it(case: Case, spoil: Any, where: str, why: str):
    spoil(case.model)
    diagnosis = examined(case)
    assert not diagnosis.healthy
    last = diagnosis.checks[-1]
    assert (last.name, last.ok, last.needed) == (where, False, True)
    assert why in last.why
    assert all(check.ok for check in diagnosis.checks[:-1])
    assert diagnosis.anatomy is not None


def test_a_model_that_breaks_is_ill_and_not_a_traceback(case: Case):
    case.inputs["pixel_values"] = case.inputs["pixel_values"][:1]
    diagnosis = examined(case)
    assert not diagnosis.healthy
    assert "Error: " in diagnosis.checks[-1].why


def test_an_attachment_that_changes_something_is_found(case: Case):
    class Meddling:
        def __init__(self, share: float) -> None:
            self.attachment = BARE.swap(budget=share).attach(case.model)

        def __enter__(self) -> Any:
            self.hook = case.model.lm_head.register_forward_hook(lambda *given: given[-1] + 1e-3)
            return self.attachment.__enter__()

        def __exit__(self, *error: Any) -> None:
            self.hook.remove()
            self.attachment.__exit__(*error)

    loaded = LoadedModel(case.model, None, "a model")
    diagnosis = examine(loaded, case.inputs, Way("layer 2", Meddling), new_tokens=2)
    assert (diagnosis.checks[-1].name, diagnosis.checks[-1].ok) == ("layer 2, keep-all", False)
    assert "off by 0.001" in diagnosis.checks[-1].why
