"""What stages say of themselves is so: what of a position they go by, and which pairs they compare."""

import math
from dataclasses import replace

import pytest
import torch
from test_registered import FIELDS
from torch.utils.flop_counter import FlopCounterMode

import prunekit as pk
from prunekit.graph import NoEdges
from prunekit.stages import BiasEstimator, GraphBuilder, ImportanceScorer, Merger

VARIANTS = {
    "anchors": [{"edges": "wrap"}],
    "fill": [{"by": "farthest"}],
    "grid": [{"falloff": "radius"}],
    "max_min": [{"start": "score"}],
    "nearest": [{"halves": True}],
    "off_centre": [{"centre": "sample"}, {"centre": "plane"}],
    "quota": [{"part": "chunk", "share": "mean"}, {"worth": "off_centre"}],
}
"""Fields that change what a stage goes by."""

ALWAYS = {"measured": {"prior": "testbed-layer2"}, "anchors": {"share": 1.0}}

SIDE, DIM, KEPT, ROOM = 16, 32, 2, 14
COUNT = SIDE * SIDE


def stages():
    for entry in pk.installed().stages:
        if not entry.stage.__module__.startswith("prunekit_plugins."):
            continue
        for fields in [{}, *VARIANTS.get(entry.name, [])]:
            given = {**FIELDS.get(entry.name, {}), **fields, **ALWAYS.get(entry.name, {})}
            stage = entry.stage.model_validate(given, context={"registry": pk.installed()})
            yield pytest.param(stage, id=f"{entry.name}{fields or ''}")


def tokens_for(stage, planes=1):
    """One sample of planes that lie on top of each other, with all that the stage needs."""
    random = torch.Generator().manual_seed(3)
    features = 2 + torch.randn(1, COUNT, DIM, generator=random)  # about half of all cosines are above 0.8
    signals = {}
    for need in stage.needs:
        shape = (1, 3, COUNT) if need.per_token else (1, 5, DIM)
        if isinstance(need, (pk.Keys, pk.VisionKeys, pk.WeightGradient)):
            shape = (1, 2, DIM // 2, COUNT)
        elif isinstance(need, (pk.InputFeatures, pk.JointFeatures)):
            shape = (1, DIM, COUNT)
        elif isinstance(need, pk.TextRows):
            shape = (1, 3, 5, COUNT)
        elif isinstance(need, (pk.Distance, pk.Sizes, pk.PaddedShare)):
            shape = (1, COUNT)
        signals[need] = torch.rand(shape, generator=random)
    return pk.TokenBatch.grid(features, SIDE // planes, SIDE, signals)


def outcome(stage, tokens):
    """What a stage makes of tokens, as one tensor."""
    scores = torch.rand(1, COUNT, generator=torch.Generator().manual_seed(5))
    if isinstance(stage, ImportanceScorer):
        return stage(tokens)
    if isinstance(stage, BiasEstimator):
        return stage(tokens).values
    if isinstance(stage, GraphBuilder):
        graph, everyone = stage(tokens), torch.arange(COUNT)[None]
        return graph.similarity(everyone, everyone)
    kept = torch.arange(COUNT)[None] < KEPT
    if isinstance(stage, Merger):
        kept = torch.arange(COUNT)[None] % 16 == 1
        named = {"steps": ("best",), "kept_by": torch.where(kept, 0, -1)}
        held = pk.load("fastv")(with_attention(tokens))
        return stage(tokens, replace(held, kept=kept, scores=scores, debiased=scores, **named))
    given = stage(pk.Candidates(tokens, scores, NoEdges(tokens.present), ROOM), kept, torch.tensor([ROOM]))
    return given.kept if isinstance(given, pk.Growth) else given


def with_attention(tokens):
    (need,) = pk.load("fastv").needs
    return replace(tokens, signals={**tokens.signals, need: torch.rand(1, 2, COUNT)})


def moved(tokens, positions):
    return replace(tokens, positions=positions)


def changes(stage, tokens, positions):
    return not torch.equal(outcome(stage, tokens), outcome(stage, moved(tokens, positions)))


def reshaped(tokens, planes):
    """The same raster order of each plane on rows twice as long."""
    size = COUNT // planes
    index = torch.arange(COUNT)
    cell = index % size
    return torch.stack([index // size, cell // (2 * SIDE), cell % (2 * SIDE)], -1)[None]


@pytest.mark.parametrize("stage", list(stages()))
def test_where(stage):
    if stage.use == "random":
        return  # its draw is a hash of positions, which mean nothing to it
    tokens = tokens_for(stage, planes=4)
    anywhere = tokens.positions[:, torch.randperm(COUNT, generator=torch.Generator().manual_seed(7))]
    assert changes(stage, tokens, anywhere) == bool(stage.where)
    assert changes(stage, tokens, reshaped(tokens, 4)) == ("cell" in stage.where)
    if "cell" not in stage.where:
        in_one = pk.TokenBatch.grid(tokens.features, SIDE, SIDE).positions
        assert changes(stage, tokens, in_one) == ("plane" in stage.where)


@pytest.mark.parametrize("stage", list(stages()))
def test_compares(stage):
    """Products of features are counted; those with texts are none of tokens with tokens."""
    if stage.use == "faiss_knn":
        return  # it counts for itself
    tokens = tokens_for(stage)
    with FlopCounterMode(display=False, custom_mapping=DISTANCES) as counted:
        outcome(stage, tokens)
    pairs = counted.get_total_flops() / (2 * DIM)
    texts = 3 * 5 * COUNT
    most = {"none": texts, "kept": 4 * (KEPT + ROOM) * COUNT, "all": math.inf}[stage.compares]
    least = {"none": 0, "kept": 1, "all": COUNT**2 / 32}[stage.compares]
    if not stage.parts:
        assert least <= pairs <= most, pairs


def as_products(a, b, *_, **__):
    return 2 * DIM * math.prod(a[:-1]) * b[-2]


DISTANCES = dict.fromkeys([torch.ops.aten._cdist_forward, torch.ops.aten._euclidean_dist], as_products)
"""Distances count like products of features."""
