"""Runs the command line in this process, and makes images to run it on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import Prunekit, Result
from PIL import Image

from prunekit.cli import main
from prunekit.testbed import scene


@pytest.fixture
def prunekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prunekit:
    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["prunekit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return Result(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A scene as a file, larger than the model's images and not square."""
    file = tmp_path / "scene.png"
    Image.fromarray(scene(5).image).resize((320, 240)).save(file)
    return file
