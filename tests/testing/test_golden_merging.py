"""Methods that merge, against what their official code gives; and where that fails, what is right."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prunekit as pk
from prunekit.testing.golden import RUNNERS, Case, read

SPARSEVLM = read(Path(__file__).parents[1] / "golden" / "data", ["sparsevlm"])[0].cases


@pytest.mark.parametrize("case", SPARSEVLM, ids=lambda case: case.id)
def test_sparsevlm_does_not_need_random_numbers(case):
    """The official density noise is unseeded; without it the same clusters come out."""
    silent = {**case.inputs, "density_noise": 0 * case.inputs["density_noise"]}
    given = RUNNERS["sparsevlm"](replace(case, inputs=silent))
    torch.testing.assert_close(given["merged"], case.expected["merged"], rtol=2e-4, atol=1e-4)


# --- the whole pipelines, and where the official code fails -----------------------------------------------


def image(name, count, batch=1, seed=0):
    """Tokens with all that a pipeline needs, the attention with some outliers."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(batch, 1, count, generator=generator) ** 8
    keys = torch.randn(batch, 2, 8, count, generator=generator)
    rows = torch.rand(batch, 2, 5, count, generator=generator)
    made = {
        pk.VisionAttention: attention,
        pk.VisionKeys: keys,
        pk.TextRows: rows,
        pk.TextFeatures: torch.randn(batch, 5, 6, generator=generator),
        pk.InputFeatures: torch.randn(batch, 6, count, generator=generator),
    }
    signals = {need: made[type(need)] for need in pk.load(name).needs}
    return pk.TokenBatch.grid(torch.randn(batch, count, 6, generator=generator), 1, count, signals)


MERGING = ["prumerge", "prumerge-plus", "sparsevlm", "tome", "visionzip", "visionzip-mean"]


@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("count", [1, 2, 30, 49, 257])
@pytest.mark.parametrize("budget", [1, 2, 20, 0.4, 1.0])
def test_any_count_of_any_image(name, count, budget):
    """PruMerge's code fails below 33 tokens, PruMerge+'s below 575, SparseVLM's never keeps all."""
    tokens = image(name, count)
    selection = pk.load(name).cuts[0].swap(budget=budget)(tokens)
    wanted = min(budget, count) if isinstance(budget, int) else max(int(budget * count), 1)
    assert selection.counts.tolist() == [wanted]
    assert selection.merged.isfinite().all()


@pytest.mark.parametrize("name", ["sparsevlm", "tome", "visionzip", "visionzip-mean"])
def test_where_all_is_kept_nothing_changes(name):
    tokens = image(name, 60)
    assert torch.equal(pk.load(name).cuts[0].swap(budget=1.0)(tokens).merged, tokens.features)


@pytest.mark.parametrize("name", MERGING)
def test_a_batch_is_its_samples(name):
    """SparseVLM's code uses the first sample of a batch alone."""
    together = pk.load(name).cuts[0].swap(budget=24)(image(name, 100, batch=3))
    for sample in range(3):
        whole = image(name, 100, batch=3)
        signals = {signal: value[sample : sample + 1] for signal, value in whole.signals.items()}
        alone = pk.TokenBatch.grid(whole.features[sample : sample + 1], 1, 100, signals)
        selection = pk.load(name).cuts[0].swap(budget=24)(alone)
        assert torch.equal(selection.kept[0], together.kept[sample])
        torch.testing.assert_close(selection.merged[0], together.merged[sample])


def class_attention(count, outliers):
    """PruMerge's inputs, in which the first tokens stand out."""
    keys = torch.zeros(1 + count, 4)
    keys[1 : 1 + outliers, 0] = 20
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    inputs = {"features": features, "keys": keys, "cls_query": torch.tensor([1.0, 0, 0, 0])}
    return Case("made up", {}, inputs, {})


@pytest.mark.parametrize("count, outliers", [(49, 1), (49, 8), (196, 27), (30, 3)])
def test_prumerge_keeps_all_that_stand_out(count, outliers):
    """The official code takes int(N · (n / N)) of n outliers, which here is one fewer, or fails below 33."""
    given = RUNNERS["prumerge"](class_attention(count, outliers))
    assert given["kept_order"].tolist() == list(range(outliers))
    assert count == 30 or int(count * (outliers / count)) == outliers - 1


@pytest.mark.parametrize("method", ["prumerge", "prumerge_plus"])
def test_prumerge_where_nothing_stands_out(method):
    """One token is left that holds all; the sample of PruMerge+ divides by zero in the official code."""
    case = class_attention(64, 0)
    given = RUNNERS[method](case)
    sampled = [] if method == "prumerge" else [0]
    assert given["kept_order"].tolist() == sampled
    rest = case.inputs["features"][len(sampled) :].sum(0) / (64 + 1)
    torch.testing.assert_close(given["tokens"][-1], rest)


def test_prumerge_plus_samples_the_whole_image():
    """The official code samples no position from 575 on."""
    tokens = image("prumerge-plus", 600)
    select = [{"use": "strided", "among": "all", "step": 5, "leave": 1}]
    pipeline = pk.load("prumerge-plus").swap(budget=121, select=select, merge=None)
    sampled = pipeline(tokens).by(["strided"])[0].nonzero().flatten()
    assert sampled.tolist() == list(range(0, 600, 5))


@pytest.mark.parametrize("count, budget", [(576, 82), (144, 69), (100, 97), (576, 20), (576, 15)])
def test_sparsevlm_recycles_as_published_within_the_budget(count, budget):
    """As many are kept for their scores as leave room for one cluster in ten recycled, and one more."""
    selection = pk.load("sparsevlm").cuts[0].swap(budget=budget)(image("sparsevlm", count))
    best, clusters = (int(selection.by([step]).sum()) for step in ("top_k", "density_peaks"))
    published = [
        (kept, budget - kept)
        for kept in range(count)
        if int((int(0.3 * (count - kept)) + 1) / 10) + 1 == budget - kept
    ]
    assert (best, clusters) == (published[-1] if published else (0, budget))
    top = selection.scores[0].topk(best).indices.sort().values
    assert selection.by(["top_k"])[0].nonzero().flatten().tolist() == top.tolist()
