"""`prunekit golden`: exit codes, and what people and machines are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from commands import Prunekit

DATA = Path(__file__).parents[1] / "golden" / "data"


def test_methods_that_pass(prunekit: Prunekit):
    told = prunekit("golden", DATA, "--method", "fastv", "--method", "pad_mask", "--json")
    assert told.code == 0
    outcomes = json.loads(told.out)["methods"]
    assert [(one["method"], one["passed"], one["failed"]) for one in outcomes] == [
        ("fastv", 6, 0),
        ("pad_mask", 5, 0),
    ]
    assert outcomes[0]["cases"][0] == {"case": "case0", "passed": True, "faults": []}
    for_people = prunekit("golden", DATA, "--method", "fastv")
    assert for_people.code == 0
    assert "fastv" in for_people.out


def test_a_mismatch_is_exit_code_1(prunekit: Prunekit, tmp_path: Path):
    index = json.loads((DATA / "index.json").read_text())
    index["methods"] = {"fastv": index["methods"]["fastv"]}
    index["methods"]["fastv"]["cases"][2]["params"]["T"] = 100
    (tmp_path / "index.json").write_text(json.dumps(index))
    shutil.copy(DATA / "fastv.safetensors", tmp_path)
    told = prunekit("golden", tmp_path)
    assert told.code == 1
    assert "fastv case2: kept has none too many and lacks 188" in told.err
    assert json.loads(prunekit("golden", tmp_path, "--json").out)["methods"][0]["failed"] == 1


def test_mistakes_are_exit_code_2(prunekit: Prunekit, tmp_path: Path):
    for arguments, told in (
        ((tmp_path / "nowhere",), "no folder"),
        ((tmp_path,), "index.json: cannot be read"),
        ((DATA, "--method", "fastvv"), "Did you mean 'fastv'?"),
    ):
        result = prunekit("golden", *arguments)
        assert result.code == 2
        assert told in result.err
        assert "Traceback" not in result.err
