"""What `prunekit new-plugin` writes works before a line of it is changed."""

from __future__ import annotations

from pathlib import Path

from environment import Environment


def test_the_project_passes_its_own_tests(tmp_path: Path):
    environment = Environment(tmp_path / "site")
    project = tmp_path / "project"
    written = environment.prunekit("new-plugin", "edge_energy", "--folder", str(project))
    assert written.returncode == 0, written.stderr
    environment.install(project)
    tested = environment.python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(project))
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout


def test_nothing_is_overwritten(tmp_path: Path):
    environment = Environment(tmp_path / "site")
    (tmp_path / "there").mkdir()
    refused = environment.prunekit("new-plugin", "edge_energy", "--folder", str(tmp_path / "there"))
    assert refused.returncode == 2
    assert "there already" in refused.stderr


def test_names_that_are_taken_or_no_words_are_refused(tmp_path: Path):
    environment = Environment(tmp_path / "site")
    for name in ("top_k", "Edge", "1st", "class", "../up"):
        refused = environment.prunekit("new-plugin", name, "--folder", str(tmp_path / "new"))
        assert refused.returncode == 2, name
        assert "Traceback" not in refused.stderr
        assert not (tmp_path / "new").exists()
