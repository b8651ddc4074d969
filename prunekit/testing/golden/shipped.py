"""Which pipeline each golden case is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from prunekit.testing.golden.data import Method
from prunekit.testing.golden.outcome import CaseOutcome, run_method

PIPELINES: Mapping[str, str] = MappingProxyType(
    {
        "attention_bias": "{style}-debiased",
        "cdpruner": "cdpruner",
        "dart": "dart",
        "dart_exact": "dart",
        "divprune": "divprune",
        "evs": "evs",
        "fastervlm": "fastervlm",
        "fastv": "fastv",
        "hiprune": "hiprune",
        "holov": "holov",
        "idpruner": "idpruner",
        "prumerge": "prumerge",
        "prumerge_plus": "prumerge-plus",
        "pyramiddrop": "pyramiddrop",
        "scope": "scope",
        "sparsevlm": "sparsevlm",
        "tome": "tome",
        "vidcom2": "vidcom2",
        "visionzip": "visionzip",
        "visionzip_mean": "visionzip-mean",
        "vispruner": "vispruner",
    }
)
"""For each method the pipeline its cases are of, in which a case's numbers are put; others are of a stage."""


def by_pipeline(methods: Iterable[Method]) -> dict[str, list[CaseOutcome]]:
    """Runs methods, and gives the outcome of every case under the name of the pipeline it is of."""
    found: dict[str, list[CaseOutcome]] = {}
    for method in methods:
        if method.name in PIPELINES:
            for case, outcome in zip(method.cases, run_method(method).cases, strict=True):
                found.setdefault(PIPELINES[method.name].format(**case.params), []).append(outcome)
    return found
