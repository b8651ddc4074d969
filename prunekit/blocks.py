"""The blocks of a pipeline file: where tokens are dropped, and what one of several places does otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from prunekit.budget import Budget
from prunekit.stages import BiasEstimator, GraphBuilder, ImportanceScorer, Merger, Selector
from prunekit.strict import Strict

NEUTRAL = ("bias", "graph", "merge")
"""The blocks that a pipeline can be without."""

OWN = ("summary", "differs")
"""The blocks that speak of one pipeline alone: what is made from it does something else."""


def as_tuple(value: object) -> object:
    """One thing or a list of things, as a tuple; nothing as the empty one."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)  # pyright: ignore


Biases: TypeAlias = Annotated[tuple[BiasEstimator, ...], BeforeValidator(as_tuple)]
"""One bias estimator, or a list of them taken away in turn; nothing for none."""

Selectors: TypeAlias = Annotated[tuple[Selector, ...], BeforeValidator(as_tuple)]
"""One selector, or a list of them in turn."""


class At(Strict, frozen=True):
    """Where in the model tokens are dropped, and by which features.

    The word `vision` stands for `{layer: 0, features: vision}`: chosen by what the vision encoder says,
    dropped before the language model.
    """

    layer: int = Field(
        ge=0,
        description="Tokens are dropped at the entry of this decoder layer, counted from 0; 0 is before the "
        "language model.",
    )
    features: Literal["decoder", "vision"] = Field(
        default="decoder",
        description="What tokens carry: the decoder's hidden states there, or what the vision encoder hands "
        "to its projector.",
    )

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        if isinstance(value, str) and value != "vision":
            raise PydanticCustomError(
                "stage", "write {example}, or the word vision", {"example": "{layer: 2}"}
            )
        return {"layer": 0, "features": "vision"} if value == "vision" else value


class Override(Strict, frozen=True):
    """One of several places where a pipeline prunes; blocks not given here are the pipeline's own."""

    at: At = Field(description="Where in the model tokens are dropped.")
    budget: Budget | None = Field(
        None, description="How many of the prompt's visual tokens go on from here: a count or a share."
    )
    importance: ImportanceScorer | None = Field(None, description="How much each token is worth.")
    bias: Biases = Field((), description="What scores owe to position or padding.")
    graph: GraphBuilder | None = Field(None, description="Which tokens are too alike to keep both.")
    select: Selectors = Field((), description="The selectors, in turn.")
    merge: Merger | None = Field(None, description="What dropped tokens leave to kept ones.")

    @property
    def given(self) -> dict[str, Any]:
        """The blocks that are given; of these, the neutral ones may be given as none."""
        fields = (name for name in type(self).model_fields if name in self.model_fields_set)
        return _given({name: getattr(self, name) for name in fields})

    def __eq__(self, other: object) -> bool:
        """Whether the same is given: a block given as none is not one that is left open."""
        return isinstance(other, Override) and self.given == other.given

    def __hash__(self) -> int:
        return hash(tuple(self.given.items()))

    def __repr_args__(self) -> Iterable[tuple[str, Any]]:
        return self.given.items()

    @model_serializer(mode="wrap")
    def _given_alone(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: block for name, block in dump(self).items() if name in self.given}


def beside(own: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """One's own blocks, and beside them those held before.

    Of those not what one's own stages all give themselves, nor what spoke of the one they come from.
    """
    stages: object = own.get("stages")
    listed = stages if isinstance(stages, (list, tuple)) else ()  # pyright: ignore
    given = [each.given for each in listed if isinstance(each, Override)]
    given += [_given(each) for each in listed if isinstance(each, Mapping)]  # pyright: ignore
    replaced = in_all(given).union(OWN)
    return {**{name: block for name, block in held.items() if name not in replaced}, **own}


def in_all(blocks: Sequence[Mapping[str, Any]]) -> set[str]:
    """The blocks that every one of several places gives, of those that a pipeline need not have."""
    return set.intersection(*map(set, blocks)) & {"at", "budget", *NEUTRAL} if blocks else set()


def _given(blocks: Mapping[str, Any]) -> dict[str, Any]:
    return {name: block for name, block in blocks.items() if block or name in NEUTRAL}
