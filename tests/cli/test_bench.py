"""`prunekit bench select` measures what it says, and says where it does not agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Prunekit, Result
from PIL import Image

import prunekit.bench.select as measuring
from prunekit.bench.features import KINDS, Size, made_up
from prunekit.bench.select import CASES

TINY = ["--tokens", 36, "--dim", 8, "--keep", 6]
COUNTED = ("ops", "syncs", "peak_mb")


def rows(result: Result) -> list[dict]:
    return json.loads(result.out)["rows"]


def test_rows_for_machines(prunekit: Prunekit):
    result = prunekit("bench", "select", *TINY, "--json")
    assert result.code == 0, result.err
    assert [row["case"] for row in rows(result)] == list(CASES)
    for row in rows(result):
        assert (row["tokens"], row["dim"], row["batch"], row["keep"]) == (36, 8, 1, 6)
        assert (row["device"], row["engine"], row["features"]) == ("cpu", "host", "clustered")
        assert min(row[f"{what}_ms"] for what in ("ours", "gram", "dense", "naive")) > 0
        assert not row["gram_extrapolated"]
        assert row["ops"] > 0
        assert row["same"]
    assert json.loads(result.out)["environment"]["threads"] == 1


def test_every_combination_is_a_row(prunekit: Prunekit):
    result = prunekit(
        "bench", "select", "--case", "d2pruner", "--case", "max_min", "--tokens", 16, "--tokens", 36,
        "--dim", 8, "--keep", 4, "--keep", "0.5", "--batch", 1, "--batch", 3, "--json",
    )  # fmt: skip
    asked = [(row["case"], row["tokens"], row["budget"], row["batch"]) for row in rows(result)]
    assert len(set(asked)) == len(asked) == 16
    assert {row["keep"] for row in rows(result) if row["budget"] == 0.5} == {8, 18}


@pytest.mark.parametrize("features", KINDS)
@pytest.mark.parametrize("engine", ["host", "device"])
def test_the_textbook_agrees(prunekit: Prunekit, features: str, engine: str):
    size = ["--tokens", 100, "--dim", 64, "--keep", 12, "--batch", 2]
    result = prunekit("bench", "select", *size, "--features", features, "--engine", engine, "--json")
    assert result.code == 0, result.err
    assert all(row["same"] for row in rows(result))


def test_counts_are_the_same_on_every_run(prunekit: Prunekit):
    first, second = (rows(prunekit("bench", "select", *TINY, "--json")) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert [one[name] for name in COUNTED] == [other[name] for name in COUNTED]


def test_table_and_picture_for_people(prunekit: Prunekit, tmp_path: Path):
    plot = tmp_path / "costs.png"
    result = prunekit("bench", "select", *TINY, "--tokens", 64, "--plot", plot)
    assert result.code == 0, result.err
    for word in (*CASES, "× Gram", "× dense", "× naive", "D 8", "yes"):
        assert word in result.out
    assert "…" not in result.out
    assert "Gram" in result.err
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def test_a_wrong_selection_is_told(prunekit: Prunekit, monkeypatch: pytest.MonkeyPatch):
    honest = measuring.dense
    monkeypatch.setattr(measuring, "dense", lambda case, sample: honest(case, sample)[1:])
    result = prunekit("bench", "select", *TINY, "--case", "d2pruner")
    assert result.code == 1
    assert "NO" in result.out
    assert "not the textbook's" in result.err
    told = prunekit("bench", "select", *TINY, "--case", "d2pruner", "--json")
    assert told.code == 1
    assert [row["same"] for row in rows(told)] == [False]


def test_what_takes_too_long_is_left_out(prunekit: Prunekit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "REFERENCE_WORK", 0)
    monkeypatch.setattr(measuring, "WHOLE_GRAM", 16)
    monkeypatch.setattr(measuring, "GRAM_ROWS", 4)
    result = prunekit("bench", "select", *TINY, "--case", "mmr", "--json")
    (row,) = rows(result)
    assert (row["dense_ms"], row["naive_ms"], row["same"]) == (None, None, None)
    assert row["gram_extrapolated"]
    assert result.code == 0
    assert "~" in prunekit("bench", "select", *TINY, "--case", "mmr").out


def test_what_does_not_fit_is_told(prunekit: Prunekit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "MEMORY", 4 * 36 * 8)
    result = prunekit("bench", "select", *TINY, "--batch", 1, "--batch", 2, "--case", "mmr")
    assert result.code == 0
    assert "Left out: 1" in result.err
    monkeypatch.setattr(measuring, "OUR_WORK", 0)
    result = prunekit("bench", "select", *TINY, "--case", "mmr")
    assert result.code == 2
    assert "ask for less" in result.err


@pytest.mark.parametrize("tokens", [1, 2, 7, 37])
def test_few_tokens(prunekit: Prunekit, tokens: int):
    result = prunekit("bench", "select", "--tokens", tokens, "--dim", 4, "--keep", "0.6", "--json")
    assert result.code == 0, result.err
    assert {row["keep"] for row in rows(result)} == {max(int(tokens * 0.6), 1)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 13, 576, 2880, 3328])
def test_made_up_tokens(kind: str, tokens: int):
    shape = Size(kind, tokens, 4, 2)
    batch = made_up(shape, measuring.torch.device("cpu"))
    assert batch.features.shape == (2, tokens, 4)
    assert batch.features.isfinite().all()
    assert batch.positions.amax((0, 1)).add(1).tolist() == list(shape.planes)


MISTAKES = {
    "no such case": (["--case", "d2prunr"], "Did you mean 'd2pruner'?"),
    "no such features": (["--features", "gausian"], "Did you mean 'gaussian'?"),
    "no such device": (["--device", "gpu"], "--device gpu"),
    "no such engine": (["--engine", "both"], "both"),
    "no budget": (["--keep", "0"], "budget"),
    "no tokens": (["--tokens", "0"], "equal to 1"),
    "plot that is a folder": (["--plot", "."], "is a folder"),
}


@pytest.mark.parametrize(("extra", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_in_a_paragraph(prunekit: Prunekit, extra: list[str], told: str):
    result = prunekit("bench", "select", *TINY, *extra)
    assert result.code == 2
    assert told in result.err.replace("\n", " ")
    assert "Traceback" not in result.err
    assert result.out == ""
