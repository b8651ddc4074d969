"""Cases run, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import Tensor

from prunekit.errors import PrunekitError
from prunekit.testing.golden import by_attention, by_likeness, by_merging, by_parts, by_pivots
from prunekit.testing.golden.comparison import Comparison, fault
from prunekit.testing.golden.data import Case, Method

Runner: TypeAlias = Callable[[Case], Mapping[str, Tensor]]
"""From the inputs of a case to what is expected of it, by the stages of an installed pipeline."""

RUNNERS: Mapping[str, Runner] = MappingProxyType(
    {
        **by_attention.RUNNERS,
        **by_likeness.RUNNERS,
        **by_merging.RUNNERS,
        **by_parts.RUNNERS,
        **by_pivots.RUNNERS,
    }
)
"""The methods that can be run, by name."""


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """What came of one case: nothing wrong, or what is."""

    case: str
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything is as expected."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class MethodOutcome:
    """What came of the cases of one method."""

    method: str
    cases: tuple[CaseOutcome, ...]

    @property
    def passed(self) -> int:
        """How many cases are as expected."""
        return sum(case.passed for case in self.cases)

    @property
    def failed(self) -> int:
        """How many are not."""
        return len(self.cases) - self.passed

    def as_data(self) -> dict[str, Any]:
        """The outcome as plain data."""
        cases = [
            {"case": case.case, "passed": case.passed, "faults": list(case.faults)} for case in self.cases
        ]
        return {"method": self.method, "passed": self.passed, "failed": self.failed, "cases": cases}


def run_method(method: Method) -> MethodOutcome:
    """Runs every case of a method; where nothing runs the method, each has failed."""
    runner = RUNNERS.get(method.name)
    if runner is None:
        why = f"nothing here runs the method {method.name!r}"
        return MethodOutcome(method.name, tuple(CaseOutcome(case.id, (why,)) for case in method.cases))
    return MethodOutcome(
        method.name, tuple(run_case(runner, case, method.comparisons) for case in method.cases)
    )


def run_case(runner: Runner, case: Case, comparisons: Mapping[str, Comparison]) -> CaseOutcome:
    """Runs one case, and compares all that is expected of it."""
    try:
        given = runner(case)
    except PrunekitError as error:
        return CaseOutcome(case.id, (str(error),))
    except Exception as error:  # a case that cannot be run has failed, and the others go on
        return CaseOutcome(case.id, (f"could not be run: {type(error).__name__}: {error}",))
    faults: list[str] = []
    for name, expected in case.expected.items():
        why = fault(comparisons[name], given[name], expected) if name in given else "is not given"
        if why is not None:
            faults.append(f"{name} {why}")
    return CaseOutcome(case.id, tuple(faults))
