"""Whether a model can be pruned, found out by pruning it: what was tried, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedModel

from prunekit.errors import PrunekitError
from prunekit.hf.anatomy import Anatomy, Held, Layout, layout, watching_guesses
from prunekit.hf.grids import Adapter
from prunekit.hf.models import LoadedModel
from prunekit.hf.pruning import Pruning

Attach: TypeAlias = Callable[[float], AbstractContextManager[Pruning]]
"""From the share of visual tokens to keep to a block in which the model is pruned so."""

EVERYTHING, HALF = 1.0, 0.5


@dataclass(frozen=True, slots=True)
class Way:
    """One way to attach to the model.

    Attributes:
        name: What it is called in the checks.
        attach: Does it.
    """

    name: str
    attach: Attach


@dataclass(frozen=True, slots=True)
class Check:
    """What was tried, and what came of it.

    Attributes:
        name: What was tried.
        ok: Whether it went as it should.
        why: What was seen, or what went wrong.
        needed: Whether the model is healthy only if it did.
    """

    name: str
    ok: bool
    why: str
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found out about a model.

    Attributes:
        model: What it was loaded by.
        checks: In the order they were made; none is made after a needed one that failed.
        anatomy: What it is made of; None where it could not be loaded.
        layout: How it laid out the example; None where it was not pruned.
        cache: What its cache is made of; empty where it read nothing.
    """

    model: str
    checks: tuple[Check, ...]
    anatomy: Anatomy | None = None
    layout: Layout | None = None
    cache: tuple[Held, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether all that is needed went well."""
        return all(check.ok for check in self.checks if check.needed)


@dataclass(slots=True, eq=False)
class _Patient:
    """A model and a prompt, and what it makes of it without pruning.

    Attributes:
        model: The model.
        inputs: The prompt.
        new_tokens: How long an answer to compare.
        logits: What it gives unpruned.
        noise: By how much these differ from one pass to the next; 0 where passes are reproducible.
        answer: What it answers unpruned.
        cache: What its cache is made of.
        positions: Of the first row's visual tokens; None until it was pruned.
    """

    model: PreTrainedModel
    inputs: BatchFeature
    new_tokens: int
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    noise: float = 0.0
    answer: Tensor = field(default_factory=lambda: torch.empty(0))
    cache: tuple[Held, ...] = ()
    positions: Tensor | None = None

    def reads(self) -> str:
        output = self._read()
        self.logits, self.cache = output.logits, Held.by(output.past_key_values)
        if not bool(self.logits.isfinite().all()):
            raise PrunekitError("Logits are not finite; run the model in bfloat16 or float32.")
        self.noise = self._off(self._read().logits)
        told = "the same twice" if self.noise == 0 else f"not reproducible: off by {self.noise:.2g}"
        return f"{self.inputs['input_ids'].shape[1]} tokens, logits {told}"

    def answers(self) -> str:
        self.answer = self._generate()
        return f"{self.answer.shape[1]} tokens"

    def keeps_all(self, way: Way) -> str:
        with way.attach(EVERYTHING):
            return self._as_before()

    def answers_alike(self, way: Way) -> str:
        with way.attach(EVERYTHING):
            answer = self._generate()
        if not torch.equal(answer, self.answer):
            raise PrunekitError(
                f"Another answer with everything kept: {answer.tolist()}, {self.answer.tolist()}."
            )
        return f"{answer.shape[1]} tokens, the same"

    def is_pruned(self, way: Way) -> str:
        with way.attach(HALF) as pruning:
            output = self._read()
        first = pruning.selections[0]
        self.positions = first.positions[0, first.present[0]]
        return self._sane(output, pruning)

    def answers_pruned(self, way: Way) -> str:
        with way.attach(HALF):
            return f"{self._generate().shape[1]} tokens"

    def is_attached_to(self, way: Way) -> str:
        with way.attach(EVERYTHING):
            same = self._as_before()
        with way.attach(HALF) as pruning:
            return f"{same}; {self._sane(self._read(), pruning)}"

    def is_let_go(self) -> str:
        return self._as_before()

    def _as_before(self) -> str:
        """Refuses logits that are further off than two passes without pruning are."""
        off = self._off(self._read().logits)
        if not off <= self.noise:
            raise PrunekitError(f"Logits are off by {off:.2g} with nothing dropped.")
        return "logits bit-identical" if off == 0 else "logits as close as two passes are"

    def _sane(self, output: Any, pruning: Pruning) -> str:
        """Refuses a pruned pass that gives other than finite logits for every token of the prompt."""
        if output.logits.shape != self.logits.shape:
            raise PrunekitError(
                f"Logits are {tuple(output.logits.shape)}, without pruning {tuple(self.logits.shape)}."
            )
        if not bool(output.logits[:, -1].isfinite().all()):
            raise PrunekitError("Logits are not finite.")
        report = pruning.report()
        sizes = dict.fromkeys(layer.keys.shape[-2] for layer in output.past_key_values.layers)
        return (
            f"{sum(report.visual_before)} → {sum(report.visual_after)} visual tokens, logits finite, "
            f"layers hold {' → '.join(map(str, sizes))} tokens"
        )

    def _off(self, logits: Tensor) -> float:
        return float((logits.float() - self.logits.float()).abs().max())

    def _read(self) -> Any:
        return self.model(**self.inputs, use_cache=True)

    def _generate(self) -> Tensor:
        ids = self.model.generate(  # pyright: ignore[reportCallIssue]
            **self.inputs, max_new_tokens=self.new_tokens, do_sample=False, num_beams=1
        )
        return ids[:, self.inputs["input_ids"].shape[1] :]


def examine(
    loaded: LoadedModel,
    inputs: BatchFeature,
    main: Way,
    others: Sequence[Way] = (),
    *,
    adapters: Sequence[Adapter] = (),
    new_tokens: int = 8,
) -> Diagnosis:
    """Tries a model out on one prompt: alone, attached in one way and then in others, and alone again.

    Args:
        loaded: The model.
        inputs: The prompt, at least two visual tokens a row; it is the first row's layout that is told.
        main: The way that has to work.
        others: Ways that may be asked for.
        adapters: What the main way asks for grids before the known families.
        new_tokens: How long an answer to compare.
    """
    patient = _Patient(loaded.model, inputs, new_tokens)
    attempts: list[tuple[str, Callable[[], str], bool]] = [
        ("reads the prompt", patient.reads, True),
        ("answers", patient.answers, True),
        (f"{main.name}, keep-all", partial(patient.keeps_all, main), True),
        (f"{main.name}, keep-all, answers", partial(patient.answers_alike, main), True),
        (f"{main.name}, half kept", partial(patient.is_pruned, main), True),
        (f"{main.name}, half kept, answers", partial(patient.answers_pruned, main), True),
        *((way.name, partial(patient.is_attached_to, way), False) for way in others),
        ("detached", patient.is_let_go, True),
    ]
    checks: list[Check] = []
    with torch.inference_mode(), watching_guesses() as said:
        for name, attempt, needed in attempts:
            checks.append(_checked(name, attempt, needed=needed))
            if needed and not checks[-1].ok:
                break
    lie = patient.positions
    told = None if lie is None else layout(lie, loaded.model.config, adapters, guessed=bool(said))
    return Diagnosis(loaded.name, tuple(checks), Anatomy.of(loaded.model), told, patient.cache)


def unfit(model: str, failed: str, error: PrunekitError, anatomy: Anatomy | None = None) -> Diagnosis:
    """The diagnosis of a model that comes to no prompt: what failed, and how."""
    return Diagnosis(model, (Check(failed, False, str(error)),), anatomy)


def _checked(name: str, attempt: Callable[[], str], *, needed: bool) -> Check:
    """How an attempt goes, whatever goes wrong in it."""
    try:
        return Check(name, True, attempt(), needed)
    except PrunekitError as error:
        return Check(name, False, str(error), needed)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", needed)
