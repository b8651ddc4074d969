"""What a selection looks like: the image, its scores before and after debiasing, and the kept tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from prunekit.tokens import Explanation, Selection

PANEL = 360
MARGIN = 16
CAPTION = 26

HEAT = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64)
"""Five stops from little (violet) to much (yellow)."""

STEP_COLOURS = ("#ff7f0e", "#1f9bff", "#2fd65a", "#e05cff", "#ffe14d", "#ff4d6d")
"""One colour for each selector, in turn."""


Cell = tuple[int, int]
"""Row and column."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The tokens of one plane of one sample, as grids of rows × columns; NaN and -1 where there is none."""

    scores: np.ndarray
    debiased: np.ndarray
    kept_by: np.ndarray
    steps: tuple[str, ...]
    suppressed: tuple[tuple[Cell, Cell], ...] = ()

    @classmethod
    def of(
        cls, selection: Selection, sample: int = 0, plane: int = 0, explanations: Sequence[Explanation] = ()
    ) -> Cells:
        """The grids of a plane, by default the first of the first sample.

        With `explanations`, also the pairs of a dropped token and the one on this plane that suppressed it.
        """
        here = selection.present[sample] & (selection.positions[sample, :, 0] == plane)
        rows, columns = selection.positions[sample, here, 1:].cpu().numpy().T
        shape = (int(rows.max()) + 1, int(columns.max()) + 1)

        def laid(values: np.ndarray, empty: float) -> np.ndarray:
            grid = np.full(shape, empty, dtype=np.float64)
            grid[rows, columns] = values
            return grid

        return cls(
            laid(selection.scores[sample, here].float().cpu().numpy(), np.nan),
            laid(selection.debiased[sample, here].float().cpu().numpy(), np.nan),
            laid(selection.kept_by[sample, here].cpu().numpy(), -1).astype(int),
            selection.steps,
            tuple(_suppressed(explanations, plane)),
        )


def draw_selection(image: Image.Image, cells: Cells, title: str, overlay: bool = True) -> Image.Image:
    """Four panels in a row under a title: image, score, debiased score, kept tokens by step.

    Without `overlay` the maps are drawn on grey, because the plane does not show the whole image.
    """
    picture = image.convert("RGB").resize(_panel_size(image), Image.Resampling.LANCZOS)
    ground = picture if overlay else Image.new("RGB", picture.size, "#888888")
    panels = {
        "what the model sees": picture,
        "score": _heat(ground, cells.scores),
        "score, debiased": _heat(ground, cells.debiased),
        f"kept: {int((cells.kept_by >= 0).sum())} of {int(np.isfinite(cells.scores).sum())} tokens": _kept(
            ground, cells
        ),
    }
    width, height = picture.size
    sheet = Image.new(
        "RGB",
        (MARGIN + len(panels) * (width + MARGIN), height + 3 * CAPTION + 2 * MARGIN),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN // 2), _short(title, pen, sheet.width - 2 * MARGIN), "black", _font(17))
    for index, (caption, panel) in enumerate(panels.items()):
        left = MARGIN + index * (width + MARGIN)
        pen.text((left, MARGIN + CAPTION - 4), caption, "#444444", _font(14))
        sheet.paste(panel, (left, MARGIN + 2 * CAPTION - 4))
    _legend(pen, cells, (MARGIN + 3 * (width + MARGIN), height + MARGIN + 2 * CAPTION + 2))
    return sheet


def stack(sheets: list[Image.Image]) -> Image.Image:
    """Sheets one under another."""
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def png(picture: Image.Image) -> bytes:
    """The picture as the content of a PNG file."""
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _panel_size(image: Image.Image) -> tuple[int, int]:
    scale = PANEL / max(image.size)
    return max(round(image.width * scale), 120), max(round(image.height * scale), 40)


def _heat(picture: Image.Image, values: np.ndarray) -> Image.Image:
    """Values from their least to their largest, laid over the image in grey; nothing where there is none."""
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    level = (np.where(known, values, low) - low) / (high - low or 1) * (len(HEAT) - 1)
    below = np.floor(level).astype(int).clip(0, len(HEAT) - 2)
    share = (level - below)[..., None]
    colours = HEAT[below] * (1 - share) + HEAT[below + 1] * share
    cover = Image.fromarray(colours.round().astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    mask = Image.fromarray((known * 190).astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(cover, picture.convert("L").convert("RGB"), mask)


def _kept(picture: Image.Image, cells: Cells) -> Image.Image:
    """The kept cells as they are, framed in the colour of their step; the rest nearly faded out."""
    faded = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, "white"), 0.72)
    pen = ImageDraw.Draw(faded)
    rows, columns = cells.kept_by.shape
    for row, column in np.argwhere(cells.kept_by >= 0):
        box = (
            round(column * picture.width / columns),
            round(row * picture.height / rows),
            round((column + 1) * picture.width / columns),
            round((row + 1) * picture.height / rows),
        )
        faded.paste(picture.crop(box), box[:2])
        colour = STEP_COLOURS[cells.kept_by[row, column] % len(STEP_COLOURS)]
        pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=colour, width=3)
    for pair in cells.suppressed:
        ends = [
            ((column + 0.5) * picture.width / columns, (row + 0.5) * picture.height / rows)
            for row, column in pair
        ]
        pen.line(ends, "#555555", 1)
        pen.circle(ends[0], 2, "#555555")
    return faded


def _suppressed(explanations: Sequence[Explanation], plane: int) -> Iterator[tuple[Cell, Cell]]:
    place = {each.token: each.position for each in explanations}
    for each in explanations:
        if each.suppressed_by is None:
            continue
        start, end = each.position, place[each.suppressed_by]
        if start[0] == end[0] == plane:
            yield start[1:], end[1:]


def _legend(pen: ImageDraw.ImageDraw, cells: Cells, place: tuple[int, int]) -> None:
    left, top = place
    for step, name in enumerate(cells.steps):
        count = int((cells.kept_by == step).sum())
        if not count:
            continue
        text = f"{name} {count}"
        pen.rectangle((left, top + 2, left + 12, top + 14), fill=STEP_COLOURS[step % len(STEP_COLOURS)])
        pen.text((left + 17, top), text, "#444444", _font(13))
        left += 17 + round(pen.textlength(text, _font(13))) + 12


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _short(text: str, pen: ImageDraw.ImageDraw, width: int) -> str:
    """The text, cut to a width in pixels."""
    text = " ".join(text.split())
    if pen.textlength(text, _font(17)) <= width:
        return text
    while text and pen.textlength(text + "…", _font(17)) > width:
        text = text[:-1]
    return text + "…"
