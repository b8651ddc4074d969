"""What a cost looks like: lines against a size, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 960, 600
LEFT, TOP, BOTTOM = 70, 30, 50
LEGEND, SPACING = 330, 20
INK, FAINT = "#444444", "#dddddd"

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
"""One colour for each line, in turn; those that are a reference are grey."""

REFERENCE = "#888888"
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A named line through points above 0; thick and grey where it is what others are held against."""

    name: str
    points: Sequence[Point]
    reference: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """One logarithmic axis: from where to where, on which pixels."""

    low: float
    high: float
    start: int
    end: int

    @classmethod
    def over(cls, values: Sequence[float], start: int, end: int) -> Axis:
        """An axis a little longer than from the least value to the largest."""
        low, high = (min(values), max(values)) if values else (1, 10)
        return cls(low / 1.3, high * 1.3, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> Iterator[float]:
        """1, 2 and 5 in each power of ten; only the powers where there are many."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for power in range(first, last + 1):
            for digit in (1, 2, 5) if last - first <= 3 else (1,):
                if self.low <= digit * 10.0**power <= self.high:
                    yield digit * 10.0**power


def draw_chart(lines: Sequence[Line], title: str, across: str, up: str) -> Image.Image:
    """The lines with their points, ticks at every point across and at round heights, names beside them."""
    height = max(HEIGHT, TOP + BOTTOM + SPACING * len(lines))
    sheet = Image.new("RGB", (WIDTH + LEGEND, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    xs, ys = ([point[part] for line in lines for point in line.points] for part in (0, 1))
    x, y = Axis.over(xs, LEFT, WIDTH - LEFT // 2), Axis.over(ys, height - BOTTOM, TOP)
    for tick in sorted(set(xs)):
        pen.line([(x.at(tick), y.start), (x.at(tick), y.end)], FAINT)
        pen.text((x.at(tick), y.start + 6), f"{tick:g}", INK, font, anchor="ma")
    for tick in y.ticks():
        pen.line([(x.start, y.at(tick)), (x.end, y.at(tick))], FAINT)
        pen.text((x.start - 6, y.at(tick)), f"{tick:g}", INK, font, anchor="rm")
    pen.text((x.end, y.start + 26), across, INK, font, anchor="ra")
    pen.text((6, 8), up, INK, font)
    pen.text((x.start + 60, 8), title, INK, font)
    colours = cycle(COLOURS)
    for number, line in enumerate(lines):
        colour, width = (REFERENCE, 4) if line.reference else (next(colours), 2)
        places = [(x.at(place), y.at(height)) for place, height in line.points]
        pen.line(places, colour, width)
        for place in places:
            pen.circle(place, 4, colour)
        row = TOP + SPACING * number
        pen.line([(WIDTH, row + 8), (WIDTH + 18, row + 8)], colour, width)
        pen.text((WIDTH + 24, row), line.name, INK, font)
    return sheet
