"""Where an official implementation has a known defect: what it does there is told, what ours does is held."""

import pytest
import torch

import prunekit as pk

MAKE = torch.Generator().manual_seed(0)


def tokens(pipeline, count, dim=32, rows=1, **signals):
    """One sample of random features, with the signals given by name or else made up."""
    shapes = {
        pk.VisionAttention: (1, count),
        pk.Keys: (2, 4, count),
        pk.TextKeys: (10, 8),
        pk.TextFeatures: (10, dim),
        pk.TextAttention: (1, count),
        pk.PaddedShare: (count,),
    }
    given = {
        need: signals.get(type(need).__name__, torch.rand(1, *shapes[type(need)], generator=MAKE))
        for need in pipeline.needs
    }
    features = torch.randn(1, count, dim, generator=MAKE)
    return pk.TokenBatch.grid(features, rows, count // rows, given)


@pytest.mark.parametrize("count, kept", [(576, 66), (575, 128), (225, 45), (729, 128), (9, 1), (10, 9)])
def test_vispruner_takes_odd_numbers(count, kept):
    """The official code fails where what is left beside the important is odd in number."""
    pipeline = pk.load("vispruner").swap(budget=kept)
    selection = pipeline(tokens(pipeline, count))
    assert selection.counts.tolist() == [kept]
    assert selection.counts_by_step.tolist() == [[kept // 2, kept - kept // 2, 0]]


def test_holov_never_asks_a_chunk_for_more_than_it_has():
    """All attention in one chunk: 28 of 64 rows of the official code are zeros."""
    pipeline = pk.load("holov").swap(budget=64)
    attention = torch.zeros(1, 1, 576)
    attention[..., 36:72] = 1.0
    selection = pipeline(tokens(pipeline, 576, VisionAttention=attention))
    assert selection.counts.tolist() == [64]
    assert selection.kept[0, 36:72].all()
    per_chunk = selection.kept[0].view(16, 36).sum(-1)
    assert sorted(per_chunk.tolist()) == [1] * 2 + [2] * 13 + [36]


@pytest.mark.parametrize("kept", [8, 13, 64])
def test_hiprune_takes_no_more_neighbours_than_there_is_room_for(kept):
    """With a share of 1 the official code fails at 144 tokens in most draws."""
    pipeline = pk.load("hiprune")
    anchors = pipeline.select[0].model_copy(update={"share": 1.0})
    pipeline = pipeline.swap(budget=kept, select=[anchors, "top_k"])
    sample = tokens(pipeline, 144, rows=12)
    selection = pipeline(sample)
    assert selection.counts.tolist() == [kept]
    middle = next(value for need, value in sample.signals.items() if need in anchors.needs)
    assert int(middle.argmax()) in selection.indices[0].tolist()


@pytest.mark.parametrize("kept", [192, 128, 64, 7, 4, 1])
def test_dart_keeps_what_it_is_asked_for(kept):
    """The official code keeps 188, 124 and 60 tokens for the first three."""
    pipeline = pk.load("dart").swap(budget=kept)
    selection = pipeline(tokens(pipeline, 576))
    assert selection.counts.tolist() == [kept]
    assert selection.counts_by_step.tolist() == [[min(kept, 4), max(kept - 4, 0), 0]]


def test_dart_without_text_starts_from_images_alone():
    pipeline = pk.load("dart").swap(budget=12)
    silent = {"TextFeatures": torch.zeros(1, 10, 32), "TextKeys": torch.zeros(1, 10, 8)}
    selection = pipeline(tokens(pipeline, 100, **silent))
    assert selection.counts_by_step.tolist() == [[4, 8, 0]]


def test_cdpruner_never_repeats_a_token():
    """Of features of rank 32 the official code keeps 49 for 64, the rest are repetitions."""
    pipeline = pk.load("cdpruner").swap(budget=64)
    assert pipeline(tokens(pipeline, 576)).counts.tolist() == [64]


def test_cdpruner_is_not_told_about_its_neighbours_in_the_batch():
    """The official code scales relevance over the whole batch."""
    pipeline = pk.load("cdpruner").swap(budget=16)
    one, other = tokens(pipeline, 100), tokens(pipeline, 100)
    both = pk.TokenBatch(
        torch.cat([one.features, 100 * other.features]),
        torch.cat([one.positions, other.positions]),
        torch.cat([one.present, other.present]),
        {need: torch.cat([one.signals[need], other.signals[need]]) for need in one.signals},
    )
    assert torch.equal(pipeline(both).kept[:1], pipeline(one).kept)


@pytest.mark.parametrize("kept", [144, 72, 1])
def test_vidcom2_keeps_what_it_is_asked_for(kept):
    """The official code keeps 137 and 73 for the first two, as it rounds each frame by itself."""
    pipeline = pk.load("vidcom2").swap(budget=kept)
    features = torch.randn(8, 1, 32, generator=MAKE) + torch.randn(8, 36, 32, generator=MAKE)
    selection = pipeline(pk.TokenBatch.grid(features.view(1, 288, 32), 6, 6))
    assert selection.counts.tolist() == [kept]


def test_where_there_are_too_few_real_patches_they_all_come_first():
    """The official FastV keeps fewer, the official PyramidDrop any padding."""
    padded = torch.zeros(1, 100)
    padded[:, 30:] = 1.0
    for name in ("fastv-debiased", "pyramiddrop-debiased"):
        pipeline = pk.load(name).cuts[0].swap(budget=50)
        selection = pipeline(tokens(pipeline, 100, rows=10, PaddedShare=padded))
        assert selection.indices[0].tolist() == list(range(50))


def test_divprune_never_repeats_a_token():
    """On copies of one token the official code repeats indices."""
    pipeline = pk.load("divprune").swap(budget=20)
    same = pk.TokenBatch.grid(torch.ones(1, 36, 8), 6, 6)
    assert pipeline(same).indices[0].tolist() == list(range(20))


def test_what_is_compared_with_text_says_what_to_do_without_it():
    features, texts = torch.randn(2, 9, 8, generator=MAKE), torch.randn(2, 3, 8, generator=MAKE)
    texts[1] = 0
    batch = pk.TokenBatch.grid(features, 3, 3, {pk.TextFeatures(): texts})
    pipeline = pk.load("cdpruner")
    alike = pipeline.swap(importance="text_similarity")(batch).scores
    assert alike[0].unique().numel() == 9
    assert alike[1].tolist() == [0.0] * 9
    fallback = {"use": "text_similarity", "without_text": "feature_norm"}
    other = pipeline.swap(importance=fallback)(batch).scores
    assert torch.equal(other[0], alike[0])
    torch.testing.assert_close(other[1], features[1].norm(dim=-1))
