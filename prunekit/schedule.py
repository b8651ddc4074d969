"""Several prunings on the way through a decoder: from a target to how many tokens each keeps, and back.

Papers name a budget by what it comes to: 192 tokens on average over the layers, three quarters of the
operations saved. What a model runs on is a count for each pruning layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, inf
from typing import TypeAlias

from prunekit.errors import ConfigError

Counts: TypeAlias = tuple[int, ...]

Cost: TypeAlias = Callable[[Counts], float]
"""What a prompt costs with so many visual tokens in each layer; more for more of them.

`lambda visual: prunekit.hf.flops.flops(shape, text, visual, "exact")` is one.
"""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which layers prune, and to how many visual tokens.

    Attributes:
        layers: Tokens leave at the entry of these; 0 prunes before the decoder. Ascending.
        kept: How many go on from each. Never more than from the one before.

    Raises:
        ConfigError: Layers or counts are out of order, below 0, or not as many of one as of the other.
    """

    layers: Counts
    kept: Counts

    def __post_init__(self) -> None:
        _check_layers(self.layers)
        if len(self.kept) != len(self.layers):
            raise ConfigError(f"{_list(self.layers)}: {len(self.layers)} layers, {len(self.kept)} counts.")
        if any(later > earlier for earlier, later in pairwise(self.kept)) or min(self.kept) < 0:
            raise ConfigError(f"Counts never rise and are never below 0; got {_list(self.kept)}.")

    def tokens(self, visual: int, depth: int) -> Counts:
        """Visual tokens in each of `depth` layers, of a prompt that comes with `visual`."""
        counts = [visual] * depth
        for layer, kept in zip(self.layers, self.kept, strict=True):
            counts[layer:] = [min(visual, kept)] * len(counts[layer:])
        return tuple(counts)


def average_tokens(schedule: Schedule, visual: int, depth: int) -> float:
    """Visual tokens on average over the layers, in [0, visual]."""
    return _mean(schedule.tokens(visual, depth))


def saving(schedule: Schedule, visual: int, depth: int, cost: Cost) -> float:
    """The share of the cost without pruning that a schedule takes off, in [0, 1]."""
    return 1 - cost(schedule.tokens(visual, depth)) / cost((visual,) * depth)


def schedule_for_average(
    average: float,
    *,
    layers: Sequence[int],
    visual: int,
    depth: int,
    ratios: Sequence[float] | None = None,
) -> Schedule:
    """The schedule whose average over the layers comes nearest to a target.

    Args:
        average: Visual tokens, averaged over all layers.
        layers: Where to prune, ascending, from 0 to depth - 1.
        visual: Visual tokens of the prompt, at least 1.
        depth: How many layers the decoder has.
        ratios: How the counts relate to each other, never rising: 300, 200, 110. Without them every pruning
            keeps the same share of what reaches it, as PyramidDrop's halving does (arXiv:2410.17247).

    Returns:
        Counts from 1 to `visual`, floors of shares as budgets are; of two as near, the smaller. A higher
        target never means fewer tokens anywhere.

    Raises:
        ConfigError: The target is out of reach, and what is in reach; or the layers or ratios are wrong.
    """
    family = _Family(tuple(layers), visual, depth, None if ratios is None else tuple(ratios))
    low, high = (average_tokens(end, visual, depth) for end in family.ends)
    if not low <= average <= high:
        raise ConfigError(
            f"No schedule at {family} has {average:g} tokens on average: {low:.4g} to {high:g} are possible."
        )
    return family.nearest(average, _mean)


def schedule_for_saving(
    share: float,
    cost: Cost,
    *,
    layers: Sequence[int],
    visual: int,
    depth: int,
    ratios: Sequence[float] | None = None,
) -> Schedule:
    """The schedule that saves nearest to a share of the cost without pruning.

    Args:
        share: Of the cost, in [0, 1]: 0.75 is FLOPs −75 %.
        cost: What is saved.
        layers: As of `schedule_for_average`, like all that follow.
        visual: Visual tokens of the prompt.
        depth: How many layers the decoder has.
        ratios: How the counts relate to each other.

    Returns:
        As `schedule_for_average`; a higher share never means more tokens anywhere.

    Raises:
        ConfigError: The target is out of reach, and what is in reach; or the layers or ratios are wrong.
    """
    family = _Family(tuple(layers), visual, depth, None if ratios is None else tuple(ratios))
    most, least = (saving(end, visual, depth, cost) for end in family.ends)
    if not least <= share <= most:
        raise ConfigError(
            f"No schedule at {family} saves {share:.2%} of the cost: {least:.2%} to {most:.2%} are possible."
        )
    return family.nearest((1 - share) * cost((visual,) * depth), cost)


@dataclass(frozen=True, slots=True)
class _Family:
    """The schedules of one form, which one number in [0, 1] tells apart: the more, the more tokens."""

    layers: Counts
    visual: int
    depth: int
    ratios: tuple[float, ...] | None

    def __post_init__(self) -> None:
        _check_layers(self.layers)
        if self.layers[-1] >= self.depth:
            raise ConfigError(f"Layers go from 0 to {self.depth - 1}; got {_list(self.layers)}.")
        if self.visual < 1:
            raise ConfigError(f"A prompt has at least 1 visual token to prune; got {self.visual}.")
        ratios = self.ratios
        if ratios is None:
            return
        if len(ratios) != len(self.layers):
            raise ConfigError(f"{_list(self.layers)}: {len(self.layers)} layers, {len(ratios)} ratios.")
        ordered = all(later <= earlier < inf for earlier, later in pairwise(ratios))
        if not ordered or not 0 < ratios[-1] < inf:
            raise ConfigError(f"Ratios never rise and are above 0; got {_list(ratios)}.")

    def __str__(self) -> str:
        return f"layers {_list(self.layers)} of {self.depth} with {self.visual} tokens"

    @property
    def ends(self) -> tuple[Schedule, Schedule]:
        """Those with fewest and with most tokens."""
        return Schedule(self.layers, self._kept(0.0)), Schedule(self.layers, self._kept(1.0))

    def nearest(self, target: float, cost: Cost) -> Schedule:
        """The schedule whose cost is nearest to a target in reach; the smaller of two as near."""

        def off(schedule: Schedule) -> float:
            return abs(cost(schedule.tokens(self.visual, self.depth)) - target)

        below, above = 0.0, 1.0
        while below < (middle := (below + above) / 2) < above:
            if cost(Schedule(self.layers, self._kept(middle)).tokens(self.visual, self.depth)) <= target:
                below = middle
            else:
                above = middle
        return min((Schedule(self.layers, kept) for kept in self._between(below, above)), key=off)

    def _between(self, below: float, above: float) -> Iterator[Counts]:
        """From one to the other a token at a time, so that the schedules for all targets form one row."""
        kept, most = list(self._kept(below)), self._kept(above)
        yield tuple(kept)
        for stage, goal in enumerate(most):
            for count in range(kept[stage] + 1, goal + 1):
                kept[stage] = count
                yield tuple(kept)

    def _kept(self, number: float) -> Counts:
        return tuple(max(1, floor(self.visual * share)) for share in self._shares(number))

    def _shares(self, number: float) -> Iterator[float]:
        if self.ratios is not None:
            yield from (min(1.0, number * ratio / self.ratios[-1]) for ratio in self.ratios)
            return
        share = 1.0
        for _ in self.layers:
            share *= number
            yield share


def _check_layers(layers: Counts) -> None:
    if not layers or layers[0] < 0 or any(later <= earlier for earlier, later in pairwise(layers)):
        raise ConfigError(f"Pruning layers ascend from 0 or later, at least one; got {_list(layers)}.")


def _mean(counts: Counts) -> float:
    return sum(counts) / len(counts)


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers) or "none"
