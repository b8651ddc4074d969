"""Methods of one object, replaced for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


def override(stack: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Puts something made from it in place of a method of this one object, if it has that method."""
    if not hasattr(owner, name):
        return
    own, value = owner.__dict__, make(getattr(owner, name))
    if name in own:
        stack.callback(own.__setitem__, name, own[name])
    else:
        stack.callback(own.pop, name, None)
    own[name] = value
