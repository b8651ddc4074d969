"""What a model is made of, as far as pruning goes, and how it lays an example out: facts, no judgement."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from prunekit.hf import grids
from prunekit.hf.adapters import FAMILIES, Family
from prunekit.hf.grids import Adapter, GenericAdapter
from prunekit.hf.places import visual_token_ids

Known = Literal["plugin", "family", "inputs", "guess"]
"""Who says how visual tokens lie: a plugin's adapter, a known family, the processor's grids, or nobody."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of a model that pruning touches.

    Attributes:
        kind: Its class.
        parameters: How many numbers it has.
        dtype: Their precision.
        device: Where they are.
        decoder: The class of its language model; None where it names none.
        layers: How many decoder layers that has.
        attention: The attention implementation.
        visual_ids: The token ids that stand for visual features.
    """

    kind: str
    parameters: int
    dtype: str
    device: str
    decoder: str | None
    layers: int
    attention: str | None
    visual_ids: tuple[int, ...]

    @classmethod
    def of(cls, model: PreTrainedModel) -> Anatomy:
        """The anatomy of any model, also of one that cannot be pruned."""
        decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
        layers = getattr(decoder, "layers", None)
        return cls(
            kind=type(model).__name__,
            parameters=sum(part.numel() for part in model.parameters()),
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            decoder=None if decoder is None else type(decoder).__name__,
            layers=0 if layers is None else len(layers),
            attention=getattr(getattr(decoder, "config", None), "_attn_implementation", None),
            visual_ids=visual_token_ids(model.config),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the visual tokens of an example lie.

    Attributes:
        tokens: How many there are.
        planes: Rows and columns of each plane, in order.
        known: Who says so.
        adapter: The class that was asked.
    """

    tokens: int
    planes: tuple[tuple[int, int], ...]
    known: Known
    adapter: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a cache is made of.

    Attributes:
        kind: The class of some of its layers.
        layers: How many.
        sliding: Whether they forget what is out of their window.
    """

    kind: str
    layers: int
    sliding: bool

    @staticmethod
    def by(cache: Any) -> tuple[Held, ...]:
        """The kinds of layers of a cache, in order of appearance."""
        kinds = Counter((type(layer).__name__, bool(layer.is_sliding)) for layer in cache.layers)
        return tuple(Held(kind, count, sliding) for (kind, sliding), count in kinds.items())


@contextmanager
def watching_guesses() -> Generator[list[str]]:
    """Gathers what the generic rule says about guessing, which it says once a process otherwise."""
    said: list[str] = []
    grids._warn.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += [str(each.message) for each in caught if "guesses how" in str(each.message)]


def layout(
    positions: Int[Tensor, "tokens 3"], config: Any, adapters: Sequence[Adapter], *, guessed: bool
) -> Layout:
    """The layout of an example.

    Args:
        positions: Plane, row and column of each visual token, as a `TokenBatch` has them.
        config: The configuration of the model.
        adapters: Those that were asked before the known families.
        guessed: Whether the generic rule had to guess.
    """
    asked = next((each for each in (*adapters, *FAMILIES) if each.fits(config)), GenericAdapter())
    planes = [positions[positions[:, 0] == plane] for plane in positions[:, 0].unique()]
    sides = tuple(
        (int(rows) + 1, int(columns) + 1) for rows, columns in (each[:, 1:].amax(0) for each in planes)
    )
    return Layout(len(positions), sides, _known(asked, guessed=guessed), type(asked).__name__)


def _known(asked: Adapter, *, guessed: bool) -> Known:
    if guessed:
        return "guess"
    if isinstance(asked, GenericAdapter):
        return "inputs"
    return "family" if isinstance(asked, Family) and asked in FAMILIES else "plugin"
