"""Train the testbed model from scratch on one CPU core, and export it.

    python -m benchmarks.testbed.train --help

Two courses. In the first the vision tower alone learns what each patch shows; in the second
everything learns to answer questions. A run can be stopped at any time and is taken up again
where it was last saved: a batch depends on the number of its step only, so nothing random
has to be remembered.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from benchmarks.testbed.export import export
from benchmarks.testbed.guidance import gaze_loss, push, watching
from benchmarks.testbed.lessons import Lesson, Lessons
from benchmarks.testbed.model import build_model, start_tower
from benchmarks.testbed.objective import COORDINATE, PatchReader, answer_loss, soft_targets
from benchmarks.testbed.optimisation import Optimisation, schedule
from benchmarks.testbed.packed import difference, read, see
from prunekit.testbed import CHECKPOINT

RUNS = Path(__file__).parent / "runs"
LOG = Path(__file__).parent / "loss.jsonl"

PICTURES = 32
"""Pictures in a batch, in both courses."""

PATCH_WEIGHT = 0.3
"""Weight of the patch reading in the second course."""

SAVE_EVERY = 100
LOG_EVERY = 25
MOST_DIFFERENCE = 1e-4


@dataclass(frozen=True, slots=True)
class Course:
    """One part of the training.

    Attributes:
        name: `"tower"` or `"answers"`.
        steps: Batches.
        tower_rate: Highest learning rate of the vision tower.
        rate: Highest learning rate of everything else; 0 leaves it out.
        first_scene: Seed of the first training scene.
        growing: Whether scenes grow to standard difficulty, and questions shift, on the way.
        warm_up: Steps until the highest learning rate.
    """

    name: str
    steps: int
    tower_rate: float
    rate: float
    first_scene: int
    growing: bool
    warm_up: int


@dataclass(slots=True)
class Pupil:
    """What is trained, and how far it has come.

    Attributes:
        model: The model.
        reader: The throw-away patch reader.
        course: Name of the current course.
        step: Steps done in it.
        seconds: Training time so far, in all.
        records: Lines of the loss log so far.
    """

    model: LlavaForConditionalGeneration
    reader: PatchReader
    course: str = "tower"
    step: int = 0
    seconds: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def save(self, path: Path, optimisation: Optimisation) -> None:
        """Write everything needed to go on, replacing the file in one move."""
        state = {
            "model": self.model.state_dict(),
            "reader": self.reader.state_dict(),
            "optimisation": optimisation.state_dict(),
            "course": self.course,
            "step": self.step,
            "seconds": self.seconds,
            "records": self.records,
        }
        unfinished = path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def log(self) -> str:
        """Return the loss log, one JSON object a line."""
        return "".join(json.dumps(record) + "\n" for record in self.records)

    def load(self, path: Path) -> list[dict[str, Any]]:
        """Go back to what was saved; return the optimisers' states."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.reader.load_state_dict(state["reader"])
        self.course, self.step = state["course"], state["step"]
        self.seconds, self.records = state["seconds"], state["records"]
        return state["optimisation"]


def tower_loss(pupil: Pupil, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
    """Loss of the first course: what each patch shows."""
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = see(pupil.model, lesson.pixels)
    loss, (shape, colour, size) = pupil.reader(features, lesson.patches)
    return loss, {"loss": loss.item(), "shape": shape, "colour": colour, "size": size}


def whole_loss(pupil: Pupil, lesson: Lesson, soft: Tensor, weight: float) -> tuple[Tensor, dict[str, float]]:
    """Loss of the second course: answers, a little of the patches, and at first the gaze."""
    with torch.autocast("cpu", torch.bfloat16), ExitStack() as stack:
        seen = stack.enter_context(watching(pupil.model)) if weight else []
        features, visual = see(pupil.model, lesson.pixels)
        hidden = read(pupil.model, visual, lesson.tokens)
    embeddings = pupil.model.lm_head.weight
    loss, figures = answer_loss(hidden, embeddings, lesson.targets, lesson.weights, soft)
    patches, _ = pupil.reader(features, lesson.patches)
    loss, figures["patches"] = loss + PATCH_WEIGHT * patches, patches.item()
    if weight:
        gaze, figures["gaze"] = gaze_loss(seen[0], lesson.places, lesson.targets >= COORDINATE)
        loss = loss + weight * gaze
    return loss, figures


def run(course: Course, pupil: Pupil, path: Path, states: list[dict[str, Any]] | None) -> None:
    """Run a course from `pupil.step` to its end.

    Args:
        course: The course.
        pupil: What to train, in place.
        path: Where to save it now and then.
        states: The optimisers' states at `pupil.step`, if it is not the beginning.
    """
    parts = pupil.model.model
    language = [parts.multi_modal_projector, parts.language_model]
    optimisation = Optimisation(
        [([parts.vision_tower, pupil.reader], course.tower_rate), (language, course.rate)]
    )
    if states is not None:
        optimisation.load_state_dict(states)
    lessons = Lessons(PICTURES, course.steps, course.first_scene, course.growing)
    remaining = range(pupil.step, course.steps)
    loader = DataLoader(lessons, batch_size=None, sampler=remaining, num_workers=1, prefetch_factor=4)
    soft = soft_targets()
    sums: dict[str, float] = defaultdict(float)
    bar = tqdm(loader, course.name, total=course.steps, initial=pupil.step, mininterval=5)
    last = time.monotonic()
    for lesson in bar:
        if course.name == "tower":
            loss, figures = tower_loss(pupil, lesson)
        else:
            loss, figures = whole_loss(pupil, lesson, soft, push(pupil.step))
        loss.backward()
        optimisation.step(schedule(pupil.step, course.steps, course.warm_up))
        pupil.step += 1
        now = time.monotonic()
        pupil.seconds, last = pupil.seconds + now - last, now
        for name, figure in figures.items():
            sums[name] += figure / LOG_EVERY
        if pupil.step % LOG_EVERY == 0:
            _record(pupil, sums, path.with_name("loss.jsonl"))
            bar.set_postfix({name: f"{figure:.2f}" for name, figure in sums.items()})
            sums.clear()
        if pupil.step % SAVE_EVERY == 0:
            pupil.save(path, optimisation)


def _record(pupil: Pupil, means: dict[str, float], log: Path) -> None:
    """Add the means of the last steps to the loss log, and write the log anew."""
    line = {"course": pupil.course, "step": pupil.step, "seconds": round(pupil.seconds)}
    pupil.records.append(line | {name: round(mean, 4) for name, mean in means.items()})
    log.write_text(pupil.log())


def begin(seed: int) -> Pupil:
    """Build a fresh model with its tower started from training pictures."""
    torch.manual_seed(seed)
    pupil = Pupil(build_model().train(), PatchReader())
    start_tower(pupil.model, Lessons(100, 1, 0, growing=False)[0].pixels)
    return pupil


def check_packing(pupil: Pupil, first_scene: int) -> float:
    """Compare the trainer's forward with the plain one on a batch nobody trained on.

    Raises:
        RuntimeError: If they differ by more than `MOST_DIFFERENCE`.
    """
    lesson = Lessons(4, 1, first_scene, growing=False)[0]
    pupil.model.eval()
    worst = difference(pupil.model, lesson.pixels, lesson.tokens)
    pupil.model.train()
    if worst > MOST_DIFFERENCE:
        raise RuntimeError(f"packed and plain forwards differ by {worst:.1e} in logits")
    return worst


def train(name: str, seed: int, tower_steps: int, answer_steps: int) -> Pupil:
    """Train, or go on training, the run called `name`, and return what came out."""
    folder = RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "state.pt"
    pupil = begin(seed)
    states = pupil.load(path) if path.exists() else None
    scene_seed = seed * 1_000_000_000
    unseen = scene_seed + PICTURES * (tower_steps + answer_steps)
    print(f"packed and plain forwards differ by {check_packing(pupil, unseen):.1e}", flush=True)
    if pupil.course == "tower":
        run(
            Course("tower", tower_steps, 4e-3, 0.0, scene_seed, growing=False, warm_up=33),
            pupil,
            path,
            states,
        )
        pupil.course, pupil.step, states = "answers", 0, None
    first = scene_seed + PICTURES * tower_steps
    run(
        Course("answers", answer_steps, 1e-3, 3e-3, first, growing=True, warm_up=39),
        pupil,
        path,
        states,
    )
    print(f"packed and plain forwards differ by {check_packing(pupil, unseen):.1e}", flush=True)
    return pupil


def main() -> None:
    """Read the command line, train and export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", default="main", help="folder under runs/; an old run goes on")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and scenes")
    parser.add_argument("--tower-steps", type=int, default=1100, help="steps of the first course")
    parser.add_argument("--answer-steps", type=int, default=1500, help="steps of the second")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="checkpoint folder")
    parser.add_argument("--log", type=Path, default=LOG, help="where the loss log is copied")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(options.threads)
    pupil = train(options.name, options.seed, options.tower_steps, options.answer_steps)
    export(pupil.model, options.output)
    options.log.write_text(pupil.log())
    print(f"trained in {pupil.seconds / 60:.1f} minutes; written to {options.output}")


if __name__ == "__main__":
    main()
