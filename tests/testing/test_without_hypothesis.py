"""Without Hypothesis the laws say what to install, and golden data can be run."""

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "hypothesis" else found(name, *rest)
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hypothesis":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
"""
DATA = Path(__file__).parents[1] / "golden" / "data"


READ = f"""
from pathlib import Path
from prunekit.testing.golden import read
print(len(read(Path({str(DATA)!r}))))
"""


@pytest.mark.parametrize(
    "code, told",
    [(READ, "22"), ("from prunekit.testing import conformance", "pip install 'prunekit[testing]'")],
)
def test_what_needs_it_says_so(code, told):
    done = subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False)
    assert told in done.stdout + done.stderr
