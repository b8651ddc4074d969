"""Stages around the graph read no value: all of them run on tensors that hold none."""

import pytest
import torch

import prunekit as pk
from prunekit_plugins.bias.exponential import Exponential
from prunekit_plugins.bias.measured import Measured
from prunekit_plugins.bias.padding import Padding
from prunekit_plugins.importance.constant import Constant
from prunekit_plugins.importance.feature_norm import FeatureNorm
from prunekit_plugins.importance.rated_attention import RatedAttention
from prunekit_plugins.importance.text_attention import TextAttention
from prunekit_plugins.importance.vision_attention import VisionAttention


@pytest.mark.parametrize(
    "stage",
    [
        Constant(),
        FeatureNorm(order=1),
        FeatureNorm(order=2),
        TextAttention(heads="mean"),
        TextAttention(heads="max"),
        VisionAttention(),
        RatedAttention(),
        Exponential(),
        Padding(),
        Measured(prior="testbed-layer2"),
        Measured(prior="testbed-layer2", resize="linear"),
    ],
    ids=repr,
)
def test_nothing_is_read(stage):
    shapes = {pk.PaddedShare(): (30,), pk.TextFeatures("input"): (4, 8), pk.InputFeatures(): (8, 30)}
    shapes[pk.TextRows()] = (3, 4, 30)
    needs = {need: torch.zeros(2, *shapes.get(need, (3, 30)), device="meta") for need in stage.needs}
    tokens = pk.TokenBatch.grid(torch.zeros(2, 30, 8, device="meta"), 5, 3, needs)
    given = stage(tokens)
    values = given.values if isinstance(given, pk.Bias) else given
    assert values.shape == (2, 30)
    assert values.device.type == "meta"
