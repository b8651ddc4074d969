"""Several places to prune in one model, and the one before the language model."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import torch
from choosing import Select, every, keep_all, selection
from families import FAMILIES, IMAGE, LAYERS, Case, gemma3, llava, noise, qwen2_5_vl
from masked import dropped_columns, masked
from torch import Tensor

import prunekit as pk
from prunekit import Selection, TextAttention, TokenBatch, VisionAttention
from prunekit.hf import Cut, Positions, attach
from prunekit.hf.pruning import Pruning

LAST, SAME = TextAttention(), TextAttention(layer="same")
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
GREEDY = {"max_new_tokens": 6, "do_sample": False, "use_cache": True}
CUTS = [(0,), (0, 3), (1, 2, 5), (2, 4)]


def of_those_left(share: float, signal: TextAttention) -> Select:
    """This share of all tokens of the prompt, of those that are left."""

    def select(tokens: TokenBatch) -> Selection:
        assert tokens.total is not None
        scores = tokens.signals[signal].mean(1).masked_fill(~tokens.present, -1)
        rank = scores.argsort(-1, descending=True).argsort(-1)
        room = (tokens.total * share).ceil().minimum(tokens.counts)
        return selection(tokens, (rank < room[:, None]) & tokens.present, scores)

    return select


def cuts(layers: tuple[int, ...]) -> list[Cut]:
    """Each keeps less; by the attention of the layer before it, or of its own where there is none before."""
    needs = [SAME if layer == 0 else LAST for layer in layers]
    shares = [0.6 * 0.5**number for number in range(len(layers))]
    return [
        Cut(of_those_left(share, need), layer, [need])
        for layer, share, need in zip(layers, shares, needs, strict=True)
    ]


def answer(model: Any, inputs: dict[str, Any], **more: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(7)
    with torch.no_grad():
        out = model.generate(
            **inputs, **{**GREEDY, "output_logits": True, "return_dict_in_generate": True, **more}
        )
    return out.sequences, torch.stack(out.logits)


def check_masked(
    case: Case, pruning: Pruning, pruned: tuple[Tensor, Tensor], *, repack: bool = False, **more: Any
) -> None:
    """Pruning is masking what each cut dropped from its layer on."""
    ids = case.inputs["input_ids"]
    with ExitStack() as stack:
        reference = case.model
        for layer, chosen in zip(pruning.cuts, pruning.by_cut, strict=True):
            dropped = dropped_columns(ids, chosen.kept[:: len(chosen.kept) // len(ids)])
            assert dropped.any()
            reference = stack.enter_context(masked(reference, dropped, layer, repack=repack))
        expected = answer(reference, case.inputs, **{**more, "use_cache": False})
    assert torch.equal(pruned[0], expected[0])
    torch.testing.assert_close(pruned[1], expected[1], atol=1e-4, rtol=1e-4)


@IMPLEMENTATIONS
@pytest.mark.parametrize("layers", CUTS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_keep_all_is_bit_identical_and_pruning_is_masking(
    family: str, layers: tuple[int, ...], implementation: str
) -> None:
    case = FAMILIES[family](implementation)
    plain = answer(case.model, case.inputs)
    with attach(case.model, *(Cut(keep_all, layer, [SAME]) for layer in layers)):
        kept = answer(case.model, case.inputs)
    assert torch.equal(plain[0], kept[0])
    assert torch.equal(plain[1], kept[1])
    if not torch.allclose(answer(case.model, case.inputs, use_cache=False)[1], plain[1], atol=1e-4):
        pytest.skip("this family itself gives something else without a cache in this release")
    with attach(case.model, *cuts(layers)) as pruning:
        pruned = answer(case.model, case.inputs)
    check_masked(case, pruning, pruned)


@pytest.mark.parametrize(
    "more",
    [
        {"use_cache": False},
        {"num_beams": 3},
        {"num_return_sequences": 2, "do_sample": True},
        {"num_beams": 2, "use_cache": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("layers", CUTS, ids=str)
def test_ways_of_generating(layers: tuple[int, ...], more: dict[str, Any]) -> None:
    case = llava("sdpa", [[16], [], [16]])
    with attach(case.model, *cuts(layers)) as pruning:
        pruned = answer(case.model, case.inputs, **more)
    assert len(pruning.selections) == 1
    check_masked(case, pruning, pruned, **more)


@pytest.mark.parametrize("layers", CUTS, ids=str)
@pytest.mark.parametrize("family", [llava, gemma3])
def test_closing_up_positions(family: Any, layers: tuple[int, ...]) -> None:
    case = family("sdpa")
    with attach(case.model, *cuts(layers), positions="repack") as pruning:
        pruned = answer(case.model, case.inputs)
    check_masked(case, pruning, pruned, repack=True)


def test_closing_up_before_the_model_is_a_shorter_prompt() -> None:
    """As if the model had been given the embeddings of what is left."""
    case = llava("sdpa", [[16]])
    with torch.no_grad(), attach(case.model, Cut(every(3), 0), positions="repack") as pruning:
        pruned = case.model.generate(**case.inputs, **GREEDY)
    dropped = dropped_columns(case.inputs["input_ids"], pruning.selections[0].kept)
    ids = case.inputs["input_ids"]
    with torch.no_grad():
        embeds = case.model.get_input_embeddings()(ids)
        features = case.model.model.get_image_features(case.inputs["pixel_values"])
        features = getattr(features, "pooler_output", features)
        embeds[ids == IMAGE] = torch.cat(list(features))
        shorter = case.model.generate(inputs_embeds=embeds[~dropped][None], **GREEDY)
    assert torch.equal(pruned[:, ids.shape[1] :], shorter)


@pytest.mark.parametrize("layers", CUTS, ids=str)
@pytest.mark.parametrize("image", [False, True], ids=["words", "a new image"])
def test_a_second_turn(layers: tuple[int, ...], image: bool) -> None:
    case = llava("sdpa", [[16]])
    turn = torch.tensor([[31, *([IMAGE] * 16 if image else []), 33, 34]])
    new = noise(1, 3, 32, 32, seed=5)
    gone: dict[int, Tensor] = {}

    def learn(pruning: Pruning, ids: Tensor, past: int) -> None:
        visible = ids.clone()
        visible[:, :past] = 0
        for layer, chosen in zip(pruning.cuts, pruning.by_cut, strict=True):
            dropped = dropped_columns(visible, chosen.kept)
            if past:
                dropped[:, : gone[layer].shape[1]] |= gone[layer]
            gone[layer] = dropped

    with torch.no_grad(), attach(case.model, *cuts(layers)) as pruning:
        first = case.model.generate(**case.inputs, **GREEDY, return_dict_in_generate=True)
        learn(pruning, case.inputs["input_ids"], 0)
        ids = torch.cat([first.sequences, turn], 1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if image:
            inputs["pixel_values"] = new
        assert first.past_key_values.get_seq_length() == first.sequences.shape[1] - 1
        pruned = answer(case.model, inputs, past_key_values=first.past_key_values)
        assert len(pruning.selections) == 1 + image
        if image:
            learn(pruning, ids, first.sequences.shape[1])
    pictures = [case.inputs["pixel_values"], new] if image else [case.inputs["pixel_values"]]
    with ExitStack() as stack:
        reference = case.model
        for layer, dropped in gone.items():
            reference = stack.enter_context(masked(reference, dropped, layer))
        everything = {**inputs, "pixel_values": torch.cat(pictures)}
        expected = answer(reference, everything, use_cache=False)
    assert torch.equal(pruned[0], expected[0])
    torch.testing.assert_close(pruned[1], expected[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layers", CUTS, ids=str)
def test_caches_hold_what_is_left_and_tell_what_was(layers: tuple[int, ...]) -> None:
    case = llava("sdpa", [[16, 16]])
    with torch.no_grad(), attach(case.model, *cuts(layers)) as pruning:
        cache = case.model(**case.inputs).past_key_values
        length = case.inputs["input_ids"].shape[1]
        left = [length] * LAYERS
        for layer, chosen in zip(layers, pruning.by_cut, strict=True):
            left[layer:] = [length - 32 + int(chosen.kept.sum())] * (LAYERS - layer)
        assert [layer.keys.shape[-2] for layer in cache.layers] == left
        assert [cache.get_seq_length(number) for number in range(LAYERS)] == [length] * LAYERS
        cache.crop(-2)
        assert [layer.keys.shape[-2] for layer in cache.layers] == [count - 2 for count in left]
        assert cache.get_seq_length() == length - 2
    report = pruning.report()
    assert report.cuts == layers
    counts = [32, *(int(chosen.kept.sum()) for chosen in pruning.by_cut)]
    assert [report.visual_before, *report.visual_by_cut] == [(count,) for count in counts]
    assert " → ".join(map(str, counts)) in str(report)


@pytest.mark.parametrize("positions", ["keep", "repack"])
@pytest.mark.parametrize("more", [{}, {"use_cache": False}], ids=str)
def test_padding_that_is_gone_does_not_come_back(more: dict[str, Any], positions: Positions) -> None:
    """Rows that drop unequal numbers lose their padding; at a later cut they may be even again."""
    case = llava("sdpa", [[16], [16]])
    pad = torch.nn.functional.pad
    inputs = {name: pad(case.inputs[name], (5, 0)) for name in ("input_ids", "attention_mask")}
    case = Case(case.model, case.inputs | inputs)
    sizes: list[list[int]] = [[] for _ in range(LAYERS)]

    def first(counts: list[int]) -> Select:
        def select(tokens: TokenBatch) -> Selection:
            rank = tokens.present.cumsum(1)
            return selection(tokens, tokens.present & (rank <= torch.tensor(counts)[:, None]))

        return select

    def note(number: int) -> Any:
        return lambda layer, given, output: sizes[number].append(output[0].shape[-2])

    with ExitStack() as stack:
        for number, layer in enumerate(case.model.get_decoder().layers):
            stack.callback(layer.register_forward_hook(note(number)).remove)
        cuts = [Cut(first([12, 14]), 1), Cut(first([12, 12]), 3)]
        with attach(case.model, *cuts, positions=positions) as pruning:
            pruned = answer(case.model, case.inputs, **more)
    for earlier, later in pairwise(sizes):
        assert all(b <= a for a, b in zip(earlier, later, strict=True))
    check_masked(case, pruning, pruned, repack=positions == "repack", **more)


def test_later_cuts_see_all_tokens_and_who_is_gone() -> None:
    case = llava("sdpa", [[16, 16], [16]])
    seen: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Selection:
        seen.append(tokens)
        return every(1 + len(seen))(tokens)

    with torch.no_grad(), attach(case.model, Cut(look, 1), Cut(look, 3)) as pruning:
        states = case.model(**case.inputs, output_hidden_states=True).hidden_states
    first, second = seen
    assert torch.equal(second.present, pruning.by_cut[0].kept)
    assert torch.equal(second.positions, first.positions)
    assert second.total is not None
    assert second.total.tolist() == first.counts.tolist() == [32, 16]
    assert (second.features[~second.present] == 0).all()
    assert (second.features[second.present] != 0).any(-1).all()
    column = int((case.inputs["input_ids"][0] == IMAGE).nonzero()[0])
    assert torch.equal(first.features[0, 0], states[1][0, column])


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl", "internvl"])
def test_what_the_vision_encoder_says_serves_every_cut(family: str) -> None:
    """Chosen by the encoder before the model and again inside; the batch says who is left."""
    case, need = FAMILIES[family]("sdpa"), VisionAttention(query="mean")
    seen: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Selection:
        seen.append(tokens)
        return of_those_left(0.6 / len(seen), need)(tokens)

    with torch.no_grad(), attach(case.model, Cut(look, 0, [need], "vision"), Cut(look, 3, [need])) as pruning:
        pruned = answer(case.model, case.inputs)
    check_masked(case, pruning, pruned)
    first, second = seen
    assert torch.equal(first.signals[need], second.signals[need])
    assert first.features.shape[-1] != second.features.shape[-1] or not torch.equal(
        first.features[second.present], second.features[second.present]
    )
    assert (second.features[~second.present] == 0).all()


def test_a_pipeline_of_several_places() -> None:
    pyramid = pk.load("fastv").swap(
        stages=[{"at": {"layer": layer}, "budget": share} for layer, share in ((1, 0.5), (3, 0.25), (5, 0.1))]
    )
    case = qwen2_5_vl("sdpa")
    with torch.no_grad(), pyramid.attach(case.model) as pruning:
        case.model.generate(**case.inputs, **GREEDY)
    whole = pruning.report().visual_before
    for share, kept in zip((0.5, 0.25, 0.1), pruning.report().visual_by_cut, strict=True):
        assert kept == tuple(max(1, int(count * share)) for count in whole)
    assert pruning.selections[0].present.sum(1).tolist() == list(whole)


def test_one_place_at_a_time_is_the_pipeline_of_all() -> None:
    """Called on tokens, a pipeline of several places is its places in turn."""
    pyramid = pk.load("uniform_grid").swap(
        stages=[{"at": {"layer": 1}, "budget": 0.5}, {"at": {"layer": 2}, "budget": 3}]
    )
    tokens = TokenBatch.grid(noise(2, 30, 8), 5, 6)
    first = pyramid.cuts[0](tokens)
    left = TokenBatch(tokens.features, tokens.positions, first.kept, total=tokens.counts)
    assert first.counts.tolist() == [15, 15]
    assert torch.equal(pyramid(tokens).kept, pyramid.cuts[1](left).kept)
    assert pyramid(tokens).counts.tolist() == [3, 3]
    assert torch.equal(pyramid(tokens).present, tokens.present)
    assert torch.equal(pyramid(tokens, engine="device").settled().kept, pyramid(tokens).kept)
