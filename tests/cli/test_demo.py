"""`prunekit demo` is the main job: it must run, and its numbers must mean what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Prunekit
from PIL import Image

from prunekit.testbed import GRID

ROWS = ["none", "d2pruner-grounding", "d2pruner", "fastv", "random", "uniform_grid"]


def test_rows_for_machines(prunekit: Prunekit, tmp_path: Path):
    plot = tmp_path / "demo.png"
    result = prunekit("demo", "--scenes", 4, "--json", "--plot", plot)
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert [row["pipeline"] for row in rows] == ROWS
    for row in rows:
        assert 0 <= row["general"] <= 1
        assert 0 <= row["loc50"] <= 1
        assert row["tokens"] == GRID**2
        assert row["prefill_ms"] > 0
    unpruned, *pruned = rows
    assert unpruned["kept"] == unpruned["tokens"]
    assert unpruned["flops_reduction"] == 0
    for row in pruned:
        assert row["kept"] == int(0.1 * GRID**2)
        assert 0.3 < row["flops_reduction"] < 1
        assert 0 < row["select_ms"] < row["prefill_ms"]
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height


def test_table_for_people(prunekit: Prunekit, tmp_path: Path):
    result = prunekit("demo", "--scenes", 2, "--budget", 30, "--plot", tmp_path / "demo.png")
    assert result.code == 0, result.err
    for name in ROWS:
        assert name in result.out
    assert f"30/{GRID**2}" in result.out


@pytest.mark.parametrize("budget", ["0", "1.5", "-3", "ten", "nan", "inf", "1e3"])
def test_budgets_that_are_none(prunekit: Prunekit, tmp_path: Path, budget: str):
    plot = tmp_path / "demo.png"
    result = prunekit("demo", f"--budget={budget}", "--plot", plot)
    assert result.code == 2
    assert "budget" in result.err
    assert not plot.exists()
