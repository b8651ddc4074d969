"""Shipped stages against what the official implementations give, kept as data: see data/README.md."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import prunekit as pk

DATA = Path(__file__).parent / "data"
METHODS = json.loads((DATA / "index.json").read_text())["methods"]
STAGE = pk.installed().stage


def cases(method):
    """One test parameter a case: its numbers, and a function from tensor name to tensor."""
    tensors = load_file(DATA / f"{method}.safetensors")

    def case(described):
        return lambda name: tensors[f"{described['id']}.{name}"]

    return [
        pytest.param(described["params"], case(described), id=described["id"])
        for described in METHODS[method]["cases"]
    ]


def indices(selection):
    return selection.indices[0].tolist()


@pytest.mark.parametrize("numbers, tensor", cases("fastv"))
def test_fastv(numbers, tensor):
    start, length = numbers["image_start"], numbers["image_length"]
    row = tensor("input.attention_last_row")[None, :, start : start + length]
    tokens = pk.TokenBatch.grid(torch.zeros(1, length, 1), 1, length, {pk.TextAttention(): row})
    selection = pk.load("fastv").swap(budget=numbers["T"])(tokens)
    torch.testing.assert_close(selection.scores[0], tensor("expected.score"), rtol=2e-4, atol=1e-7)
    assert indices(selection) == tensor("expected.kept").tolist()


@pytest.mark.parametrize("numbers, tensor", cases("attention_bias"))
def test_attention_bias(numbers, tensor):
    """Where the budget exceeds the real patches, the official FastV style keeps fewer; prunekit keeps n."""
    grid = numbers["grid"]
    score = tensor("input.score").float()
    padded = (~tensor("expected.pad_mask").bool()).float().flatten()
    signals = {pk.TextAttention(): score[None, None], pk.PaddedShare(): padded[None]}
    tokens = pk.TokenBatch.grid(torch.zeros(1, grid * grid, 1), grid, grid, signals)
    pipeline = pk.load("fastv").swap(
        budget=numbers["T"], bias=[{"use": "exponential", "rate": numbers["decay"]}, "padding"]
    )
    selection = pipeline(tokens)
    expected = tensor("expected.weighted_score").float()
    torch.testing.assert_close(selection.debiased[0], expected, rtol=2e-4, atol=2e-5 * float(expected.max()))
    official = tensor("expected.kept").tolist()
    assert set(official) <= set(indices(selection))
    assert len(indices(selection)) == numbers["T"]
    assert len(official) == min(numbers["T"], int(grid * grid - padded.sum()))


@pytest.mark.parametrize("numbers, tensor", cases("pad_mask"))
def test_padding_by_share(numbers, tensor):
    """The official mask is the rule of `padding` on the exact padded share of each patch."""
    share = padded_share(*numbers["image_size"], numbers["grid"])
    tokens = pk.TokenBatch.grid(
        torch.zeros(1, share.numel(), 1), *share.shape, {pk.PaddedShare(): share.flatten()[None]}
    )
    weight = STAGE("bias", "padding")(threshold=numbers["pad_threshold"])(tokens).values
    assert torch.equal(weight.reshape(share.shape).bool(), tensor("expected.pad_mask").bool())


def padded_share(width, height, grid):
    """The padded share of each cell, for an image centred in the square of its longer side."""
    side = max(width, height)
    return 1 - covered(height, side, grid)[:, None] * covered(width, side, grid)[None]


def covered(length, side, grid):
    """The share of each of `grid` equal parts of a side that a centred stretch of this length covers."""
    first, last = (side - length) / 2 * grid / side, (side + length) / 2 * grid / side
    cell = torch.arange(grid, dtype=torch.float64)
    return ((cell + 1).clamp(max=last) - cell.clamp(min=first)).clamp(0, 1)


def picks(selector, features, scores, count):
    """The first `count` tokens a selector takes, in the order it takes them: with room for 1, for 2, …"""
    tokens = pk.TokenBatch.grid(features.float()[None], 1, len(features))
    candidates = pk.Candidates(tokens, scores[None], pk.NoEdges(tokens.present))
    nothing = torch.zeros_like(tokens.present)
    order: list[int] = []
    for room in range(1, count + 1):
        kept = selector(candidates, nothing, torch.tensor([room]))
        (newest,) = set(kept[0].nonzero().flatten().tolist()) - set(order)
        order.append(newest)
    return order


@pytest.mark.parametrize("numbers, tensor", cases("divprune"))
def test_divprune(numbers, tensor):
    """DivPrune is `max_min`."""
    features = tensor("input.features")
    order = picks(STAGE("select", "max_min")(), features, torch.zeros(len(features)), numbers["T"])
    assert order == tensor("expected.order").tolist()


@pytest.mark.parametrize("numbers, tensor", cases("cdpruner"))
def test_cdpruner(numbers, tensor):
    """CDPruner is `dpp`; what is least like the prompt is most relevant to it."""
    patches, words = tensor("input.image_embeds").float(), tensor("input.text_embeds").float()
    scores = -torch.nn.functional.cosine_similarity(patches[:, None], words[None], dim=-1).mean(-1)
    order = picks(STAGE("select", "dpp")(), tensor("input.features"), scores, numbers["T"])
    assert order == tensor("expected.order").tolist()


@pytest.mark.parametrize("numbers, tensor", cases("idpruner"))
def test_idpruner(numbers, tensor):
    """IDPruner, one token at a time, is `mmr`."""
    stage = STAGE("select", "mmr")(balance=numbers["lambda"])
    order = picks(stage, tensor("input.features"), tensor("input.raw_score").float(), numbers["T"])
    assert order == tensor("expected.order").tolist()


@pytest.mark.parametrize("numbers, tensor", cases("scope"))
def test_scope(numbers, tensor):
    """SCOPE is `coverage`."""
    stage = STAGE("select", "coverage")(alpha=numbers["alpha"])
    order = picks(stage, tensor("input.features"), tensor("input.attention").float(), numbers["T"])
    assert order == tensor("expected.order").tolist()
