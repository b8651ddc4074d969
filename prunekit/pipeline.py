"""The pipeline: importance, bias, graph and selectors in the one order that makes sense, as a value.

                ┌── importance ──► Scores ──┐
TokenBatch ─────┼── bias ────────► Bias ────┴─► Scores ─┐
                └── graph ───────► Graph ───────────────┴─► Candidates ─► select, select … ─► Selection
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from prunekit.budget import Budget, room_for
from prunekit.errors import ConfigError, PluginError, PrunekitError, TokenError
from prunekit.graph import Graph, NoEdges
from prunekit.kernels.ranking import best
from prunekit.registry import Registry, installed
from prunekit.stages import BiasEstimator, GraphBuilder, ImportanceScorer, Selector, Site, Stage, bound
from prunekit.strict import Strict, mistakes
from prunekit.tokens import Bias, Candidates, Kept, Room, Scores, Selection, Signal, TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prunekit.hf import Attachment

REST = "rest"
"""The name under which a selection files the tokens that no selector asked for."""


def _as_tuple(value: object) -> object:
    """One thing or a list of things, as a tuple; nothing as the empty one."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)  # pyright: ignore


def _some(value: object) -> object:
    """Like `_as_tuple`, of something."""
    things = _as_tuple(value)
    if things == ():
        raise PydanticCustomError("stage", "name at least one selector, for instance top_k")
    return things


class At(Strict, frozen=True):
    """Where in the model tokens are dropped."""

    layer: int = Field(
        ge=0, description="Tokens are dropped at the entry of this decoder layer, counted from 0."
    )


class Pipeline(Strict, frozen=True):
    """A pruning method: stages and where they act. Call it on tokens, or attach it to a model.

    An absent stage is the neutral element: no bias, nothing removed; no graph, no edges. Selectors are a
    fold: each gets what is kept so far and the room left. Room that none of them uses goes to the best
    tokens left, so that a selection always has exactly as many tokens as the budget says.
    """

    also: ClassVar[tuple[str, ...]] = ("extends",)

    name: str = Field("unnamed", description="What the pipeline is called in tables and reports.")
    cites: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
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
    bias: Annotated[tuple[BiasEstimator, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="What scores owe to position or padding; one, or a list taken away in turn."
    )
    graph: GraphBuilder | None = Field(None, description="Which tokens are too alike to keep both.")
    select: Annotated[tuple[Selector, ...], BeforeValidator(_some)] = Field(
        description="The selectors, in turn; one, or a list."
    )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, in the order data flows through them."""
        graph = () if self.graph is None else (self.graph,)
        return (self.importance, *self.bias, *graph, *self.select)

    @property
    def needs(self) -> frozenset[Signal]:
        """What must be captured from the model for this pipeline to run."""
        return frozenset[Signal]().union(*(stage.needs for stage in self.stages))

    def swap(self, **changes: Any) -> Self:
        """A new pipeline with these top-level blocks replaced, validated like a file.

        Stages may be given as stages, as mappings (`{"use": "mis"}`), or by name (`"mis"`).

        Raises:
            ConfigError: A block or a stage is not what it should be.
        """
        held = {name: getattr(self, name) for name in type(self).model_fields}
        return self.validated({**held, **changes}, installed(), f"{self.name}.swap(…)")

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

    def __call__(self, tokens: TokenBatch) -> Selection:
        """Selects tokens: exactly `room_for(tokens.counts, budget)` of each sample.

        Raises:
            TokenError: A stage gave something that does not fit the tokens.
            PluginError: A stage raised, or gave another kind of thing than its kind should.
        """
        scores = _fitting(_asked(self.importance, tokens), tokens, self.importance)
        debiased, biases = scores, tuple(_asked(bias, tokens) for bias in self.bias)
        for stage, bias in zip(self.bias, biases, strict=True):
            debiased = _fitting(bias.remove(debiased), tokens, stage)
        graph: Graph = NoEdges(tokens.present) if self.graph is None else _asked(self.graph, tokens)
        candidates = Candidates(tokens, debiased, graph)
        room = room_for(tokens.counts, self.budget)
        kept = suppressing = torch.zeros_like(tokens.present)
        kept_by = torch.full_like(kept, -1, dtype=torch.long)
        for step, selector in enumerate(self.select):
            grown = _asked(selector, candidates, kept, room - kept.sum(-1))
            _check_growth(grown, kept, tokens, room, selector)
            kept_by = torch.where(grown & ~kept, step, kept_by)
            suppressing = suppressing | selector.suppressing(kept, grown)
            kept = grown
        filled = kept | best(debiased, tokens.present & ~kept, room - kept.sum(-1))
        return Selection(
            kept=filled,
            kept_by=torch.where(filled & ~kept, len(self.select), kept_by),
            steps=(*(selector.use for selector in self.select), REST),
            scores=scores,
            debiased=debiased,
            positions=tokens.positions,
            present=tokens.present,
            biases=biases,
            graph=graph,
            suppressing=suppressing,
        )

    def bind(self, site: Site) -> Self:
        """This pipeline with everything found that `auto` stands for at that place.

        Raises:
            PrunekitError: A stage needs something there that does not exist.
        """
        return self.model_copy(update={name: bound(held, site) for name, held in self})

    def site(self, model: PreTrainedModel) -> Site:
        """Where this pipeline is when it is attached to a model."""
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

        hf.find_decoder(model, self.at.layer)
        there = self.bind(self.site(model))
        return hf.attach(
            model,
            there,
            layer=self.at.layer,
            needs=there.needs,
            positions=self.positions,
            adapters=installed().adapters,
        )


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
    wanted = {"bias": Bias, "graph": Graph}.get(stage.kind, torch.Tensor)
    if not isinstance(given, wanted):
        raise PluginError(
            f"The {stage.kind} stage {stage.use!r} must give a {wanted.__name__}; it gave a "
            f"{type(given).__name__}."
        )
    return given


def _fitting(scores: Scores, tokens: TokenBatch, stage: Stage) -> Scores:
    if scores.shape != tokens.present.shape or not scores.dtype.is_floating_point:
        raise TokenError(
            f"The {stage.kind} stage {stage.use!r} must give float scores (batch, tokens) = "
            f"{tuple(tokens.present.shape)}; it gave {scores.dtype} {tuple(scores.shape)}."
        )
    return scores


def _check_growth(grown: Kept, kept: Kept, tokens: TokenBatch, room: Room, selector: Selector) -> None:
    """Refuses what no selector may do; shapes before values, values in one look."""
    title = f"The select stage {selector.use!r}"
    if grown.shape != kept.shape or grown.dtype != torch.bool:
        raise TokenError(
            f"{title} must give a bool mask (batch, tokens) = {tuple(kept.shape)}; "
            f"it gave {grown.dtype} {tuple(grown.shape)}."
        )
    lost = (kept & ~grown).any()
    padding = (grown & ~tokens.present).any()
    crowded = (grown.sum(-1) > room).any()
    lost, padding, crowded = torch.stack([lost, padding, crowded]).tolist()
    if lost or padding or crowded:
        faults = {"dropped what was kept before": lost, "kept padding": padding,
                  "kept more than there was room for": crowded}  # fmt: skip
        raise TokenError(
            f"{title} {', and '.join(fault for fault, found in faults.items() if found)}; "
            "a selector may only add present tokens, as many as there is room for."
        )
