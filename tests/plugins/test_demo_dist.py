"""A distribution of a stranger, installed for real, works everywhere a built-in does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from environment import Environment

BROKEN = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "prunekit-broken"
version = "1.0"

[project.entry-points.prunekit]
broken = "prunekit_broken"

[tool.setuptools]
py-modules = ["prunekit_broken"]
"""

CHECK = """
import prunekit as pk, torch
from prunekit.testing import conformance
selector = pk.load("skyline").select[0]
blind = "it looks at places, not at scores"
conformance(selector, {"breaks_ties_by_index": blind, "ranks_nan_last": blind})
tokens = pk.TokenBatch.grid(torch.randn(2, 36, 4), 6, 6)
assert pk.load("skyline").swap(budget=6)(tokens).indices.tolist() == [[0, 1, 2, 3, 4, 5]] * 2
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment") / "site")
    made.install(Path(__file__).parent / "demo_dist")
    return made


def test_it_is_listed_with_its_plugin_and_file(environment: Environment):
    listed = json.loads(environment.prunekit("list", "--json").stdout)
    stage = next(entry for entry in listed["stages"] if entry["name"] == "first_rows")
    assert (stage["kind"], stage["plugin"]) == ("select", "demo_dist")
    assert stage["file"].startswith(str(environment.folder))
    assert "skyline" in {entry["name"] for entry in listed["pipelines"]}


def test_a_file_uses_its_stage(environment: Environment, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: skyline\nname: mine\nselect: [{use: first_rows}, top_k]\n")
    outcome = environment.prunekit("check", str(file))
    assert outcome.returncode == 0, outcome.stderr


def test_it_conforms_and_selects(environment: Environment):
    outcome = environment.python("-c", CHECK)
    assert outcome.returncode == 0, outcome.stderr


def test_it_can_be_blocked_by_name(environment: Environment):
    outcome = environment.prunekit("show", "skyline", PRUNEKIT_BLOCK="demo_dist")
    assert outcome.returncode == 2
    assert "skyline" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_plugin_that_raises_is_named_and_everything_else_works(tmp_path: Path):
    project = tmp_path / "broken"
    project.mkdir()
    (project / "pyproject.toml").write_text(BROKEN)
    (project / "prunekit_broken.py").write_text("raise OSError('no licence key')\n")
    environment = Environment(tmp_path / "site")
    environment.install(project)
    outcome = environment.prunekit("list")
    assert outcome.returncode == 0
    assert "d2pruner" in outcome.stdout
    assert "broken" in outcome.stderr
    assert "no licence key" in outcome.stderr
