"""Cards: what a pipeline asks for and what it does, told from its stages and written nowhere by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from prunekit.errors import MissingPrior
from prunekit.pipeline import Pipeline
from prunekit.signals import Signal, WeightGradient
from prunekit.stages import Merger, Pairs, Site, Where, most_pairs

NOWHERE = "no/such-model"
"""A model for which nothing was measured."""

ORDER: Mapping[Where, str] = {"order": "raster order", "cell": "rows and columns", "plane": "tiles or frames"}
PAIRS: Mapping[Pairs, str] = {
    "none": "none",
    "kept": "each token with the kept ones: n·N",
    "all": "up to all: N²",
}


@dataclass(frozen=True, slots=True)
class Card:
    """What there is to know of a pipeline before it is used.

    How many tokens are kept is no fact of a card: for every pipeline that is the budget's to say, before
    anything runs.
    """

    pipeline: Pipeline

    @property
    def of_question(self) -> bool:
        """Whether what is kept depends on the question.

        Where it does not, what was computed of an image holds for the next question about it, so that a
        prefix cache is of use.
        """
        return any(need.of_text for need in self.pipeline.needs)

    @property
    def of_channels(self) -> bool:
        """Whether its tokens are the channels of a network."""
        return any(isinstance(need, WeightGradient) for need in self.pipeline.needs)

    @property
    def of_prior(self) -> bool:
        """Whether something must be measured once for each model, without any training."""
        try:
            for cut in self.pipeline.cuts:
                cut.bind(Site(NOWHERE, cut.at.layer))
        except MissingPrior:
            return True
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        """What it needs beside the features of tokens where it prunes, in words."""
        found = sorted(map(_told, self.pipeline.needs))
        if any(cut.at.features == "vision" for cut in self.pipeline.cuts):
            found.append("features of the vision encoder")
        if self.of_prior:
            found.append("a prior, measured once for a model")
        return tuple(found)

    @property
    def where(self) -> tuple[str, ...]:
        """What it goes by of where tokens stand, in words."""
        gone_by = frozenset[Where]().union(*(part.where for part in self.pipeline.parts))
        return tuple(told for where, told in ORDER.items() if where in gone_by)

    @property
    def compares(self) -> str:
        """Which pairs of N tokens it may compare, of which it keeps n."""
        return PAIRS[most_pairs(self.pipeline.parts)]

    @property
    def places(self) -> tuple[str, ...]:
        """Where it prunes, in order."""
        return tuple("channels" if self.of_channels else _place(cut.at.layer) for cut in self.pipeline.cuts)

    @property
    def budgets(self) -> tuple[int | float, ...]:
        """How many tokens go on from each place: a count, or a share of all."""
        return tuple(cut.budget for cut in self.pipeline.cuts)

    @property
    def prunes(self) -> str:
        """Where it prunes and how much goes on from there, in words."""
        places = zip(self.places, self.budgets, strict=True)
        return "; ".join(f"{place}: {_counted(budget)}" for place, budget in places)

    @property
    def merges(self) -> tuple[str, ...]:
        """The mergers, of all places, by name."""
        return tuple(name for cut in self.pipeline.cuts if cut.merge for name in _names(cut.merge))

    @property
    def facts(self) -> dict[str, str]:
        """The card as titles and words."""
        found = {
            "needs": ", ".join(self.needs) or "nothing captured",
            "goes by": ", ".join(self.where) or "not where tokens stand",
            "depends on the question": "yes" if self.of_question else "no",
            "prunes": self.prunes,
            "position ids": {"keep": "kept", "repack": "numbered anew"}[self.pipeline.positions],
            "pairs compared": self.compares,
            "merges": ", ".join(self.merges) or "no, what is dropped is gone",
        }
        for_tokens = ("goes by", "depends on the question", "position ids") if self.of_channels else ()
        return {title: told for title, told in found.items() if title not in for_tokens}

    def as_data(self) -> dict[str, Any]:
        """The card as plain data."""
        held = self.pipeline
        return {
            "family": held.family,
            "summary": held.summary,
            "differs": list(held.differs),
            "cites": list(held.cites),
            "needs": list(self.needs),
            "where": list(self.where),
            "of_question": self.of_question,
            "of_prior": self.of_prior,
            "places": list(self.places),
            "budgets": list(self.budgets),
            "positions": held.positions,
            "compares": most_pairs(held.parts),
            "merges": list(self.merges),
        }


def _told(signal: Signal) -> str:
    """A signal in words, and how it is wanted."""
    wanted = ", ".join(f"{field.name} {getattr(signal, field.name)}" for field in fields(signal))
    return f"{signal.told or type(signal).__name__}{wanted and f' ({wanted})'}"


def _place(layer: int) -> str:
    return f"layer {layer}" if layer else "before the language model"


def _names(merger: Merger) -> tuple[str, ...]:
    """The mergers that a merger consists of."""
    parts = [part for part in merger.parts if isinstance(part, Merger)]
    return tuple(name for part in parts for name in _names(part)) if parts else (merger.use,)


def _counted(budget: int | float) -> str:
    return f"{budget} tokens" if isinstance(budget, int) else f"{100 * budget:.4g} %"
