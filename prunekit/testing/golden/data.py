"""Golden data in a folder: `index.json` describes methods and cases, a safetensors file a method holds those.

Tensors are called `{case}.input.{name}` and `{case}.expected.{name}`. Inputs in half precision are widened
to float32 first. For every expected tensor the index says how it is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prunekit.errors import ConfigError, UnknownName, nearest
from prunekit.strict import mistakes
from prunekit.testing.golden.comparison import Comparison

INDEX = "index.json"


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What a reference implementation was given, and what it gave.

    Attributes:
        id: What the case is called among those of its method.
        params: Its numbers.
        inputs: Its tensors, none of them in half precision.
        expected: What the reference gave.
    """

    id: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Tensor]
    expected: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """The cases of one method.

    Attributes:
        name: The method.
        comparisons: How each expected tensor is compared.
        cases: The cases.
    """

    name: str
    comparisons: Mapping[str, Comparison]
    cases: tuple[Case, ...]


class _Field(BaseModel):
    compare: Comparison


class _Case(BaseModel):
    id: str
    params: dict[str, Any] = {}


class _Method(BaseModel):
    file: str
    expected: dict[str, _Field]
    cases: list[_Case]


class _Index(BaseModel):
    format: Literal["golden-data 1"]
    methods: dict[str, _Method]


def read(folder: Path, methods: Collection[str] = ()) -> list[Method]:
    """The methods in a folder of golden data, in the order of its index.

    Args:
        folder: Where `index.json` is.
        methods: The methods wanted; all by default.

    Raises:
        ConfigError: There is no such folder, or what is in it does not fit together.
        UnknownName: The index has no such method.
    """
    index = _index(folder)
    for name in methods:
        if name not in index.methods:
            raise UnknownName(f"{folder / INDEX} has no method {name!r}. {nearest(name, index.methods)}")
    wanted = methods or index.methods
    return [_method(folder, name, told) for name, told in index.methods.items() if name in wanted]


def _index(folder: Path) -> _Index:
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {str(folder)!r}.")
    file = folder / INDEX
    try:
        return _Index.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise ConfigError(
            f"{file}: is no index of golden data: {'; '.join(mistakes(error).values())}"
        ) from error


def _method(folder: Path, name: str, told: _Method) -> Method:
    file = folder / told.file
    if file.resolve().parent != folder.resolve():
        raise ConfigError(f"{folder / INDEX}: the file of {name!r} is not in this folder: {told.file}.")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}.") from error
    comparisons: dict[str, Comparison] = {
        field.removeprefix("expected."): held.compare for field, held in told.expected.items()
    }
    cases = tuple(_case(file, case, tensors, tuple(comparisons)) for case in told.cases)
    return Method(name, comparisons, cases)


def _case(file: Path, case: _Case, tensors: Mapping[str, Tensor], fields: Sequence[str]) -> Case:
    inputs = {name: _widened(value) for name, value in _part(tensors, f"{case.id}.input.").items()}
    expected = _part(tensors, f"{case.id}.expected.")
    if not expected:
        raise ConfigError(f"{file}: holds nothing that is expected of {case.id}.")
    for name in expected:
        if name not in fields:
            raise ConfigError(
                f"{file}: the index does not say how {case.id}.expected.{name} is compared. "
                f"{nearest(name, fields)}"
            )
    return Case(case.id, case.params, inputs, expected)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype in {torch.float16, torch.bfloat16} else value
