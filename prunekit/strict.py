"""The base of what is configured: frozen, strict, and with errors that name the nearest right word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from prunekit.errors import nearest


class Strict(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """A frozen model that takes no field it does not have, and no value it would have to bend."""

    also: ClassVar[tuple[str, ...]] = ()
    """Words that may stand beside the fields in a file."""

    @model_validator(mode="wrap")
    @classmethod
    def _teach(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            told = [_told(item, (*cls.model_fields, *cls.also)) for item in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, told) from error


def misplaced(*path: int | str, why: str) -> ValidationError:
    """For a validator of a whole model to raise: a mistake that stands at this path in it."""
    kind = PydanticCustomError("stage", "{why}", {"why": why})
    return ValidationError.from_exception_data("", [InitErrorDetails(type=kind, loc=path, input=None)])


def mistakes(error: ValidationError) -> dict[tuple[int | str, ...], str]:
    """The mistakes of a validation by their path, each as one phrase: path, what is wrong, what was given."""
    found: dict[tuple[int | str, ...], str] = {}
    for item in error.errors(include_url=False):
        where = ".".join(map(str, item["loc"])) or "pipeline"
        given = item["input"]
        shown = f" (got {given!r})" if isinstance(given, (str, int, float, list)) else ""
        told = item["type"] in {"stage", "extra_forbidden", "missing"}
        found.setdefault(item["loc"], f"{where}: {item['msg']}{'' if told else shown}")
    return found


def _told(item: ErrorDetails, fields: Sequence[str]) -> InitErrorDetails:
    message = item["msg"].removeprefix("Value error, ")
    if len(item["loc"]) == 1 and item["type"] == "extra_forbidden":
        message = f"there is no such field here. {nearest(str(item['loc'][0]), fields)}"
    elif item["type"] == "missing":
        message = "this field is required."
    kind = PydanticCustomError(item["type"], "{message}", {"message": message})  # pyright: ignore
    return InitErrorDetails(type=kind, loc=item["loc"], input=item["input"])
