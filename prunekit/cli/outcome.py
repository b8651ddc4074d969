"""What became of one image: answers, selection and cost, as data and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.cli.pictures import Cells, draw_selection, stack
from prunekit.pipeline import Pipeline

if TYPE_CHECKING:
    from PIL import Image

    from prunekit.hf import Report
    from prunekit.tokens import Explanation, Selection


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image."""

    pipeline: Pipeline
    file: Path
    prompt: str
    seen: Image.Image
    answer: str
    answer_unpruned: str
    selection: Selection
    explanations: Sequence[Explanation]
    report: Report

    def as_data(self) -> dict[str, Any]:
        """The outcome as plain data, for `--json`; explanations where they were asked for."""
        data = {
            "image": str(self.file),
            "prompt": self.prompt,
            "pipeline": self.pipeline.name,
            "answer": self.answer,
            "answer_unpruned": self.answer_unpruned,
            "tokens": int(self.selection.present.sum()),
            "kept": int(self.selection.kept.sum()),
            "kept_indices": self.selection.indices[0].tolist(),
            "report": self.report.to_dict(),
        }
        if self.explanations:
            data["explanations"] = [asdict(token) for token in self.explanations]
        return data

    def drawn(self) -> Image.Image:
        """The outcome as a picture, one strip for each plane; explained, with lines to suppressors.

        Where an image became several planes, which part of it each shows is not known here: then only the
        first panel shows the image.
        """
        title = f"{self.prompt}   {self.answer}   (unpruned: {self.answer_unpruned})"
        planes = self.selection.positions[0, self.selection.present[0], 0].unique().tolist()
        cells = [Cells.of(self.selection, 0, plane, self.explanations) for plane in planes]
        return stack([draw_selection(self.seen, each, title, overlay=len(planes) == 1) for each in cells])
