"""What pruning channels did, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Thinned:
    """A group of channels of which some were taken out.

    Attributes:
        writers: The layers that write them.
        readers: The layers that read them.
        channels: How many there were.
        kept: The channels that were kept, ascending.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: int
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """A group of channels that was left whole.

    Attributes:
        writers: The layers that write them.
        channels: How many there are.
        reason: Why they cannot be taken apart.
    """

    writers: tuple[str, ...]
    channels: int
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What pruning channels did. `print` shows it as a table.

    Attributes:
        parameters: How many, before and after.
        flops: Operations of one run on the example inputs, before and after, as torch counts them: matrix
            products, convolutions and attention, a multiply-add as two.
        thinned: The groups of channels that were pruned.
        whole: Those that were left whole, and why.
    """

    parameters: tuple[int, int]
    flops: tuple[int, int]
    thinned: tuple[Thinned, ...]
    whole: tuple[Whole, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            ("parameters", _saving(*self.parameters)),
            ("FLOPs", _saving(*self.flops)),
            *((_names(each.writers), f"{each.channels} → {len(each.kept)}") for each in self.thinned),
            *((_names(each.writers), f"{each.channels} left whole: {each.reason}") for each in self.whole),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _names(layers: tuple[str, ...]) -> str:
    first, *others = layers
    return f"{first} + {len(others)} more" if len(others) > 1 else " + ".join(layers)


def _saving(before: int, after: int) -> str:
    percent = 100 * (1 - after / before) if before else 0.0
    return f"{before:,} → {after:,} ({percent:.1f} % less)"
