"""How many tokens to keep: a pure function of how many there are, known before anything runs."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from prunekit.errors import ConfigError
from prunekit.tokens import Room

RULE = "a budget is a count of tokens (an int: 64) or a share of them in (0, 1] (a float: 0.1, 1.0)"


def _checked(value: object) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**63:
        return value
    if isinstance(value, float) and 0 < value <= 1:
        return value
    raise PydanticCustomError("budget", RULE)


Budget: TypeAlias = Annotated[int | float, PlainValidator(_checked, json_schema_input_type=int | float)]
"""A count (an int: `64`), or a share of the present tokens (a float in (0, 1]: `0.1`).

The type tells them apart: `1.0` keeps all, `1` keeps one.
"""


def room_for(counts: Room, budget: int | float) -> Room:
    """How many tokens each sample keeps: the count, or the floor of the share; at least 1, at most all."""
    if isinstance(budget, int):
        return counts.clamp(max=budget)
    return share_of(counts, budget).clamp(min=1).minimum(counts)


def share_of(counts: Room, share: float) -> Room:
    """The floor of the share of each count, `int(count * share)` as Python has it."""
    # Float64 is what Python computes in, and what MPS does not have.
    held = counts.cpu() if counts.device.type == "mps" else counts
    return (held.double() * share).long().to(counts.device)


def limit_of(tokens: int, budget: int | float) -> int:
    """The most room any sample of at most this many tokens can have; from sizes alone, without reading."""
    return min(tokens, budget) if isinstance(budget, int) else max(int(tokens * budget), 1)


def parse_budget(text: str) -> int | float:
    """A budget written as text: `64` is a count, `0.1` and `1.0` are shares.

    Raises:
        ConfigError: It is neither.
    """
    try:
        if re.fullmatch(r"[0-9]+", text):
            return _checked(int(text))
        return _checked(float(text) if re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", text) else text)
    except (ValueError, PydanticCustomError) as error:
        raise ConfigError(f"{RULE}; got {text!r}.") from error
