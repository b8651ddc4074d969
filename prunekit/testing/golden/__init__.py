"""Methods held to golden data: what their reference implementations gave for the same inputs.

from pathlib import Path

for method in read(Path("tests/golden/data")):
    print(run_method(method).as_data())
"""

from prunekit.testing.golden.comparison import Comparison, fault
from prunekit.testing.golden.data import Case, Method, read
from prunekit.testing.golden.outcome import RUNNERS, CaseOutcome, MethodOutcome, Runner, run_case, run_method
from prunekit.testing.golden.shipped import PIPELINES, by_pipeline

__all__ = [
    "PIPELINES",
    "RUNNERS",
    "Case",
    "CaseOutcome",
    "Comparison",
    "Method",
    "MethodOutcome",
    "Runner",
    "by_pipeline",
    "fault",
    "read",
    "run_case",
    "run_method",
]
