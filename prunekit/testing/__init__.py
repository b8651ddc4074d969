"""For authors of stages: laws, cases that break what does not keep them, and one line to run both.

    from prunekit.testing import conformance

    def test_my_stage():
        conformance(MyStage())

Needs the extra `testing` (Hypothesis). Methods held to what their references gave are in
`prunekit.testing.golden`, which does not.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from prunekit.errors import MissingExtra

if TYPE_CHECKING or find_spec("hypothesis") is not None:
    from prunekit.testing.conformance import conformance, holds
    from prunekit.testing.laws import LAWS, Case, Law, Subject
    from prunekit.testing.strategies import Choice, Merge, choices, merges, token_sets
else:

    def __getattr__(name: str) -> object:
        raise MissingExtra(f"prunekit.testing.{name} needs Hypothesis: pip install 'prunekit[testing]'.")


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
