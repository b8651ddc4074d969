"""What is done to a pruned cache is done to prunekit's book of it as well."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
import transformers as hf
from choosing import every, keep_all, top
from families import IMAGE, Case, gemma3, llava, noise
from masked import dropped_columns, masked
from packaging.version import Version
from torch import Tensor

from prunekit import TextAttention
from prunekit.hf import Cut, attach

OLDER = Version(hf.__version__) < Version("5.23")

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


@pytest.fixture
def case() -> Case:
    return llava("sdpa", [[16, 16], [16]])


def said(mask: Tensor, ids: Tensor, **more: Any) -> dict[str, Any]:
    """Inputs for new tokens after everything the mask covers, positions counted without padding."""
    mask = torch.cat([mask, torch.ones_like(ids)], 1)
    positions = (mask.cumsum(1) - 1)[:, -ids.shape[1] :]
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **more}


@IMPLEMENTATIONS
def test_repeating_and_selecting_rows(case: Case, implementation: str) -> None:
    case = llava(implementation, [[16, 16], [16]])
    ids = torch.tensor([[31, 32], [33, 34]])
    mask = case.inputs["attention_mask"]
    with torch.no_grad(), attach(case.model, Cut(every(3), layer=2), positions="repack"):
        plain = case.model(**case.inputs).past_key_values
        expected = case.model(**said(mask, ids, past_key_values=plain)).logits
        doubled = case.model(**case.inputs).past_key_values
        doubled.batch_repeat_interleave(2)
        doubled.batch_select_indices(torch.tensor([3, 0]))
        swapped = case.model(**said(mask.flip(0), ids.flip(0), past_key_values=doubled)).logits
    torch.testing.assert_close(swapped.flip(0), expected, atol=1e-5, rtol=1e-5)


def test_an_emptied_cache_is_like_new(case: Case) -> None:
    with torch.no_grad(), attach(case.model, Cut(every(3), layer=2)):
        out = case.model(**case.inputs)
        cache = out.past_key_values
        cache.reset()
        if cache.get_seq_length():
            pytest.skip("this release of transformers keeps the length of an emptied cache")
        assert not [name for name in cache.__dict__ if name in type(cache).__dict__ or "prunekit" in name]
        assert torch.equal(case.model(**case.inputs, past_key_values=cache).logits, out.logits)


def test_a_cache_made_without_a_config(case: Case) -> None:
    settings = {"max_new_tokens": 4, "do_sample": False}
    with torch.no_grad(), attach(case.model, Cut(every(3), layer=2)):
        given = case.model.generate(**case.inputs, past_key_values=hf.DynamicCache(), **settings)
        assert torch.equal(given, case.model.generate(**case.inputs, **settings))


@IMPLEMENTATIONS
@pytest.mark.parametrize("layer", [1, 2, 4])
def test_an_image_after_a_turn_of_words(implementation: str, layer: int) -> None:
    case = llava(implementation, [[], []])
    need = TextAttention()
    mask = case.inputs["attention_mask"]
    ids = torch.tensor([[31, *[IMAGE] * 16, 32, 33], [34, *[IMAGE] * 16, 35, 36]])
    pixels = noise(2, 3, 32, 32)
    with torch.no_grad(), attach(case.model, Cut(top(0.3, need), layer=layer, needs=[need])) as pruning:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = case.model(**case.inputs, position_ids=positions).past_key_values
        pruned = case.model(**said(mask, ids, past_key_values=cache, pixel_values=pixels)).logits
    everything = torch.cat([case.inputs["input_ids"], ids], 1)
    dropped = dropped_columns(everything, pruning.selections[0].kept)
    with masked(case.model, dropped, layer) as reference, torch.no_grad():
        told = torch.cat([mask, torch.ones_like(ids)], 1)
        whole = reference(
            input_ids=everything, attention_mask=told, pixel_values=pixels, use_cache=False
        ).logits
    kept = ~dropped[:, -ids.shape[1] :]
    expected = whole[:, -ids.shape[1] :]
    torch.testing.assert_close(pruned[kept], expected[kept], atol=1e-4, rtol=1e-4)


def test_sliding_layers_outrun_by_the_answer() -> None:
    """More steps than the window is wide, so that its layers forget what they were given."""
    case = gemma3("sdpa")
    settings = {
        "max_new_tokens": 30,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with torch.no_grad():
        with attach(case.model, Cut(top(0.3), layer=2)) as pruning:
            pruned = case.model.generate(**case.inputs, **settings)
        dropped = dropped_columns(case.inputs["input_ids"], pruning.selections[0].kept)
        with masked(case.model, dropped, 2) as reference:
            expected = reference.generate(**case.inputs, **settings, use_cache=False)
    assert torch.equal(pruned.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(pruned.logits), torch.stack(expected.logits), atol=1e-4, rtol=1e-4)


@IMPLEMENTATIONS
@pytest.mark.parametrize("layer", [0, 2])
def test_a_recorded_past_shows_what_a_forgotten_one_does(implementation: str, layer: int) -> None:
    """A cache that can be cropped holds more than its window, and hands out no more than it."""
    case, need = gemma3(implementation), TextAttention(layer="same")
    new = torch.tensor([[31, *[IMAGE] * 16, 32, 33]] * 2)
    settings = {"pixel_values": noise(2, 3, 64, 64), "token_type_ids": (new == IMAGE).long()}
    said_by: list[tuple[Tensor, Tensor]] = []
    for recorded in (False, True):
        cache = hf.DynamicCache(config=case.model.config.get_text_config())
        if recorded and not hasattr(cache, "activate_past_recording"):
            pytest.skip("this release of transformers records no past")
        if recorded:
            cache.activate_past_recording()
        with torch.no_grad(), attach(case.model, Cut(top(0.3, need), layer, [need])) as pruning:
            case.model(**case.inputs, past_key_values=cache)
            logits = case.model(
                **said(case.inputs["attention_mask"], new, past_key_values=cache, **settings)
            ).logits
        said_by.append((logits, pruning.selections[1].scores))
    torch.testing.assert_close(said_by[0], said_by[1])


@pytest.mark.skipif(OLDER, reason="this release of transformers does otherwise")
def test_a_crop_that_the_cache_refuses_changes_nothing() -> None:
    """A window that has slid cannot slide back, unless the cache was told to keep what it leaves."""
    case = gemma3("sdpa")
    words = {"token_type_ids": torch.zeros(2, 2, dtype=torch.long)}
    ids = torch.tensor([[31, 32], [33, 34]])
    logits: list[Tensor] = []
    for cropping in (False, True):
        with torch.no_grad(), attach(case.model, Cut(every(3), layer=0)):
            cache = case.model(**case.inputs).past_key_values
            if cropping:
                with suppress(RuntimeError):
                    cache.crop(-2)
                    pytest.skip("this release of transformers crops it")
            turn = said(case.inputs["attention_mask"], ids, past_key_values=cache, **words)
            logits.append(case.model(**turn).logits)
    assert torch.equal(*logits)


def test_other_forms_of_output(case: Case) -> None:
    length = case.inputs["input_ids"].shape[1]
    with torch.no_grad(), attach(case.model, Cut(every(4), layer=2)):
        out = case.model(**case.inputs, output_hidden_states=True)
        assert torch.equal(case.model(**case.inputs, return_dict=False)[0], out.logits)
        with torch.inference_mode():
            assert torch.equal(case.model(**case.inputs).logits, out.logits)
    assert [states.shape[1] for states in out.hidden_states[:3]] == [length] * 3
    assert {states.shape[1] for states in out.hidden_states[4:]} == {
        out.past_key_values.layers[4].get_seq_length()
    }


def test_gradients_reach_what_was_kept(case: Case) -> None:
    case.model.train()
    labels = case.inputs["input_ids"].masked_fill(case.visual | (case.inputs["attention_mask"] == 0), -100)
    losses = []
    for select in (keep_all, every(2)):
        case.model.zero_grad()
        need = TextAttention(layer="same")
        with attach(case.model, Cut(select, layer=2, needs=[need])):
            loss = case.model(**case.inputs, labels=labels).loss
            loss.backward()
        losses.append(loss.item())
        gradient = case.model.model.multi_modal_projector.linear_1.weight.grad
        assert gradient.isfinite().all()
        assert gradient.any()
    assert losses[0] != losses[1]
