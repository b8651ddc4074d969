"""Pruned networks: what remains is what the whole network computes when nobody reads the rest."""

import json
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import IMAGES, NETWORKS, Chain, ResNet, ViT, loss, made
from torch import nn

import prunekit as pk
from prunekit.budget import room_for
from prunekit_plugins.structural import prune

DOUBLE = IMAGES.double()
IPPRO = pk.load("ippro")
MAGNITUDE = pk.load("magnitude")
every_network = pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unread(network, report):
    """The whole network where each reader's weights of the dropped channels are 0, without torch-pruning."""
    network = deepcopy(network)
    for group in report.thinned:
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[list(group.kept)] = False
        for name in group.readers:
            layer = network.get_submodule(name)
            axis = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
            weight = layer.weight.data.movedim(axis, 0)
            first = 6 if isinstance(network, NETWORKS["Joined"]) and group.writers == ("b",) else 0
            size = 4 if name == "fc1" and isinstance(network, Chain) else 1
            mask = gone.repeat_interleave(size)
            weight[first : first + len(mask)][mask] = 0
    return network


def kept_by(report):
    """How many channels each layer writes after pruning."""
    return {name: len(group.kept) for group in report.thinned for name in group.writers}


def left_whole(report):
    """Why the channels that each layer writes are left whole."""
    return {name: each.reason for each in report.whole for name in each.writers}


# --- what remains -----------------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("budget", [0.5, 0.3, 2])
def test_it_computes_what_the_network_does_where_nobody_reads_the_rest(kind, budget):
    network = made(kind)
    pruned = prune(network, DOUBLE, IPPRO.swap(budget=budget), loss=loss)
    assert pruned.report.thinned
    for group in pruned.report.thinned:
        assert len(group.kept) == int(room_for(torch.tensor([group.channels]), budget))
    output = pruned.model(DOUBLE)
    assert output.shape == (2, 5)
    torch.testing.assert_close(output, unread(network, pruned.report)(DOUBLE))
    assert not torch.allclose(output, network(DOUBLE))


@every_network
def test_all_channels_are_the_same_network_bit_by_bit(kind):
    network = made(kind, torch.float32)
    pruned = prune(network, IMAGES, IPPRO.swap(budget=1.0), loss=loss)
    assert torch.equal(pruned.model(IMAGES), network(IMAGES))
    before, after = pruned.report.parameters
    assert before == after
    assert list(state(pruned.model)) == list(state(network))


@every_network
def test_the_network_itself_is_left_alone(kind):
    network = made(kind).train()
    network.get_parameter(next(iter(state(network)))).requires_grad_(False)
    before, flags = state(network), [each.requires_grad for each in network.parameters()]
    pruned = prune(network, DOUBLE, IPPRO, loss=loss)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training and all(module.training for module in pruned.model.modules())
    assert [each.requires_grad for each in pruned.model.parameters()] == flags
    assert all(each.grad is None for each in (*network.parameters(), *pruned.model.parameters()))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.25, 0.5, 0.75]))
@pytest.mark.parametrize("pipeline", [IPPRO, MAGNITUDE], ids=["ippro", "magnitude"])
def test_dead_channels_go_first_and_are_not_missed(pipeline, seed, share):
    """Channels with no weights in and out: as many as are dropped, anywhere."""
    network = made(Chain)
    generator = torch.Generator().manual_seed(seed)
    for write, read, size in (("a", "each", 1), ("b", "fc1", 4), ("fc1", "fc2", 1)):
        writer, reader = network.get_submodule(write), network.get_submodule(read)
        count = len(writer.bias)
        dead = torch.randperm(count, generator=generator)[: count - int(count * share)]
        writers = [(writer, 1 if write == "b" else 0), *([(reader, 0)] if read == "each" else [])]
        for layer, axis in writers:
            layer.weight.data.index_fill_(axis, dead, 0)
            layer.bias.data[dead] = 0
        if read != "each":
            columns = (dead[:, None] * size + torch.arange(size)).flatten()
            reader.weight.data[:, columns] = 0
    network.b.weight.data[(network.each.weight == 0).flatten(1).all(1)] = 0
    pruned = prune(network, DOUBLE, pipeline.swap(budget=share), loss=loss)
    torch.testing.assert_close(pruned.model(DOUBLE), network(DOUBLE), rtol=1e-12, atol=1e-12)


@every_network
def test_the_same_twice(kind):
    one, other = (prune(made(kind), DOUBLE, IPPRO, loss=loss) for _ in range(2))
    assert one.report == other.report
    assert all(torch.equal(value, one.model.state_dict()[name]) for name, value in state(other.model).items())


def test_what_is_pruned_trains():
    pruned = prune(made(ResNet), DOUBLE, IPPRO, loss=loss).model
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        value = loss(pruned)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]


# --- the report -------------------------------------------------------------------------------------------


def test_parameters_of_a_residual_network_are_those_of_the_kept_counts():
    report = prune(made(ResNet), DOUBLE, IPPRO.swap(budget=0.4), loss=loss).report
    kept = kept_by(report)
    assert kept == {
        "stem": 3, "blocks.0.conv2": 3, "blocks.0.conv1": 3,
        "blocks.1.conv1": 4, "blocks.1.down.0": 4, "blocks.1.conv2": 4,
    }  # fmt: skip
    into, wide, out = 3, 4, 5
    stem = 3 * into * 9 + into + 2 * into
    first = 2 * (into * into * 9 + 2 * into)
    second = (into * wide + wide * wide) * 9 + into * wide + 3 * 2 * wide
    assert report.parameters[1] == stem + first + second + wide * out + out
    assert report.flops[1] == 2 * 2 * (
        16 * 16 * (3 * into * 9 + 2 * into * into * 9)
        + 8 * 8 * (into * wide * 9 + wide * wide * 9 + into * wide)
        + wide * out
    )


def test_parameters_of_a_vision_transformer_are_those_of_the_kept_counts():
    network = made(ViT)
    report = prune(network, DOUBLE, IPPRO.swap(budget=10), loss=loss).report
    assert kept_by(report) == {"layers.0.fc1": 10, "layers.1.fc1": 10}
    before, after = report.parameters
    assert before == sum(each.numel() for each in network.parameters())
    assert before - after == 2 * (48 - 10) * (16 + 1 + 16)


def test_what_is_left_whole_and_why():
    reasons = left_whole(prune(made(ViT), DOUBLE, IPPRO, loss=loss).report)
    assert "gives them out" in reasons["head"]
    assert "normalised together" in reasons["layers.1.fc2"]
    mixed = [
        reason
        for layer, reason in reasons.items()
        if layer.endswith(("attention.q", "attention.k", "attention.v"))
    ]
    assert len(mixed) == 6 and all("split into heads" in reason for reason in mixed)
    grouped = left_whole(prune(made(NETWORKS["Joined"]), DOUBLE, IPPRO, loss=loss).report)
    assert {layer for layer, reason in grouped.items() if "in groups" in reason} == {"c", "grouped"}


def test_it_reads_as_a_table_and_as_json():
    report = prune(made(ResNet), DOUBLE, IPPRO, loss=loss).report
    told = str(report)
    assert "blocks.1.down.0 + blocks.1.conv2  12 → 6" in told
    assert f"{report.parameters[0]:,} → {report.parameters[1]:,}" in told
    assert json.loads(json.dumps(report.to_dict()))["thinned"][0]["kept"] == list(report.thinned[0].kept)


# --- stages of the house ----------------------------------------------------------------------------------


def test_graphs_and_other_selectors_choose_channels_too():
    """Copies of one filter are too alike to keep two of them."""
    network = made(ResNet)
    conv = network.blocks[0].conv1
    conv.weight.data[1:4] = conv.weight.data[0]
    apart = MAGNITUDE.swap(graph={"use": "cosine", "above": 0.999}, select=["mis"], budget=5)
    kept = {group.writers[0]: group.kept for group in prune(network, DOUBLE, apart).report.thinned}
    assert sum(channel < 4 for channel in kept["blocks.0.conv1"]) == 1


@pytest.mark.parametrize("inputs", [[DOUBLE], (DOUBLE,), {"x": DOUBLE}])
def test_inputs_may_be_arguments(inputs):
    assert prune(made(Chain), inputs, MAGNITUDE).report == prune(made(Chain), DOUBLE, MAGNITUDE).report


def test_it_does_not_mind_no_grad():
    with torch.no_grad():
        quiet = prune(made(NETWORKS["Encoder"]), DOUBLE, IPPRO, loss=loss).report
    assert quiet == prune(made(NETWORKS["Encoder"]), DOUBLE, IPPRO, loss=loss).report


def test_outputs_may_be_nested():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
            self.side = nn.Linear(6, 2)

        def forward(self, x):
            x = torch.relu(self.body(x))
            return {"map": self.head(x), "side": [self.side(x.mean((2, 3))), 3]}

    report = prune(Two().double(), DOUBLE, MAGNITUDE).report
    assert set(left_whole(report)) == {"head", "side"}
    assert kept_by(report) == {"body": 3}


# --- what is refused --------------------------------------------------------------------------------------


class Shuffled(nn.Module):
    """Channels that change places on their way, which types of layers do not tell."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.a(x)).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return self.fc(torch.relu(self.b(x)).mean((2, 3)))


def test_channels_that_change_places_are_found_out():
    report = prune(made(Shuffled), DOUBLE, MAGNITUDE).report
    assert kept_by(report) == {"b": 4}
    assert "shuffled" in left_whole(report)["a"]


def test_nothing_hides_behind_a_weight_of_zero():
    """A branch that is switched off hides that its heads are torn apart."""
    network = made(ViT)
    for layer in network.layers:
        nn.init.zeros_(layer.attention.out.weight)
    assert not any("attention" in name for name in kept_by(prune(network, DOUBLE, MAGNITUDE).report))


def test_weights_used_twice_are_left_whole():
    network = made(Chain)
    network.also = nn.Linear(7, 5)
    network.also.weight = network.fc2.weight
    assert "in another layer too" in left_whole(prune(network, DOUBLE, MAGNITUDE).report)["fc1"]


@pytest.mark.parametrize(
    ("network", "inputs", "why"),
    [
        (nn.Linear(4, 3), torch.randn(2, 4), "the model gives them out"),
        (nn.ReLU(), torch.randn(2, 4, requires_grad=True), "no convolutions and no linear layers"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), torch.randn(2, 4), "normalised"),
        (nn.ReLU(), torch.randn(2, 4), "no tensor that depends on its weights"),
    ],
)
def test_models_without_channels_to_prune(network, inputs, why):
    with pytest.raises(pk.UnsupportedModel, match=why):
        prune(network, inputs, MAGNITUDE)


def test_pipelines_for_visual_tokens_are_refused():
    with pytest.raises(pk.ConfigError, match=r"'fastv' needs TextAttention.*prunekit\.load\('ippro'\)"):
        prune(made(Chain), DOUBLE, pk.load("fastv"))


def test_gradients_need_a_loss():
    with pytest.raises(pk.ConfigError, match=r"'ippro' needs gradients.*loss=lambda model: cross_entropy"):
        prune(made(Chain), DOUBLE, IPPRO)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (lambda model: model(DOUBLE), "one number"),
        (lambda _: torch.zeros(()), "made from the model"),
        (lambda model: loss(model).item(), "as a tensor"),
        (lambda model: loss(model) * torch.nan, "finite; it is nan"),
    ],
)
def test_a_loss_is_one_finite_number(bad, why):
    network = made(Chain)
    before = state(network)
    with pytest.raises(pk.ConfigError, match=why):
        prune(network, DOUBLE, IPPRO, loss=bad)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_error_of_the_model_is_the_model_s():
    with pytest.raises(RuntimeError, match="channels"):
        prune(made(Chain), DOUBLE[:, :2], MAGNITUDE)


def test_a_language_model_cannot_be_attached_to():
    from prunekit import hf

    loaded = hf.load("testbed")
    with pytest.raises(pk.UnsupportedModel, match="WeightGradient"), IPPRO.attach(loaded.model):
        pass
