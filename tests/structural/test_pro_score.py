"""PROscore: against its definition, and the law that the length of a filter does not matter."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Chain, ResNet, loss, made

import prunekit as pk
from prunekit.testing import conformance
from prunekit_plugins.importance.feature_norm import FeatureNorm
from prunekit_plugins.structural.channels import tokens_of, weights_of
from prunekit_plugins.structural.pro_score import ProScore
from prunekit_plugins.structural.removal import groups_in, traced

IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
rates = st.sampled_from([1e-6, 0.01, 0.1, 1.0, 30.0])
factors = st.floats(1e-3, 1e3)


def channels(weights, gradients):
    """One sample of channels, from (channels, layers, width)."""
    signals = {pk.WeightGradient(): gradients.movedim(0, -1)[None]}
    return pk.TokenBatch.grid(weights.flatten(1)[None], 1, len(weights), signals)


def drawn(seed, layers=2, count=4, width=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, layers, width, generator=generator, dtype=torch.float64)


def by_definition(weight, gradient, rate):
    """The angle to the origin after one step of SGD in homogeneous coordinates, less the angle before."""
    length = weight.norm()
    point = (weight / length).requires_grad_()
    offset = torch.ones((), dtype=weight.dtype, requires_grad=True)
    effective = length * point / offset
    (effective * gradient).sum().backward()  # a loss with that gradient
    moved, scale = point - rate * point.grad, offset - rate * offset.grad
    return torch.atan2(moved.norm(), scale.abs()) - math.pi / 4


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), rate=rates)
def test_it_is_one_step_of_gradient_descent_in_homogeneous_coordinates(seed, rate):
    weights, gradients = drawn(seed)
    found = ProScore(rate=rate)(channels(weights, gradients))[0]
    wanted = [
        sum(by_definition(*pair, rate) for pair in zip(*channel, strict=True)) / 2
        for channel in zip(weights, gradients, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(wanted).detach(), rtol=1e-7, atol=1e-12)


@given(seed=st.integers(0, 2**31))
def test_a_small_step_is_first_order(seed):
    weights, gradients = drawn(seed, layers=1)
    found = ProScore(rate=1e-9)(channels(weights, gradients))[0]
    torch.testing.assert_close(found, -1e-9 * (weights * gradients).sum((1, 2)), rtol=1e-6, atol=1e-16)


@given(seed=st.integers(0, 2**31), rate=rates, factor=factors, sign=st.sampled_from([1, -1]))
def test_length_does_not_matter(seed, rate, factor, sign):
    weights, gradients = drawn(seed)
    scores = ProScore(rate=rate)(channels(weights, gradients))
    weights[0, 0] *= sign * factor
    gradients[0, 0] /= sign * factor
    torch.testing.assert_close(ProScore(rate=rate)(channels(weights, gradients)), scores, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_step_is_too_long(dtype):
    huge = torch.finfo(dtype).max
    weights = torch.tensor([[[1.0, 0]], [[1, 1]], [[huge, huge]], [[huge, 0]], [[0, 0]]], dtype=dtype)
    gradients = torch.tensor([[[huge, 0]], [[-huge, huge]], [[huge, huge]], [[0, 0]], [[1, 1]]], dtype=dtype)
    found = ProScore()(channels(weights, gradients))[0]
    assert found.isfinite().all()
    assert found.abs().max() <= math.pi / 4 + 1e-6
    assert found[3] == 0
    assert found[4] == found.min() == pytest.approx(-math.pi / 4)


def test_a_filter_that_training_shrinks_is_below_one_that_it_grows():
    weights = torch.ones(2, 1, 3)
    gradients = torch.stack([torch.ones(1, 3), -torch.ones(1, 3)])
    shrinks, grows = ProScore()(channels(weights, gradients))[0].tolist()
    assert shrinks < 0 < grows


def test_a_gradient_of_another_shape_is_refused():
    tokens = pk.TokenBatch.grid(torch.ones(1, 4, 6), 1, 4, {pk.WeightGradient(): torch.ones(1, 2, 4, 4)})
    with pytest.raises(pk.TokenError, match=r"layers · width numbers; got \(1, 2, 4, 4\) and features of 6"):
        ProScore()(tokens)


@pytest.mark.parametrize("stage", [ProScore(), ProScore(rate=5.0), FeatureNorm()])
def test_the_laws(stage):
    conformance(stage)


# --- the law in a network ---------------------------------------------------------------------------------


def scores(network, root, stage):
    """What a stage scores the channels of the group at `root`, on the calibration batch."""
    graph = traced(network, lambda model: model(IMAGES))
    group = next(each for each in groups_in(network, graph)[0] if each.root == root)
    weights = weights_of(network, group)
    gradients = dict(zip(weights, torch.autograd.grad(loss(network), weights), strict=True))
    return stage(tokens_of(network, group, gradients))[0]


def through_relu(network, channel, factor):
    network.a.weight.data[channel] *= factor
    network.a.bias.data[channel] *= factor
    network.each.weight.data[channel] /= factor


def through_flatten(network, channel, factor):
    network.b.weight.data[:, channel] *= factor
    network.b.bias.data[channel] *= factor
    network.fc1.weight.data[:, 4 * channel : 4 * channel + 4] /= factor


def into_batch_norm(network, channel, factor):
    block = network.blocks[0]
    block.conv1.weight.data[channel] *= factor
    block.bn1.running_mean[channel] *= factor
    block.bn1.weight.data[channel] /= factor


def one_of_two_writers(network, channel, factor):
    block = network.blocks[1]
    block.conv2.weight.data[channel] *= factor
    block.bn2.running_mean[channel] *= factor
    block.bn2.weight.data[channel] /= factor


@pytest.mark.parametrize(
    ("kind", "root", "rescale"),
    [
        (Chain, "each", through_relu),
        (Chain, "b", through_flatten),
        (ResNet, "blocks.0.conv1", into_batch_norm),
        (ResNet, "blocks.1.down.0", one_of_two_writers),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
@settings(max_examples=15)
@given(channel=st.integers(0, 3), factor=factors)
def test_a_rescaled_filter_keeps_its_score(kind, root, rescale, channel, factor):
    network = made(kind)
    wanted, output = scores(network, root, ProScore()), network(IMAGES)
    lengths = scores(network, root, FeatureNorm())
    rescale(network, channel, factor)
    torch.testing.assert_close(network(IMAGES), output)
    torch.testing.assert_close(scores(network, root, ProScore()), wanted, rtol=1e-7, atol=1e-10)
    if not 0.9 < factor < 1.1:
        assert not torch.allclose(scores(network, root, FeatureNorm())[channel], lengths[channel])


def test_length_changes_what_magnitude_keeps_and_not_what_pro_score_keeps():
    network, root = made(ResNet), "blocks.0.conv1"
    before = {stage.use: scores(network, root, stage) for stage in (ProScore(), FeatureNorm())}
    least = int(before["feature_norm"].argmin())
    into_batch_norm(network, least, 100.0)
    assert int(scores(network, root, FeatureNorm()).argmax()) == least
    assert torch.equal(scores(network, root, ProScore()).argsort(), before["pro_score"].argsort())
