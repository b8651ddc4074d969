"""`import prunekit` is light, and what is optional stays away until it is asked for."""

import subprocess
import sys

import pytest


def loaded_after(code):
    """The modules loaded in a fresh interpreter that runs this code."""
    listing = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()} | set(done.stdout.split())


@pytest.fixture(scope="module")
def after_import():
    return loaded_after("import prunekit")


@pytest.mark.parametrize(
    "module",
    ["transformers", "faiss", "triton", "typer", "rich", "hypothesis", "PIL", "prunekit_plugins",
     "prunekit.testing", "prunekit.hf", "prunekit.cli", "prunekit.testbed"],
)  # fmt: skip
def test_import_loads_nothing_heavy(after_import, module):
    assert module not in after_import


def test_neither_do_loading_a_pipeline_and_pruning_with_it():
    code = (
        "import torch, prunekit as pk\n"
        "tokens = pk.TokenBatch.grid(torch.rand(1, 16, 4), 4, 4)\n"
        "pk.load('d2pruner').swap(importance='feature_norm', bias=None)(tokens)"
    )
    after = loaded_after(code)
    assert "prunekit_plugins" in after
    assert not after & {"transformers", "faiss", "typer", "hypothesis", "prunekit.cli"}
