"""`prunekit run`: anybody's images, with and without pruning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Prunekit
from PIL import Image

from prunekit.cli.console import print_json
from prunekit.cli.images import read_image
from prunekit.testbed import GRID

WHERE = "Where is the small red triangle?"


def test_one_image_for_machines(prunekit: Prunekit, photograph: Path):
    result = prunekit("run", "--image", photograph, "--prompt", WHERE, "--json")
    assert result.code == 0, result.err
    (outcome,) = json.loads(result.out)
    assert outcome["pipeline"] == "d2pruner-grounding"
    assert isinstance(outcome["answer"], str)
    assert isinstance(outcome["answer_unpruned"], str)
    assert outcome["tokens"] == GRID**2
    assert outcome["kept"] == int(0.1 * GRID**2) == len(outcome["kept_indices"])
    assert outcome["kept_indices"] == sorted(set(outcome["kept_indices"]))
    assert outcome["report"]["flops"]["exact"]["after"] < outcome["report"]["flops"]["exact"]["before"]


def test_keeping_all_answers_as_without_pruning(prunekit: Prunekit, photograph: Path):
    result = prunekit("run", "--image", photograph, "--prompt", WHERE, "--budget", "1.0", "--json")
    (outcome,) = json.loads(result.out)
    assert outcome["kept"] == outcome["tokens"]
    assert outcome["answer"] == outcome["answer_unpruned"]


def test_budgets_keep_their_type(prunekit: Prunekit, photograph: Path):
    kept = {}
    for budget in ("1", "1.0", "20", "0.25"):
        result = prunekit("run", "--image", photograph, "--prompt", WHERE, "--budget", budget, "--json")
        kept[budget] = json.loads(result.out)[0]["kept"]
    assert kept == {"1": 1, "1.0": GRID**2, "20": 20, "0.25": GRID**2 // 4}


def test_a_folder_of_every_kind_of_image(prunekit: Prunekit, tmp_path: Path):
    folder = tmp_path / "album"
    folder.mkdir()
    Image.new("RGB", (640, 80), "teal").save(folder / "wide.jpg")
    Image.new("L", (31, 47), 90).save(folder / "grey.png")
    Image.new("RGBA", (64, 64), (200, 10, 10, 0)).save(folder / "clear.png")
    Image.new("P", (50, 50)).save(folder / "palette.gif")
    Image.new("I;16", (40, 40), 40_000).save(folder / "deep.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "notes.txt").write_text("no image")
    plot = tmp_path / "kept.png"
    result = prunekit("run", "--image", folder, "--prompt", "how many things?", "--json", "--plot", plot)
    assert result.code == 0, result.err
    assert len(json.loads(result.out)) == 6
    assert plot.is_file()


def test_settings_reach_into_the_pipeline(prunekit: Prunekit, photograph: Path):
    arguments = ["run", "--image", photograph, "--prompt", WHERE, "--json", "--budget", 40]
    plain = json.loads(prunekit(*arguments).out)[0]["kept_indices"]
    changed = prunekit(
        *arguments, "--set", "graph.alpha=0.0", "--set", "graph.above=0.95", "--set", "select.0.share=0.1",
        "--set", "bias=null",
    )  # fmt: skip
    assert changed.code == 0, changed.err
    assert json.loads(changed.out)[0]["kept_indices"] != plain


def test_own_pipeline_file(prunekit: Prunekit, photograph: Path, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: d2pruner\nname: mine\nat: {layer: 3}\nbudget: 21\nimportance: feature_norm\nbias: null\n"
        "graph: {use: any_of, of: [{use: cosine, above: 0.9}, {use: grid, falloff: radius}]}\n"
    )
    result = prunekit("run", "--image", photograph, "--prompt", WHERE, "--pipeline", file, "--json")
    assert result.code == 0, result.err
    (outcome,) = json.loads(result.out)
    assert (outcome["pipeline"], outcome["kept"]) == ("mine", 21)


def test_every_token_explained(prunekit: Prunekit, photograph: Path, tmp_path: Path):
    page = tmp_path / "report.html"
    arguments = ["run", "--image", photograph, "--prompt", WHERE, "--explain"]
    (outcome,) = json.loads(prunekit(*arguments, "--report", page, "--json").out)
    explained = outcome["explanations"]
    assert [token["token"] for token in explained if token["kept_by"]] == outcome["kept_indices"]
    for token in explained:
        assert token["debiased"] == pytest.approx(token["score"] / (token["biases"][0] + 1e-7), rel=1e-4)
        if token["suppressed_by"] is not None:
            assert token["suppressed_by"] in outcome["kept_indices"]
    html = page.read_text(encoding="utf-8")
    assert "data:image/png;base64," in html
    assert "http" not in html.replace("http-equiv", "")
    assert "suppressed by" in prunekit(*arguments).out


def test_questions_are_no_markup(prunekit: Prunekit, photograph: Path, tmp_path: Path):
    page = tmp_path / "report.html"
    prompt = "[bold]where[/bold] [/red] <script>alert(1)</script>?"
    result = prunekit("run", "--image", photograph, "--prompt", prompt, "--report", page)
    assert result.code == 0, result.err
    assert "<script>" not in page.read_text(encoding="utf-8")


MISTAKES = {
    "no such image": (["--image", "nowhere.png"], "nowhere.png"),
    "no such pipeline": (["--pipeline", "d2prunr"], "Did you mean 'd2pruner'?"),
    "no such file": (["--pipeline", "nowhere.yaml"], "nowhere.yaml"),
    "no such model": (["--model", "./nowhere"], "nowhere"),
    "budget of zero": (["--budget", "0"], "budget"),
    "budget over all": (["--budget", "1.5"], "budget"),
    "setting without a value": (["--set", "graph.alpha"], "path=value"),
    "setting that leads nowhere": (["--set", "graph.beta.gamma=1"], "beta"),
    "setting out of range": (["--set", "graph.alpha=7"], "graph.alpha"),
    "unknown stage": (["--set", "importance=text_atention"], "Did you mean 'text_attention'?"),
    "layer that does not exist": (["--set", "at.layer=99"], "layer"),
    "layer before the model": (["--set", "at.layer=0"], "layer"),
    "prior that does not exist": (["--set", "bias.prior=nowhere.safetensors"], "nowhere.safetensors"),
    "prior of another name": (["--set", "bias.prior=testbet-layer2"], "testbed-layer2"),
    "budget beyond counting": (["--budget", "99999999999999999999999"], "budget"),
    "budget in another script": (["--budget", "٣"], "budget"),
    "plot that is a folder": (["--plot", "."], "is a folder"),
    "plot inside a file": (["--plot", "/etc/hosts/kept.png"], "cannot be written"),
    "value with a tag": (["--set", "name=!!bool x"], "not YAML"),
    "image token in the prompt": (["--prompt", "what is <image> red?"], "prompts"),
    "empty prompt": (["--prompt", " "], "--prompt is empty"),
    "plot into nothing": (["--plot", "/proc/none/kept.png"], "cannot be written"),
}


@pytest.mark.parametrize(("extra", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_in_a_paragraph(prunekit: Prunekit, photograph: Path, extra: list[str], told: str):
    arguments = (
        ["run", "--prompt", WHERE]
        if "--image" in extra
        else ["run", "--prompt", WHERE, "--image", photograph]
    )
    result = prunekit(*arguments, *extra)
    assert result.code == 2
    assert told in result.err.replace("\n", " ")
    assert "Traceback" not in result.err
    assert result.out == ""


def test_a_file_that_is_no_image(prunekit: Prunekit, tmp_path: Path):
    file = tmp_path / "photo.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    result = prunekit("run", "--image", file, "--prompt", WHERE)
    assert result.code == 2
    assert "cannot be read as an image" in result.err


def test_an_empty_folder(prunekit: Prunekit, tmp_path: Path):
    result = prunekit("run", "--image", tmp_path, "--prompt", WHERE)
    assert result.code == 2
    assert "holds no images" in result.err


def test_a_prior_that_is_none(prunekit: Prunekit, photograph: Path, tmp_path: Path):
    file = tmp_path / "prior.safetensors"
    file.write_bytes(b"nothing of the kind")
    result = prunekit("run", "--image", photograph, "--prompt", WHERE, "--set", f"bias.prior={file}")
    assert result.code == 2
    assert "holds no prior" in result.err


def test_explaining_draws_who_suppressed_whom(prunekit: Prunekit, photograph: Path, tmp_path: Path):
    plain, explained = tmp_path / "plain.png", tmp_path / "explained.png"
    arguments = ["run", "--image", photograph, "--prompt", WHERE]
    prunekit(*arguments, "--plot", plain)
    prunekit(*arguments, "--plot", explained, "--explain")
    with Image.open(plain) as one, Image.open(explained) as other:
        assert one.size == other.size
        assert one.tobytes() != other.tobytes()


def test_deep_grey_images_keep_their_shades(tmp_path: Path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "fraction.tif")
    for name in ("deep.png", "fraction.tif"):
        shades = np.asarray(read_image(tmp_path / name))[..., 0].ravel()
        assert len(set(shades.tolist())) == 256
        assert (shades.min(), shades.max()) == (0, 255)


def test_json_is_strict_where_scores_are_none(capsys: pytest.CaptureFixture[str]):
    print_json({"score": float("nan"), "scores": [float("inf"), 1.0], "name": "\ud800"})
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["score"] is None
    assert told["scores"] == [None, 1.0]
