"""What a picture of the testbed is made of: things with a shape, a colour, a size and a box."""

from __future__ import annotations

from dataclasses import dataclass

SIDE = 96
"""Height and width of every picture, in pixels."""

PATCH = 8
"""Side of one patch, hence of one visual token, in pixels."""

GRID = SIDE // PATCH
"""Visual tokens along one side of the picture; a picture has `GRID * GRID` of them."""

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels: columns `left` to `right`, rows `top` to `bottom`, ends excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bottom - self.top

    @property
    def area(self) -> int:
        """Area in pixels; 0 for a box turned inside out."""
        return max(0, self.width) * max(0, self.height)

    def grown(self, margin: int) -> Box:
        """Return the box with `margin` more pixels on each side."""
        return Box(self.left - margin, self.top - margin, self.right + margin, self.bottom + margin)

    def overlap(self, other: Box) -> int:
        """Return the area shared with `other`, in pixels."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area

    def iou(self, other: Box) -> float:
        """Return the intersection over union with `other`, in [0, 1]."""
        shared = self.overlap(other)
        union = self.area + other.area - shared
        return shared / union if union else 0.0

    def tokens(self) -> tuple[int, ...]:
        """Return the flat, row-major indices of the visual tokens the box touches."""
        rows = range(self.top // PATCH, (self.bottom - 1) // PATCH + 1)
        columns = range(self.left // PATCH, (self.right - 1) // PATCH + 1)
        return tuple(row * GRID + column for row in rows for column in columns)


@dataclass(frozen=True, slots=True)
class Object:
    """One thing in a picture.

    Attributes:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`.
        box: The pixels it fills; it reaches all four sides, to within a pixel.
    """

    shape: str
    colour: str
    size: str
    box: Box
