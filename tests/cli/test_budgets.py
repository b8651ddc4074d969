"""`prunekit budget`: from a target to layer budgets, and back."""

import json

import pytest
import yaml
from commands import Prunekit

PYRAMID = """
name: pyramid
importance: {use: text_attention, layer: same}
select: top_k
stages:
  - {at: {layer: 1}, budget: 0.5}
  - {at: {layer: 3}, budget: 0.25}
  - {at: {layer: 5}, budget: 0.125}
"""


@pytest.fixture
def pyramid(tmp_path):
    file = tmp_path / "pyramid.yaml"
    file.write_text(PYRAMID)
    return str(file)


def told(prunekit: Prunekit, *options: str):
    return json.loads(prunekit("budget", *options, "--json").out)


def test_back_from_budgets_to_what_they_come_to(prunekit: Prunekit, pyramid: str):
    found = told(prunekit, "--pipeline", pyramid, "--visual", "576")
    assert found["layers"] == [1, 3, 5]
    assert found["kept"] == [288, 144, 72]
    assert found["average"] == pytest.approx((576 + 2 * 288 + 2 * 144 + 72) / 6)
    assert found["saving"]["fastv-visual"] > found["saving"]["fastv"] > 0


@pytest.mark.parametrize("convention", ["exact", "unmasked", "fastv", "fastv-visual"])
def test_there_and_back(prunekit: Prunekit, pyramid: str, convention: str):
    found = told(prunekit, "--pipeline", pyramid, "--save", "0.6", "--convention", convention)
    assert found["saving"][convention] == pytest.approx(0.6, abs=2e-3)
    found = told(prunekit, "--pipeline", pyramid, "--average", "200")
    assert found["average"] == pytest.approx(200, abs=1)
    assert found["kept"][0] == pytest.approx(2 * found["kept"][1], abs=1)


def test_the_blocks_to_write_are_a_pipeline(prunekit: Prunekit, pyramid: str, tmp_path):
    shown = prunekit("budget", "--pipeline", pyramid, "--average", "200").out
    blocks = yaml.safe_load(shown[shown.index("extends") :])
    child = tmp_path / "child.yaml"
    child.write_text(yaml.safe_dump(blocks))
    assert told(prunekit, "--pipeline", str(child))["average"] == pytest.approx(200, abs=1)
    single = prunekit("budget", "--pipeline", "fastv", "--average", "300").out
    assert yaml.safe_load(single[single.index("extends") :])["extends"] == "fastv"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--average", "1"], "96.83 to 576 are possible"),
        (["--average", "100", "--save", "0.5"], "give one"),
        (["--save", "0.99"], "are possible"),
        (["--pipeline", "nowhere"], "no pipeline"),
        (["--model", "./nowhere"], "nowhere"),
        (["--visual", "1" + 30 * "0"], "--visual"),
        (["--text", "1" + 400 * "0"], "--text"),
    ],
)
def test_mistakes(prunekit: Prunekit, pyramid: str, options: list[str], message: str):
    result = prunekit("budget", "--pipeline", pyramid, *options)
    assert result.code == 2
    assert message in result.err
