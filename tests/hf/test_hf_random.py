"""Models with random weights are real ones of their shape, and take prompts like any other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers as hf

import prunekit as pk
import prunekit.hf.random_models as module
from prunekit import UnknownName
from prunekit.bench.prompts import prompt_of
from prunekit.hf import load
from prunekit.hf.random_models import RANDOM
from prunekit.hf.shape import Shape


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    small = replace(RANDOM["random-llava-small"], width=32, mlp=64, layers=4, heads=4)
    monkeypatch.setattr(module, "VOCABULARY", 50)
    monkeypatch.setattr("prunekit.hf.models.RANDOM", {"random-llava-small": small})
    monkeypatch.setattr(module, "RANDOM", {"random-llava-small": small})
    return "random-llava-small"


def test_it_reads_several_images(tiny: str):
    loaded = load(tiny, device="cpu")
    assert isinstance(loaded.model, hf.LlavaForConditionalGeneration)
    assert not loaded.model.training
    inputs = prompt_of(loaded, 1152, 20)
    assert inputs["input_ids"].shape == (1, 1172)
    with torch.inference_mode(), pk.load("uniform_grid").swap(budget=8).attach(loaded.model) as pruning:
        loaded.model.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
    assert pruning.report().visual_before == (1152,)
    assert pruning.selections[0].positions[0].amax(0).tolist() == [1, 23, 23]


def test_it_is_the_same_every_time_and_leaves_the_generator_alone(tiny: str):
    state = torch.random.get_rng_state()
    first, second = (load(tiny, device="cpu").model.state_dict() for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["lm_head.weight"].std() > 0


def test_it_comes_in_another_precision(tiny: str):
    assert load(tiny, device="cpu").model.dtype == torch.float32
    assert load(tiny, device="cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "parameters", "layers"),
    [
        ("random-llava-tiny", 51e6, 12),
        ("random-llava-small", 225e6, 20),
        ("random-llava-7b", 6.47e9, 32),
    ],
)
def test_their_decoders_are_as_large_as_is_said(name: str, parameters: float, layers: int):
    with torch.device("meta"):
        model = hf.LlavaForConditionalGeneration(RANDOM[name].config)
    shape = Shape.read(model.get_decoder())
    assert len(shape.layers) == layers
    assert sum(layer.weights for layer in shape.layers) == pytest.approx(parameters, rel=0.02)


def test_an_unknown_one_is_told_apart_from_the_hub():
    with pytest.raises(UnknownName, match=r"Did you mean 'random-llava-7b'.*random-llava-small"):
        load("random-llava-7")
