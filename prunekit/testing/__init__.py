"""For authors of stages: laws, cases that break what does not keep them, and one line to run both.

    from prunekit.testing import conformance

    def test_my_stage():
        conformance(MyStage())

Needs the extra `testing` (Hypothesis).
"""

from importlib.util import find_spec

from prunekit.errors import MissingExtra

if find_spec("hypothesis") is None:
    raise MissingExtra("prunekit.testing needs Hypothesis: pip install 'prunekit[testing]'.")

from prunekit.testing.conformance import conformance, holds
from prunekit.testing.laws import LAWS, Case, Law, Subject
from prunekit.testing.strategies import Choice, Merge, choices, merges, token_sets

__all__ = [
    "LAWS",
    "Case",
    "Choice",
    "Law",
    "Merge",
    "Subject",
    "choices",
    "conformance",
    "holds",
    "merges",
    "token_sets",
]
