"""`prunekit calibrate`: the mean of scores, over images, resumable, and found again by `prior: auto`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import Prunekit
from PIL import Image
from safetensors import safe_open

import prunekit as pk
from prunekit import hf
from prunekit.calibration import calibrate
from prunekit.prior import Prior, cached
from prunekit.testbed import CHECKPOINT, GRID, scene

PROMPT = "describe the picture."


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for seed in range(6):
        Image.fromarray(scene(seed, "train").image).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def bare_model(tmp_path: Path) -> Path:
    """The embedded model as somebody's local model, for which nothing was measured yet."""
    folder = tmp_path / "model"
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("prior-*"))
    return folder


def mean_score(album: Path, layer: int) -> torch.Tensor:
    """The attention of the last prompt token to each visual token, as transformers itself returns it."""
    loaded = hf.load("testbed")
    loaded.model.set_attn_implementation("eager")
    maps = []
    for file in sorted(album.iterdir()):
        inputs = hf.prompt_inputs(loaded.processor, [Image.open(file)], [PROMPT])
        with torch.no_grad():
            attention = loaded.model(**inputs, output_attentions=True).attentions[layer - 1]
        visual = inputs["input_ids"][0] == loaded.model.config.image_token_id
        maps.append(attention[0, :, -1, visual].mean(0).view(GRID, GRID))
    return torch.stack(maps).mean(0)


def test_it_is_the_mean_of_attention(prunekit: Prunekit, album: Path, tmp_path: Path):
    file = tmp_path / "prior.safetensors"
    result = prunekit(
        "calibrate", "--images", album, "--layer", 3, "--prompt", PROMPT, "--out", file, "--json"
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["images"] == 6
    prior = Prior.load(file)
    torch.testing.assert_close(prior.tile, mean_score(album, 3), rtol=1e-4, atol=1e-6)
    with safe_open(file, "pt") as held:
        told = held.metadata()
    assert (told["layer"], told["prompt"], told["images"]) == ("3", PROMPT, "6")
    assert told["model"] == "testbed"


def test_a_stopped_run_goes_on(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prunekit.calibration.SAVE_EVERY", 2)
    loaded, pipeline = hf.load("testbed"), pk.load("d2pruner")
    opened: list[int] = []
    files = sorted(album.iterdir())

    def opener(number: int):
        def read() -> Image.Image:
            if len(opened) == 5:
                opened.append(number)
                raise KeyboardInterrupt
            opened.append(number)
            return Image.open(files[number])

        return read

    images = [opener(number) for number in range(6)]
    unfinished = tmp_path / "unfinished.safetensors"
    with pytest.raises(KeyboardInterrupt):
        calibrate(loaded, images, pipeline, unfinished=unfinished)
    assert Prior.load(unfinished).images == 4
    prior = calibrate(loaded, images, pipeline, unfinished=unfinished)
    assert opened == [0, 1, 2, 3, 4, 5, 4, 5]
    assert prior.images == 6
    assert not unfinished.exists()
    whole = calibrate(loaded, [lambda f=f: Image.open(f) for f in files], pipeline)
    torch.testing.assert_close(prior.whole, whole.whole)


def test_another_prompt_does_not_go_on_from_it(album: Path, tmp_path: Path):
    loaded, pipeline = hf.load("testbed"), pk.load("d2pruner")
    unfinished = tmp_path / "unfinished.safetensors"
    images = [lambda f=f: Image.open(f) for f in sorted(album.iterdir())]
    calibrate(loaded, images[:2], pipeline, prompt="one").save(unfinished)
    with pytest.raises(pk.ConfigError, match="not measured alike"):
        calibrate(loaded, images, pipeline, prompt="another", unfinished=unfinished)


def test_a_model_without_a_prior_is_told_how_to_get_one(prunekit: Prunekit, album: Path, bare_model: Path):
    asked = ["run", "--model", bare_model, "--image", album / "0.png", "--prompt", PROMPT, "--json"]
    refused = prunekit(*asked)
    assert refused.code == 2
    assert f"prunekit calibrate --model {bare_model} --layer 2" in refused.err
    assert prunekit(*asked, "--set", "bias=null").code == 0
    assert prunekit("calibrate", "--model", bare_model, "--images", album).code == 0
    assert cached(str(bare_model), 2).is_file()
    assert prunekit(*asked).code == 0


def test_run_measures_a_missing_prior_once(prunekit: Prunekit, album: Path, bare_model: Path):
    asked = ["run", "--model", bare_model, "--image", album / "0.png", "--prompt", PROMPT, "--json"]
    first = prunekit(*asked, "--prior-images", album)
    assert first.code == 0, first.err
    assert "Prior measured on 6 images" in first.err
    second = prunekit(*asked, "--prior-images", album)
    assert "Prior measured" not in second.err
    assert json.loads(first.out)[0]["kept_indices"] == json.loads(second.out)[0]["kept_indices"]


STAGED = """
name: staged
importance: {use: text_attention, layer: same}
bias: {use: measured, prior: auto}
select: [mis, top_k]
graph: cosine
merge: {use: nearest, into: [mis]}
stages: [{at: {layer: 0}, budget: 0.5}, {at: {layer: 3}, budget: 0.25}]
"""


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A pipeline that wants a prior at two layers, and merges after a step."""
    file = tmp_path / "staged.yaml"
    file.write_text(STAGED)
    return file


def test_a_prior_for_each_of_several_places(prunekit: Prunekit, album: Path, bare_model: Path, staged: Path):
    asked = ["run", "--model", bare_model, "--image", album / "0.png", "--prompt", PROMPT, "--json"]
    assert prunekit(*asked, "--pipeline", staged).code == 2
    made = prunekit(*asked, "--pipeline", staged, "--prior-images", album)
    assert made.code == 0, made.err
    for layer in (0, 3):
        again = ["--pipeline", staged, "--layer", layer, "--out", bare_model / f"{layer}.safetensors"]
        result = prunekit("calibrate", "--model", bare_model, "--images", album, *again)
        assert result.code == 0, result.err
        measured, kept = Prior.load(again[-1]), Prior.load(cached(str(bare_model), layer))
        assert (measured.layer, kept.layer) == (layer, layer)
        assert torch.equal(measured.whole, kept.whole)


def test_a_layer_where_none_of_the_places_is(prunekit: Prunekit, album: Path, staged: Path):
    result = prunekit("calibrate", "--images", album, "--pipeline", staged, "--layer", 2)
    assert result.code == 2
    assert "staged prunes at layers 0, 3" in result.err


def test_no_images(prunekit: Prunekit, tmp_path: Path):
    result = prunekit("calibrate", "--images", tmp_path)
    assert result.code == 2
    assert "holds no images" in result.err
