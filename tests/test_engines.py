"""The two engines: the device form reads nothing, and gives what the host form gives wherever it says so."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit import TextAttention
from prunekit.budget import room_for
from prunekit.kernels import merging
from prunekit.testing import token_sets

ATTENTION = TextAttention()
SPREAD = {"use": "grid", "falloff": "radius", "radius": 1, "above": 0.5}
ALIKE = {"use": "cosine", "above": 0.6}
GRAPHS = {
    "clip": ALIKE,
    "shift": {"use": "cosine", "scaling": "shift"},
    "min_max": {"use": "cosine", "scaling": "min_max"},
    "linear": {"use": "grid", "falloff": "linear"},
    "gaussian": {"use": "grid", "falloff": "gaussian", "above": 0.6},
    "radius": SPREAD,
    "blend": {"use": "blend", "semantic": "cosine", "spatial": "grid", "above": 0.6},
    "near_blend": {"use": "blend", "semantic": "cosine", "spatial": {"use": "grid", "falloff": "gaussian"}},
    "both": {"use": "all_of", "of": [ALIKE, SPREAD]},
    "either": {"use": "any_of", "of": [ALIKE, SPREAD]},
    "none": None,
}
SELECTS = {
    "mis": ["mis"],
    "d2pruner": [{"use": "top_k", "share": 0.7}, "mis", "fill"],
    "around": [{"use": "top_k", "share": 0.3}, {"use": "mis", "around_kept": "suppress"}],
}


def shipped(name, prior_file):
    """A shipped pipeline with a prior that needs no model."""
    pipeline = pk.load(name)
    return pipeline.swap(bias={"use": "measured", "prior": str(prior_file)}) if pipeline.bias else pipeline


AXES = {
    pk.Keys: (4, 16),
    pk.VisionKeys: (4, 16),
    pk.TextRows: (4, 5),
    pk.InputFeatures: (16,),
    pk.JointFeatures: (16,),
    pk.WeightGradient: (2, 8),
}
"""What stands between batch and tokens; heads otherwise."""


def tiles(images, device, needs=frozenset({ATTENTION})):
    """Images of two tiles each, with made-up signals."""
    shapes = {
        signal: (*AXES.get(type(signal), (4,)), 128) if signal.per_token else (5, 16) for signal in needs
    }
    signals = {signal: torch.rand(images, *shape, device=device) for signal, shape in shapes.items()}
    return pk.TokenBatch.grid(torch.randn(images, 128, 16, device=device), 8, 8, signals=signals)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("select", SELECTS.values(), ids=SELECTS)
@settings(max_examples=25)
@given(tokens=token_sets(needs={ATTENTION}), budget=st.sampled_from([1, 3, 0.2, 0.5, 1.0]))
def test_both_engines_select_the_same(graph, select, tokens, budget):
    pipeline = pk.load("fastv").swap(graph=graph, select=select, budget=budget)
    host, device = pipeline(tokens), pipeline(tokens, engine="device")
    assert torch.equal(device.counts, room_for(tokens.counts, budget))
    same = (host.kept == device.kept).all(-1)
    assert (same | ~device.exact).all()
    assert torch.equal(device.settled().kept, host.kept)
    assert host.exact.all()


@pytest.mark.parametrize(
    "name", [entry.name for entry in pk.installed().pipelines if entry.name != "uniform_grid"]
)
def test_the_device_form_reads_nothing(name, prior_file):
    """On tensors that hold no values: whatever looked at one, or at how many there are, would raise."""
    pipeline = shipped(name, prior_file)
    selection = pipeline(tiles(3, "meta", pipeline.needs))
    assert selection.kept.device.type == "meta"
    assert selection.kept.shape == selection.kept_by.shape == (3, 128)
    assert selection.exact.shape == (3,)
    assert selection.merged is None or selection.merged.shape == (3, 128, 16)


@pytest.mark.parametrize("name", ["prumerge", "prumerge-plus", "sparsevlm", "tome", "visionzip"])
@pytest.mark.parametrize("budget", [7, 32, 0.3, 1.0])
def test_both_engines_merge_the_same(name, budget, monkeypatch):
    """On accelerators every token has a seat for a group, and centres are looked for among all."""
    pipeline = pk.load(name).cuts[0].swap(budget=budget)
    tokens = tiles(3, "cpu", pipeline.needs)
    tokens = dataclasses.replace(tokens, present=torch.arange(128) < torch.tensor([[128], [50], [9]]))
    host = pipeline(tokens)
    monkeypatch.setattr(merging, "engine_for", lambda device: "device")
    device = pipeline(tokens, engine="device")
    assert torch.equal(device.settled().kept, host.kept)
    same = (device.kept == host.kept).all(-1)
    assert (same | ~device.exact).all()
    torch.testing.assert_close(device.settled().merged, host.merged)


def test_halving_cut_short_says_so_and_is_finished_when_settled():
    """The first half holds one token that may go, and so again when that has gone: the rounds run out."""
    features = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0))
    scores = (torch.arange(64) % 2 == 0).float()
    scores[62] = 0
    tokens = pk.TokenBatch.grid(features, 8, 8, signals={ATTENTION: scores.expand(1, 1, -1)})
    pipeline = pk.load("fastv").swap(budget=33, select=[{"use": "top_k", "share": 0.94}, "bipartite"])
    device = pipeline(tokens, engine="device")
    assert device.exact.tolist() == [False]
    assert device.counts.tolist() == [33]
    assert torch.equal(device.settled().kept, pipeline(tokens).kept)


def test_a_walk_cut_short_says_so_and_is_finished_when_settled():
    """More look-alikes in front than the device form looks at: the count holds, the flag says the rest."""
    features = torch.eye(8).repeat_interleave(512, 0)[None]
    scores = torch.arange(4096.0, 0, -1).expand(1, 1, -1)
    tokens = pk.TokenBatch.grid(features, 64, 64, signals={ATTENTION: scores})
    pipeline = pk.load("fastv").swap(graph="cosine", select=["mis"], budget=8)
    device = pipeline(tokens, engine="device")
    assert device.exact.tolist() == [False]
    assert device.counts.tolist() == [8]
    assert device.counts_by_step.tolist() == [[1, 7]]
    settled = device.settled()
    assert settled.exact.all()
    assert settled.indices.tolist() == [list(range(0, 4096, 512))]
    assert settled.settled() is settled
    assert torch.equal(settled.kept, pipeline(tokens).kept)


def test_what_rounds_leave_undecided_is_not_passed_off_as_exact():
    """A path of candidates, each suppressed by the one before, is longer than there are rounds."""
    features = torch.randn(1, 256, 4, generator=torch.Generator().manual_seed(0))
    tokens = pk.TokenBatch.grid(
        features, 1, 256, signals={ATTENTION: torch.arange(256.0, 0, -1).expand(1, 1, -1)}
    )
    pipeline = pk.load("fastv").swap(graph=SPREAD, select=["mis"], budget=128)
    device = pipeline(tokens, engine="device")
    assert device.exact.tolist() == [False]
    assert device.settled().indices.tolist() == [list(range(0, 256, 2))]


class Rude(pk.Selector):
    """Keeps everything, whatever there is room for."""

    use: str = "rude"

    def __call__(self, candidates, kept, room):
        return torch.ones_like(kept)


def test_faults_are_found_when_a_selection_is_settled():
    tokens = pk.TokenBatch.grid(torch.randn(1, 4, 2), 2, 2)
    pipeline = pk.load("random").swap(select=[Rude()], budget=1)
    selection = pipeline(tokens, engine="device")
    with pytest.raises(pk.TokenError, match="'rude' kept more than there was room for"):
        selection.settled()
    with pytest.raises(pk.TokenError, match="'rude' kept more than there was room for"):
        pipeline(tokens)


@pytest.mark.parametrize(
    "graph, engine, way",
    [("cosine", "host", "lazy: "), (SPREAD, "host", "stencil: "), ("cosine", "device", "prefix: ")],
)
def test_an_explanation_says_how_the_set_was_walked(graph, engine, way):
    features = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0))
    tokens = pk.TokenBatch.grid(features, 8, 8)
    pipeline = pk.load("random").swap(graph=graph, select=["mis"], budget=4)
    selection = pipeline(tokens, engine=engine)
    kept = int(selection.kept[0].nonzero()[0])
    dropped = int((~selection.kept[0]).nonzero()[0])
    assert selection.explain(0, kept).way.startswith(way)
    assert not selection.explain(0, dropped).way


def odd(growth, **values):
    """A growth of values that the shape checks around this suite would not let through."""
    for name, value in values.items():
        object.__setattr__(growth, name, value)
    return growth


class Vain(pk.Selector):
    """Says more of what it kept than is right."""

    use: str = "vain"
    fault: str = ""

    def __call__(self, candidates, kept, room):
        first = candidates.tokens.present & ~kept
        first = first & (first.cumsum(-1) <= room[:, None])
        match self.fault:
            case "inexact":
                return pk.Growth(kept | first, exact=torch.zeros_like(room, dtype=torch.bool))
            case "exact":
                return odd(pk.Growth(kept | first), exact=torch.ones(7, dtype=torch.bool))
            case "suppressing":
                return odd(pk.Growth(kept | first), suppressing=first[:1, :2])
        return [first]


@pytest.mark.parametrize(
    "fault, complaint",
    [
        ("inexact", "'vain' says that its own answer is not exact"),
        ("exact", r"'vain' must give exact as a bool mask \(2,\) on cpu; it gave torch.bool \(7,\)"),
        ("suppressing", r"'vain' must give suppressing as a bool mask \(2, 4\)"),
        ("", "'vain' must give a Tensor or a Growth; it gave a list"),
    ],
)
def test_growths_that_do_not_fit_are_refused(fault, complaint):
    tokens = pk.TokenBatch.grid(torch.randn(2, 4, 2), 2, 2)
    with pytest.raises(pk.PrunekitError, match=complaint):
        pk.load("random").swap(select=[Vain(fault=fault)], budget=2)(tokens)


@pytest.mark.parametrize("falloff", ["linear", "gaussian", "radius"])
@pytest.mark.parametrize("plane, row", [(2**24, 0), (2**40, 0), (-(2**40), 2**40), (7, -(2**30))])
def test_how_planes_and_cells_are_numbered_does_not_matter(falloff, plane, row):
    """Numbers too large for float32 to tell apart select what small ones do."""
    cells = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4))[None]
    present = torch.ones(1, 32, dtype=torch.bool)
    features = torch.randn(1, 32, 4, generator=torch.Generator().manual_seed(0))
    pipeline = pk.load("random").swap(
        graph={"use": "grid", "falloff": falloff, "above": 0.5}, select=["mis"], budget=32
    )
    near, far = (
        pk.TokenBatch(features, cells + torch.tensor([first, top, 0]), present)
        for first, top in ((0, 0), (plane, row))
    )
    if falloff == "linear":
        assert pipeline.graph(near).to_dense()[0, :16, 16:].any().logical_not()
        return
    for engine in ("host", "device"):
        assert pipeline(far, engine).counts_by_step.equal(pipeline(near, "host").counts_by_step)


@pytest.mark.parametrize("select", ["max_min", "mmr", "coverage", {"use": "fill", "by": "farthest"}])
@pytest.mark.parametrize("engine", ["host", "device"])
def test_copies_of_one_token_are_tied(select, engine):
    pair = torch.tensor([[1.0, 2.0, 3.0], [3.0, -1.0, 1.0]])
    tokens = pk.TokenBatch.grid(pair[[0, 1, 0, 1, 0]][None], 1, 5)
    kept = pk.load("random").swap(importance="constant", select=[select], budget=3)(tokens, engine)
    assert kept.settled().indices.tolist() == [[0, 1, 2]]


def test_padding_is_suppressed_by_nobody():
    tokens = pk.TokenBatch(
        torch.ones(1, 4, 2), torch.zeros(1, 4, 3).long(), torch.tensor([[True, True, True, False]])
    )
    selection = pk.load("random").swap(importance="constant", graph="cosine", select=["mis"], budget=1)(
        tokens
    )
    assert [selection.explain(0, token).suppressed_by for token in range(4)] == [None, 0, 0, None]


def test_an_unknown_engine_is_refused():
    with pytest.raises(pk.ConfigError, match="engine is one of host, device"):
        pk.load("random")(pk.TokenBatch.grid(torch.randn(1, 4, 2), 2, 2), engine="Device")
