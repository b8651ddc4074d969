"""The kinds of stage. A stage is its config: a frozen pydantic model with one verb, `__call__`.

Parameters are fields: validated, described, in the YAML, equal by value. Where a field is annotated with
an abstract kind, `{use: name}` (or just `name`) becomes the registered stage of that kind and name, at any
depth; the registry comes in as pydantic's validation context, so there is no global and no cycle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias, cast, get_args

from jaxtyping import Float
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from torch import Tensor

from prunekit.errors import UnknownName
from prunekit.graph import Graph
from prunekit.signals import Signal
from prunekit.strict import Strict
from prunekit.tokens import Bias, Candidates, Growth, Kept, Room, Scores, Selection, TokenBatch

KIND_MARK = "x-prunekit-kind"
"""What stands for an abstract kind in a JSON schema, until the registry puts its stages there."""

Where: TypeAlias = Literal["order", "cell", "plane"]
"""What a stage may go by of where tokens stand: raster order, rows and columns, planes (tiles or frames)."""

Pairs: TypeAlias = Literal["none", "kept", "all"]
"""Which pairs of N tokens a stage may compare: none, each with the n kept ones (n·N), or all (N²)."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a pipeline is attached: which model, and at the entry of which decoder layer."""

    model: str
    layer: int


class Stage(Strict, ABC, frozen=True):
    """One step of a pipeline, pure: what it gives depends on its fields and its arguments alone."""

    kind: ClassVar[str]
    use: str

    @property
    def needs(self) -> frozenset[Signal]:
        """What must be captured from the model for this stage; by default what its parts need."""
        return frozenset[Signal]().union(*(part.needs for part in self.parts))

    @property
    def where(self) -> frozenset[Where]:
        """What it goes by of where tokens stand; by default what its parts do."""
        return frozenset[Where]().union(*(part.where for part in self.parts))

    @property
    def compares(self) -> Pairs:
        """Which pairs of tokens it may compare; by default the most that a part of it does."""
        return most_pairs(self.parts)

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The stages held in this stage's fields."""
        return tuple(_stages_in(self.__dict__.values()))

    def bind(self, site: Site) -> Self:
        """This stage as it runs at that place, with everything found that `auto` stands for.

        Raises:
            PrunekitError: Something it needs there does not exist.
        """
        return self.model_copy(update={name: bound(held, site) for name, held in self.__dict__.items()})

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler, /
    ) -> CoreSchema:
        if "kind" not in cls.__dict__:
            return handler(source)
        return core_schema.with_info_plain_validator_function(
            cls._looked_up,
            serialization=core_schema.plain_serializer_function_ser_schema(BaseModel.model_dump),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> dict[str, Any]:
        """An abstract kind is only marked: which stages it stands for is the registry's to say."""
        return {KIND_MARK: cls.kind} if "kind" in cls.__dict__ else handler(schema)

    @classmethod
    def _looked_up(cls, value: object, info: ValidationInfo) -> Stage:
        """`value` as a stage of this kind: one already, or looked up by the name it gives."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "stage",
                "write a name, or a mapping with `use: name`; got {got}",
                {"got": type(value).__name__},
            )
        fields = cast("Mapping[str, Any]", value)
        name = fields.get("use")
        if not isinstance(name, str):
            raise PydanticCustomError(
                "stage", "`use` must name a stage, for instance `use: {example}`",
                {"example": _book(info).example(cls.kind)},
            )  # fmt: skip
        try:
            stage = _book(info).stage(cls.kind, name)
        except UnknownName as error:
            raise PydanticCustomError("stage", "{why}", {"why": str(error)}) from error
        return stage.model_validate(dict(fields), context=info.context)


class ImportanceScorer(Stage):  # pyright: ignore[reportGeneralTypeIssues]
    """Says how much each token is worth: `(tokens) -> Scores`, higher is worth more."""

    kind = "importance"

    @abstractmethod
    def __call__(self, tokens: TokenBatch) -> Scores: ...


class BiasEstimator(Stage):  # pyright: ignore[reportGeneralTypeIssues]
    """Says what a score owes to position or padding: `(tokens) -> Bias`."""

    kind = "bias"

    @abstractmethod
    def __call__(self, tokens: TokenBatch) -> Bias: ...


class GraphBuilder(Stage):  # pyright: ignore[reportGeneralTypeIssues]
    """Says which tokens are too alike to keep both: `(tokens) -> Graph`."""

    kind = "graph"

    @abstractmethod
    def __call__(self, tokens: TokenBatch) -> Graph: ...


class Selector(Stage):  # pyright: ignore[reportGeneralTypeIssues]
    """Adds tokens to what is kept: `(candidates, kept, room) -> Kept`.

    Gets what earlier selectors kept and how many more each sample may keep. Gives all that is kept then:
    what was kept, and at most `room` present tokens more; as a `Growth` where there is more to say.
    """

    kind = "select"

    @abstractmethod
    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept | Growth: ...


class Merger(Stage):  # pyright: ignore[reportGeneralTypeIssues]
    """Puts what dropped tokens carry into kept ones: `(tokens, selection) -> features`.

    Gives the features of all tokens, in float32: a kept token's after merging, any other's as they are. So a
    merged token stands at the place of a kept one, and merging never changes how many there are.
    """

    kind = "merge"

    @property
    def after(self) -> frozenset[str]:
        """The steps of a selection that this merger asks for by name; by default those its parts do."""
        mergers = (part for part in self.parts if isinstance(part, Merger))
        return frozenset[str]().union(*(merger.after for merger in mergers))

    @abstractmethod
    def __call__(self, tokens: TokenBatch, selection: Selection) -> Float[Tensor, "batch tokens dim"]: ...


KINDS: tuple[type[Stage], ...] = (ImportanceScorer, BiasEstimator, GraphBuilder, Selector, Merger)
"""The kinds of stage, in the order data flows through them."""


def most_pairs(stages: Iterable[Stage]) -> Pairs:
    """The most pairs that any of these stages may compare."""
    compared: list[Pairs] = ["none", *(stage.compares for stage in stages)]
    return max(compared, key=get_args(Pairs).index)


class StageBook(Protocol):
    """Where stages are looked up by kind and name; the registry is one."""

    def stage(self, kind: str, name: str) -> type[Stage]: ...

    def example(self, kind: str) -> str: ...


def _book(info: ValidationInfo) -> StageBook:
    context = cast("Mapping[str, StageBook]", info.context or {})
    if "registry" not in context:
        raise PydanticCustomError(
            "stage",
            "a stage given by name needs a registry to look it up in; hand over the stage itself, "
            "or validate with context={'registry': prunekit.installed()}",
        )
    return context["registry"]


def _stages_in(values: Any) -> Iterator[Stage]:
    for value in values:
        if isinstance(value, Stage):
            yield value
        elif isinstance(value, tuple):
            yield from _stages_in(cast("tuple[object, ...]", value))


def bound(value: Any, site: Site) -> Any:
    """A field's value with the stages in it bound; anything else as it is."""
    if isinstance(value, Stage):
        return value.bind(site)
    if isinstance(value, tuple):
        return tuple(bound(item, site) for item in cast("tuple[object, ...]", value))
    return value
