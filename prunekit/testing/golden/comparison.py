"""Whether a tensor is the expected one: by element, in order, as a set, or to rounding."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Comparison: TypeAlias = Literal["ordered", "index_set", "exact", "values"]
"""`ordered`: integers in this order. `index_set`: integers as a set. `exact`: integers or truth values, equal
by element. `values`: numbers, to `RELATIVE` and `ABSOLUTE` times the largest expected magnitude."""

RELATIVE = 2e-4
ABSOLUTE = 2e-5

SHOWN = 8
"""How many of the elements that differ are told."""


def fault(comparison: Comparison, given: Tensor, expected: Tensor) -> str | None:
    """What is wrong with a tensor; None where it is as expected."""
    if comparison == "index_set":
        return _as_sets(given.flatten().tolist(), expected.flatten().tolist())
    if given.shape != expected.shape:
        return f"has the shape {tuple(given.shape)} instead of {tuple(expected.shape)}"
    if not expected.numel():
        return None
    given, expected = given.double(), expected.double()
    if comparison == "values":
        near = torch.isclose(given, expected, RELATIVE, ABSOLUTE * float(expected.abs().max()))
    else:
        near = given == expected
    if bool(near.all()):
        return None
    first = (~near).nonzero()[0].tolist()
    place = tuple(first)
    return (
        f"differs in {int((~near).sum())} of {near.numel()} elements, first at {first}: "
        f"{given[place]:g} instead of {expected[place]:g}"
    )


def _as_sets(given: list[int], expected: list[int]) -> str | None:
    if len(given) != len(set(given)):
        return "holds an index twice"
    extra, missing = sorted(set(given) - set(expected)), sorted(set(expected) - set(given))
    if not extra and not missing:
        return None
    return f"has {_some(extra)} too many and lacks {_some(missing)}"


def _some(indices: list[int]) -> str:
    told = ", ".join(map(str, indices[:SHOWN]))
    return f"{len(indices)} ({told}{', …' if len(indices) > SHOWN else ''})" if indices else "none"
