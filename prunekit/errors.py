"""What can go wrong, as one small family: every error says what, where, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PrunekitError(Exception):
    """Anything prunekit refuses. Catch this one to catch them all."""


class ConfigError(PrunekitError):
    """A pipeline, stage or YAML file says something that cannot be."""


class UnknownName(PrunekitError):
    """A stage, pipeline or prior of that name is not there."""


class MissingPrior(ConfigError):
    """A pipeline wants the prior of a model for which none was measured."""


class PluginError(PrunekitError):
    """Plugins contradict each other, or one breaks the rules of the door."""


class TokenError(PrunekitError):
    """Tensors do not fit together: shapes, ranges, NaN, or a selection that is none."""


class UnsupportedModel(PrunekitError):
    """The model, its cache or its setup cannot be pruned; raised before any forward pass."""


class MissingExtra(PrunekitError):
    """An optional dependency is needed here and is not installed."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error about a name: the nearest valid one, and all of them.

    >>> nearest("mos", ["mis", "top_k"])
    "Did you mean 'mis'? Valid: mis, top_k."
    """
    known = sorted(valid)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}Valid: {', '.join(known) or 'none'}."
