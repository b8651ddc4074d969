"""Measure the shipped checkpoint on held-out scenes, without any pruning.

    python -m benchmarks.testbed.measure --help

Writes accuracies with confidence intervals, the attention table, and two bounds on pruning
to `measured.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.testbed.answering import Asked, Model, Processor, all_questions, answers, load
from benchmarks.testbed.attention import gazes
from benchmarks.testbed.hiding import located
from prunekit.testbed import CHECKPOINT, Grade, grade, scenes

MEASURED = Path(__file__).parent / "measured.json"

KEPT = (0.2, 0.1)
"""Shares of visual tokens kept in the bounds."""

RESAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions, with a 95 % interval.

    Attributes:
        mean: The mean, in [0, 1].
        low: Lower end of the interval.
        high: Upper end.
        questions: How many questions it is the mean of.
    """

    mean: float
    low: float
    high: float
    questions: int


def estimate(values: Sequence[float], clusters: Sequence[int]) -> Estimate:
    """Average values, resampling whole scenes since questions on one scene go together.

    Args:
        values: One value a question, in [0, 1].
        clusters: Scene of each question.

    Returns:
        The mean and its percentile bootstrap interval.
    """
    _, scene = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(scene, weights=np.asarray(values, np.float64))
    counts = np.bincount(scene)
    rng = np.random.default_rng(0)
    means: NDArray[np.float64] = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        drawn = rng.integers(len(sums), size=len(sums))
        means[index] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    mean = float(np.mean(values))
    return Estimate(round(mean, 4), round(float(low), 4), round(float(high), 4), len(values))


def accuracy(graded: Sequence[tuple[Asked, Grade]]) -> dict[str, Estimate]:
    """Estimate general and box accuracy, mean IoU, and the accuracy of each kind."""
    general = [(asked, grade) for asked, grade in graded if grade.iou is None]
    boxes = [(asked, grade) for asked, grade in graded if grade.iou is not None]
    groups = {"general": general, "where": boxes}
    for kind in sorted({asked.question.kind for asked, _ in general}):
        groups[kind] = [(asked, grade) for asked, grade in general if asked.question.kind == kind]
    found = {
        name: estimate([float(g.correct) for _, g in group], [a.index for a, _ in group])
        for name, group in groups.items()
    }
    overlaps = [grade.iou or 0.0 for _, grade in boxes]
    return found | {"iou": estimate(overlaps, [asked.index for asked, _ in boxes])}


def bounds(model: Model, processor: Processor, questions: Sequence[Asked]) -> list[dict[str, Any]]:
    """Locate with the target's tokens and with random ones, after each number of layers."""
    depth = model.config.text_config.num_hidden_layers
    cases = [(layers, share) for share in KEPT for layers in range(depth)]

    def right(layers: int, share: float, oracle: bool) -> float:
        found = located(model, processor, questions, layers=layers, share=share, oracle=oracle)
        return round(found, 4)

    return [
        {
            "layers": layers,
            "kept": share,
            "oracle": right(layers, share, True),
            "random": right(layers, share, False),
        }
        for layers, share in tqdm(cases, "bounds", mininterval=5)
    ]


def measure(folder: Path, count: int, probes: int, scene_set: int) -> dict[str, Any]:
    """Measure everything.

    Args:
        folder: The checkpoint.
        count: Scenes for the accuracies.
        probes: Scenes, the first ones, for attention and bounds.
        scene_set: Number of the test set the scenes come from.

    Returns:
        What is written to `measured.json`.
    """
    model, processor = load(folder)
    asked = all_questions(scenes(count, scene_set))
    progress = tqdm(answers(model, processor, asked), "questions", len(asked), mininterval=5)
    graded = [(one, grade(one.question, text)) for one, text in progress]
    where = [one for one in asked if one.question.kind == "where" and one.index < probes]
    table, even = gazes(model, processor, where)
    return {
        "scenes": count,
        "scene_set": scene_set,
        "parameters": model.num_parameters(),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "accuracy": {name: asdict(value) for name, value in accuracy(graded).items()},
        "attention": {
            "questions": len(where),
            "even": even,
            "layers": [asdict(gaze) for gaze in table],
        },
        "bounds": {"questions": len(where), "cases": bounds(model, processor, where)},
    }


def show(measured: dict[str, Any]) -> None:
    """Print the measurements as three tables."""
    print(f"{'':10}{'mean':>8}{'95 % interval':>20}{'questions':>12}")
    for name, one in measured["accuracy"].items():
        interval = f"{one['low']:.4f} to {one['high']:.4f}"
        print(f"{name:10}{one['mean']:8.4f}{interval:>20}{one['questions']:12}")
    print(f"\nattention of the last token (target if even: {measured['attention']['even']})")
    print(f"{'layer':>5}  {'image, by head':20}{'target, by head':20}{'variation':>10}{'peak':>7}")
    for one in measured["attention"]["layers"]:
        image, target = (" ".join(f"{x:.3f}" for x in one[key]) for key in ("image", "target"))
        print(f"{one['layer']:5}  {image:20}{target:20}{one['variation']:10.2f}{one['peak']:7.2f}")
    print(f"\n{'layers':>6}{'kept':>6}{'oracle':>9}{'random':>9}")
    for one in measured["bounds"]["cases"]:
        print(f"{one['layers']:6}{one['kept']:6.0%}{one['oracle']:9.3f}{one['random']:9.3f}")


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="checkpoint folder")
    parser.add_argument("--scenes", type=int, default=1000, help="scenes for the accuracies")
    parser.add_argument("--probes", type=int, default=100, help="scenes for attention and bounds")
    parser.add_argument("--scene-set", type=int, default=0, help="number of the test set")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--output", type=Path, default=MEASURED, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = measure(options.checkpoint, options.scenes, options.probes, options.scene_set)
    options.output.write_text(json.dumps(measured, indent=2) + "\n")
    show(measured)


if __name__ == "__main__":
    main()
