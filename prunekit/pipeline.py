"""The pipeline: importance, bias, graph, selectors and merger in the one order that makes sense, as a value.

             ┌── importance ──► Scores ──┐
TokenBatch ──┼── bias ────────► Bias ────┴─► Scores ─┐
             └── graph ───────► Graph ───────────────┴─► Candidates ─► select, select … ─► Selection ─► merge
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError
from torch import Tensor

from prunekit.blocks import At, Biases, Override, Selectors, as_tuple, beside, in_all
from prunekit.budget import Budget, limit_of, room_for
from prunekit.errors import ConfigError, PluginError, PrunekitError, TokenError, nearest
from prunekit.graph import Graph, NoEdges
from prunekit.kernels.engine import ENGINES, Engine, engine_for
from prunekit.kernels.ranking import best
from prunekit.registry import Registry, installed
from prunekit.schedule import Schedule
from prunekit.signals import Signal, VisionAttention, VisionKeys
from prunekit.stages import GraphBuilder, ImportanceScorer, Merger, Selector, Site, Stage, bound
from prunekit.strict import Strict, misplaced, mistakes
from prunekit.tokens import Bias, Candidates, Growth, Kept, Room, Scores, Selection, TokenBatch, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prunekit.hf import Attachment

REST = "rest"
"""The name under which a selection files the tokens that no selector asked for."""


class Pipeline(Strict, frozen=True):
    """A pruning method: stages and where they act. Call it on tokens, or attach it to a model.

    An absent stage is the neutral element: no bias, nothing removed; no graph, no edges; no merger, what is
    dropped is gone. Selectors are a fold: each gets what is kept so far and the room left. Room that none of
    them uses goes to the best tokens left, so that a selection always has exactly as many tokens as the
    budget says.

    With `stages` it prunes at several places, each time what the one before let go on. Shares of a budget are
    of the prompt's visual tokens at every place.
    """

    also: ClassVar[tuple[str, ...]] = ("extends",)

    name: str = Field("unnamed", description="What the pipeline is called in tables and reports.")
    family: str = Field("other", description="The kind of method it is, under which lists group it.")
    summary: str = Field("", description="What it does, in a sentence.")
    differs: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        (), description="Where it differs from the papers, or from their official code."
    )
    cites: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        (), description="The papers the method comes from."
    )
    at: At = Field(At(layer=2), description="Where in the model tokens are dropped.")
    budget: Budget = Field(
        0.1, description="How many visual tokens to keep: a count (int) or a share in (0, 1] (float)."
    )
    positions: Literal["keep", "repack"] = Field(
        "keep", description="Whether kept tokens keep their position ids or are numbered anew."
    )
    importance: ImportanceScorer = Field(description="How much each token is worth.")
    bias: Biases = Field(
        (), description="What scores owe to position or padding; one, or a list taken away in turn."
    )
    graph: GraphBuilder | None = Field(None, description="Which tokens are too alike to keep both.")
    select: Selectors = Field(description="The selectors, in turn; one, or a list.")
    merge: Merger | None = Field(None, description="What dropped tokens leave to kept ones.")
    stages: tuple[Override, ...] = Field(
        (),
        strict=False,
        description="Several places to prune at, by ascending layers; each may give blocks of its own.",
    )

    @field_validator("merge")
    @classmethod
    def _after_its_steps(cls, merge: Merger | None, info: ValidationInfo) -> Merger | None:
        """Refuses a merger that asks for a step there is not."""
        if (told := _unknown_step(merge, info.data.get("select"))) is not None:
            raise PydanticCustomError("stage", "{told}", {"told": told})
        return merge

    @field_validator("select", mode="after")
    @classmethod
    def _some(cls, selectors: tuple[Selector, ...]) -> tuple[Selector, ...]:
        if not selectors:
            raise PydanticCustomError("stage", "name at least one selector, for instance top_k")
        return selectors

    @model_validator(mode="after")
    def _places_in_order(self) -> Self:
        layers = [each.at.layer for each in self.stages]
        if any(later <= earlier for earlier, later in pairwise(layers)):
            raise misplaced("stages", why=f"they go by ascending layers; got {layers}")
        budgets = [cut.budget for cut in self.cuts]
        if any(type(one) is type(next_) and next_ > one for one, next_ in pairwise(budgets)):
            told = f"their budgets never rise, for shares are of the prompt's tokens; got {budgets}"
            raise misplaced("stages", why=told)
        for number, cut in enumerate(self.cuts if self.stages else ()):
            if (told := _unknown_step(cut.merge, cut.select)) is not None:
                raise misplaced("stages", number, "merge", why=told)
        for block in sorted(self._overridden & self.model_fields_set):
            told = "every one of the stages gives its own, so that this would not hold; change it there"
            raise misplaced(block, why=told)
        return self

    @model_serializer(mode="wrap")
    def _without_the_overridden(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        left_out = self._overridden if self.stages else {"stages"}
        return {name: held for name, held in dump(self).items() if name not in left_out}

    @property
    def cuts(self) -> tuple[Self, ...]:
        """The pipeline at each place where it prunes, in order: itself where there is one."""
        if not self.stages:
            return (self,)
        return tuple(self.model_copy(update={**each.given, "stages": ()}) for each in self.stages)

    @property
    def parts(self) -> tuple[Stage, ...]:
        """All stages of all places, in the order data flows through them."""
        return tuple(
            part
            for cut in self.cuts
            for part in (cut.importance, *cut.bias, cut.graph, *cut.select, cut.merge)
            if part is not None
        )

    @property
    def needs(self) -> frozenset[Signal]:
        """What must be captured from the model for this pipeline to run."""
        return frozenset[Signal]().union(*(part.needs for part in self.parts))

    @property
    def sees(self) -> bool:
        """Whether it wants something from the vision encoder."""
        wanted = any(isinstance(need, (VisionAttention, VisionKeys)) for need in self.needs)
        return wanted or any(cut.at.features == "vision" for cut in self.cuts)

    @property
    def _overridden(self) -> set[str]:
        """The optional blocks that every one of the stages gives."""
        return in_all([each.given for each in self.stages])

    def swap(self, **changes: Any) -> Self:
        """A new pipeline with these top-level blocks replaced, validated like a file that extends this one.

        Stages may be given as stages, as mappings (`{"use": "mis"}`), or by name (`"mis"`).

        Raises:
            ConfigError: A block or a stage is not what it should be.
        """
        held = {name: getattr(self, name) for name in self.model_fields_set}
        return self.validated(beside(changes, held), installed(), f"{self.name}.swap(…)")

    @classmethod
    def validated(cls, data: Mapping[str, Any], registry: Registry, source: str) -> Self:
        """A pipeline from plain data, stage names looked up in the registry.

        Raises:
            ConfigError: With every mistake in it, each with its path.
        """
        try:
            return cls.model_validate(dict(data), context={"registry": registry})
        except ValidationError as error:
            raise ConfigError(f"{source}: {'; '.join(mistakes(error).values())}") from error

    def __call__(self, tokens: TokenBatch, engine: Engine | None = None) -> Selection:
        """Selects tokens: exactly as many of each sample as the budget says, if there are that many.

        On an accelerator nothing is read back while it runs, but by the few stages that say so, and the
        device need not wait for the host; what there is to check is checked when the selection is `settled`.
        `attach` sees to that.

        Args:
            tokens: The tokens.
            engine: Whether selectors may read values; by default what suits the tokens' device.

        Raises:
            ConfigError: There is no such engine.
            TokenError: A stage gave something that does not fit the tokens.
            PluginError: A stage raised, or gave another kind of thing than its kind should.
        """
        engine = _known(engine) or engine_for(tokens.present.device)
        if self.stages:
            return self._in_turn(tokens, engine)
        scores = _fitting(_asked(self.importance, tokens), tokens, self.importance)
        debiased, biases = scores, tuple(_asked(bias, tokens) for bias in self.bias)
        for stage, bias in zip(self.bias, biases, strict=True):
            debiased = _fitting(bias.remove(debiased), tokens, stage)
        graph: Graph = NoEdges(tokens.present) if self.graph is None else _asked(self.graph, tokens)
        total = tokens.counts if tokens.total is None else tokens.total
        room = room_for(total, self.budget).minimum(tokens.counts)
        limit = limit_of(tokens.present.shape[-1], self.budget)
        candidates = Candidates(tokens, debiased, graph, limit, engine)
        growths = [Growth(torch.zeros_like(tokens.present))]
        for selector in self.select:
            kept = growths[-1].kept
            growths.append(_grown(selector, candidates, kept, room - kept.sum(-1)))
        kept = growths[-1].kept
        growths.append(Growth(kept | best(debiased, tokens.present & ~kept, room - kept.sum(-1))))
        selection = Selection(
            kept=growths[-1].kept,
            kept_by=_kept_by(growths),
            steps=(*(selector.use for selector in self.select), REST),
            scores=scores,
            debiased=debiased,
            positions=tokens.positions,
            present=tokens.present,
            biases=biases,
            graph=graph,
            suppressing=_any(growth.suppressing for growth in growths),
            ways=tuple(growth.way for growth in growths[1:]),
            verdict=Verdict(
                _faults(growths[:-1], tokens, room),
                torch.stack([tokens.present.new_ones(len(room)), *_exact(growths)]).all(0),
                tuple(selector.use for selector in self.select),
                partial(self, tokens, "host"),
            ),
        )
        if engine == "host":
            selection = selection.settled()
        return selection if self.merge is None else _merged(self.merge, tokens, selection)

    def _in_turn(self, tokens: TokenBatch, engine: Engine) -> Selection:
        """What is left after all places, were the tokens the same at each of them."""
        left = replace(tokens, total=tokens.counts if tokens.total is None else tokens.total)
        made: list[Selection] = []
        for cut in self.cuts:
            made.append(cut(left, engine))
            left = replace(left, present=made[-1].kept)
        verdicts = [selection.verdict for selection in made if selection.verdict is not None]
        verdict = verdicts and Verdict(
            torch.cat([each.faults for each in verdicts]),
            torch.stack([each.exact for each in verdicts]).all(0),
            tuple(step for each in verdicts for step in each.steps),
            partial(self, tokens, "host"),
        )
        return replace(made[-1], present=tokens.present, verdict=verdict or None)

    def schedule(self, visual: int) -> Schedule:
        """Which layers prune a prompt of so many visual tokens, and to how many."""
        rooms = (int(room_for(torch.tensor(visual), cut.budget)) for cut in self.cuts)
        return Schedule(tuple(cut.at.layer for cut in self.cuts), tuple(accumulate(rooms, min)))

    def scheduled(self, schedule: Schedule) -> Self:
        """This pipeline with the counts of a schedule as its budgets.

        Raises:
            ConfigError: The schedule is for other layers.
        """
        layers = tuple(cut.at.layer for cut in self.cuts)
        if schedule.layers != layers:
            raise ConfigError(
                f"{self.name} prunes at layers {layers}; the schedule is for {schedule.layers}."
            )
        if not self.stages:
            return self.swap(budget=schedule.kept[0])
        stages = [
            {**each.given, "budget": kept} for each, kept in zip(self.stages, schedule.kept, strict=True)
        ]
        return self.swap(stages=stages)

    def bind(self, site: Site) -> Self:
        """This pipeline, of one place, with everything found that `auto` stands for there.

        Raises:
            PrunekitError: A stage needs something there that does not exist.
        """
        return self.model_copy(update={name: bound(held, site) for name, held in self})

    def site(self, model: PreTrainedModel) -> Site:
        """Where this pipeline, of one place, is when it is attached to a model."""
        return Site(str(model.config.name_or_path), self.at.layer)

    def attach(self, model: PreTrainedModel) -> Attachment:
        """Prunes what `model` reads, inside a `with` block; off again on the way out, also after an error.

        Example:
            >>> with pipeline.attach(model) as pruning:        # doctest: +SKIP
            ...     output = model.generate(**inputs, max_new_tokens=64)
            >>> print(pruning.report())                        # doctest: +SKIP

        Raises:
            UnsupportedModel: The model, its cache or its setup cannot be pruned; nothing has run yet.
            PrunekitError: A stage does not find what it needs for this model.
        """
        from prunekit import hf

        hf.find_decoder(model, [cut.at.layer for cut in self.cuts])
        there = [cut.bind(cut.site(model)) for cut in self.cuts]
        return hf.attach(
            model,
            *(hf.Cut(cut, cut.at.layer, cut.needs, cut.at.features, cut.merge is not None) for cut in there),
            positions=self.positions,
            adapters=installed().adapters,
        )


def _unknown_step(merge: Merger | None, selectors: tuple[Selector, ...] | None) -> str | None:
    """What is wrong with a merger that asks for a step there is not; None for nothing."""
    if merge is None or selectors is None:
        return None
    steps = (*(selector.use for selector in selectors), REST)
    for name in sorted(merge.after.difference(steps)):
        return f"there is no selector {name!r} to merge after. {nearest(name, steps)}"
    return None


def _known(engine: Engine | None) -> Engine | None:
    if engine not in {None, *ENGINES}:
        raise ConfigError(f"engine is one of {', '.join(ENGINES)}, or None; got {engine!r}.")
    return engine


def _asked(stage: Stage, *arguments: Any) -> Any:
    """What a stage gives; an error that is none of prunekit's is named after the stage."""
    try:
        given = cast("Callable[..., Any]", stage)(*arguments)
    except PrunekitError:
        raise
    except Exception as error:
        raise PluginError(
            f"The {stage.kind} stage {stage.use!r} failed: {type(error).__name__}: {error}."
        ) from error
    wanted = {"bias": (Bias,), "graph": (Graph,), "select": (Tensor, Growth)}.get(stage.kind, (Tensor,))
    if not isinstance(given, wanted):
        raise PluginError(
            f"The {stage.kind} stage {stage.use!r} must give a "
            f"{' or a '.join(kind.__name__ for kind in wanted)}; it gave a {type(given).__name__}."
        )
    return given


def _fitting(scores: Scores, tokens: TokenBatch, stage: Stage) -> Scores:
    if scores.shape != tokens.present.shape or not scores.dtype.is_floating_point:
        raise TokenError(
            f"The {stage.kind} stage {stage.use!r} must give float scores (batch, tokens) = "
            f"{tuple(tokens.present.shape)}; it gave {scores.dtype} {tuple(scores.shape)}."
        )
    return scores


def _merged(merger: Merger, tokens: TokenBatch, selection: Selection) -> Selection:
    """The selection with the features after merging."""
    merged: Float[Tensor, "batch tokens dim"] = _asked(merger, tokens, selection)
    if merged.shape != tokens.features.shape or not merged.dtype.is_floating_point:
        raise TokenError(
            f"The merge stage {merger.use!r} must give float features (batch, tokens, dim) = "
            f"{tuple(tokens.features.shape)}; it gave {merged.dtype} {tuple(merged.shape)}."
        )
    return replace(selection, merged=merged)


def _grown(selector: Selector, candidates: Candidates, kept: Kept, room: Room) -> Growth:
    """What a selector gives, as a `Growth` of the right shape."""
    given = _asked(selector, candidates, kept, room)
    _refuse_odd(
        selector, "a bool mask (batch, tokens) =", given.kept if isinstance(given, Growth) else given, kept
    )
    growth = given if isinstance(given, Growth) else Growth(given)
    if growth.suppressing is not None:
        _refuse_odd(selector, "suppressing as a bool mask", growth.suppressing, kept)
    if growth.exact is not None:
        _refuse_odd(selector, "exact as a bool mask", growth.exact, room)
    if candidates.engine == "host" and growth.exact is not None and not bool(growth.exact.all()):
        raise TokenError(
            f"The select stage {selector.use!r} says that its own answer is not exact, on an engine that may "
            "read values and so can be."
        )
    return growth


def _refuse_odd(selector: Selector, what: str, given: object, like: Tensor) -> None:
    """Refuses what is no bool tensor of the shape, and on the device, of another."""
    told = type(given).__name__
    if isinstance(given, Tensor):
        if (given.shape, given.dtype, given.device) == (like.shape, torch.bool, like.device):
            return
        told = f"{given.dtype} {tuple(given.shape)} on {given.device}"
    raise TokenError(
        f"The select stage {selector.use!r} must give {what} {tuple(like.shape)} on {like.device}; "
        f"it gave {told}."
    )


def _faults(growths: Sequence[Growth], tokens: TokenBatch, room: Room) -> Bool[Tensor, "steps 3"]:
    """For each step after the first whether it did what no selector may do: see `FAULTS`."""
    after = torch.stack([growth.kept for growth in growths])
    lost = after[:-1] & ~after[1:]
    padding = after[1:] & ~tokens.present
    crowded = after[1:].sum(-1) > room
    return torch.stack([lost.flatten(1).any(1), padding.flatten(1).any(1), crowded.any(1)], 1)


def _kept_by(growths: Sequence[Growth]) -> Int[Tensor, "batch tokens"]:
    """For each token the step that kept it, counted from 0; -1 where none did."""
    after = torch.stack([growth.kept for growth in growths[1:]])
    return torch.where(after[-1], len(after) - after.sum(0), -1)


def _exact(growths: Sequence[Growth]) -> list[Bool[Tensor, " batch"]]:
    return [growth.exact for growth in growths if growth.exact is not None]


def _any(masks: Iterable[Kept | None]) -> Kept | None:
    """Where any of the masks is set; None where there is no mask."""
    there = [mask for mask in masks if mask is not None]
    return torch.stack(there).any(0) if there else None
