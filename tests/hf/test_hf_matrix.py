"""Families × ways of running × attention and places: keep-all changes nothing, and pruning is masking."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml
from choosing import Select, every, keep_all, top
from families import IMAGE, LAYOUTS, VIDEO, Case
from further import FURTHER, stranger
from masked import masked
from packaging.specifiers import SpecifierSet
from torch import Tensor
from ways import WAYS, Said

from prunekit import Selection, TextAttention, TokenBatch, UnsupportedModel
from prunekit.hf import Cut, attach
from prunekit.hf.grids import _warn

FAMILIES = LAYOUTS | FURTHER
MATRIX = yaml.safe_load(Path(__file__).with_name("matrix.yaml").read_text())
LAST, SAME = TextAttention(), TextAttention(layer="same")
Place = tuple[int, ...]
"""The layers at whose entry tokens are dropped."""

SETTINGS: dict[str, tuple[str, Place]] = {
    "sdpa, layer 2": ("sdpa", (2,)),
    "eager, layer 1": ("eager", (1,)),
    "sdpa, layer 0": ("sdpa", (0,)),
    "eager, layers 0 and 3": ("eager", (0, 3)),
}

Choice = Callable[[TextAttention], Select]
"""A way to choose, from the attention it may go by."""


def by_attention(signal: TextAttention) -> Select:
    return top(0.3, signal)


class Chooser:
    """Chooses, and remembers what."""

    def __init__(self, select: Select) -> None:
        self.select = select
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, tokens: TokenBatch) -> Selection:
        selection = self.select(tokens)
        self.calls.append((tokens.present, selection.kept))
        return selection

    def kept(self, row: int, rows: int) -> Tensor:
        """For each visual token that a row of the prompts ever had, whether it was kept."""
        copies = [row * (len(kept) // rows) for _, kept in self.calls]
        turns = zip(copies, self.calls, strict=True)
        return torch.cat([kept[copy, present[copy]] for copy, (present, kept) in turns])


@dataclass(frozen=True)
class Cell:
    """A family, a way of running it, and a place where it is pruned."""

    family: str
    way: str
    implementation: str
    place: Place

    @property
    def case(self) -> Case:
        return built(self.family, self.implementation, WAYS[self.way].dtype)

    def run(self, choice: Choice, *needs: TextAttention) -> tuple[Said, list[Chooser]]:
        """What is said with hooks on. Before layer 0 there is no attention but its own."""
        case, way = self.case, WAYS[self.way]
        choosers = [Chooser(choice(SAME if layer == 0 else LAST)) for layer in self.place]
        cuts = [
            Cut(chooser, layer, [SAME] if layer == 0 and needs else needs)
            for layer, chooser in zip(self.place, choosers, strict=True)
        ]
        with torch.no_grad(), attach(case.model, *cuts, **way.settings):
            return way.run(case.model, way.inputs(case)), choosers

    def again(self, said: Said, gone: list[Tensor]) -> Said:
        """What the slow reference says."""
        case, way = self.case, WAYS[self.way]
        repack = way.settings.get("positions") == "repack"
        with ExitStack() as stack, torch.no_grad():
            model = case.model
            for layer, columns in zip(self.place, gone, strict=True):
                model = stack.enter_context(masked(model, columns, layer, repack=repack))
            if exception(self.family, self.way).get("verdict") == "holds":
                return way.run(model, way.inputs(case))
            return way.again(model, said.whole)


@cache
def built(family: str, implementation: str, dtype: torch.dtype) -> Case:
    case = FAMILIES[family](implementation)
    return replace(case, model=case.model.to(dtype))


@cache
def plain(family: str, implementation: str, way: str) -> Said:
    """What is said without hooks."""
    case = built(family, implementation, WAYS[way].dtype)
    with torch.no_grad():
        return WAYS[way].run(case.model, WAYS[way].inputs(case))


def dropped(ids: Tensor, choosers: list[Chooser]) -> list[Tensor]:
    """For each layer of a place, the columns that it and the ones before it left out."""
    columns = [visual.nonzero()[:, 0] for visual in (ids == IMAGE) | (ids == VIDEO)]
    gone = torch.zeros_like(ids, dtype=torch.bool)
    found = []
    for chooser in choosers:
        for row in range(len(ids)):
            kept = chooser.kept(row, len(ids))
            gone[row, columns[row][~kept]] = True
            columns[row] = columns[row][kept]
        found.append(gone.clone())
    return found


def holds(cell: Cell) -> None:
    """Keep-all is identical bit by bit, and pruned is masked."""
    unpruned = plain(cell.family, cell.implementation, cell.way)
    kept, _ = cell.run(lambda _: keep_all, LAST, SAME)
    assert torch.equal(kept.tokens, unpruned.tokens)
    assert torch.equal(kept.logits, unpruned.logits)
    pruned, choosers = cell.run(by_attention, LAST)
    assert pruned.logits.isfinite().all()
    gone = dropped(pruned.whole["input_ids"], choosers)
    assert gone[0].any()
    if WAYS[cell.way].again is None:
        return
    expected = cell.again(pruned, gone)
    told = slice(None) if pruned.columns is None else pruned.columns & ~gone[-1]
    assert torch.equal(pruned.tokens, expected.tokens)
    torch.testing.assert_close(pruned.logits[told], expected.logits[told], atol=1e-4, rtol=1e-4)
    assert (pruned.logits[told] - unpruned.logits[told]).abs().max() > 1e-2


def refused(cell: Cell, why: str) -> None:
    """Refused with a reason, and no layer ran."""
    ran: list[int] = []
    cell.case.model.__dict__.pop("_cache", None)  # older releases go on with the one refused before
    handle = cell.case.model.get_decoder().register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(UnsupportedModel, match=why):
        cell.run(lambda _: every(2))
    handle.remove()
    assert ran == []


def missing(cell: Cell) -> None:
    with pytest.raises(Exception):  # noqa: B017  (whatever it is that the model cannot do)
        holds(cell)


def exception(family: str, way: str) -> dict[str, Any]:
    """Why a cell does not hold in this release; empty where it does."""
    for entry in MATRIX["exceptions"]:
        here = hf.__version__ in SpecifierSet(entry.get("transformers", ""))
        if here and way in entry["ways"] and family in entry.get("families", FAMILIES):
            return entry
    return {}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_of_the_matrix(family: str, way: str, setting: str) -> None:
    cell, entry = Cell(family, way, *SETTINGS[setting]), exception(family, way)
    match entry.get("verdict"):
        case "refused":
            refused(cell, entry["says"])
        case "missing":
            missing(cell)
        case "skipped":
            pytest.skip(entry["because"])
        case _:
            holds(cell)


def test_the_table_names_what_is_tested() -> None:
    assert set(MATRIX["families"]) == set(FAMILIES)
    assert list(MATRIX["ways"]) == list(WAYS)
    for entry in MATRIX["exceptions"]:
        assert entry["verdict"] in {"holds", "refused", "missing", "skipped"}
        assert set(entry["ways"]) <= set(WAYS)
        assert set(entry.get("families", ())) <= set(FAMILIES)
    assert any(hf.__version__ in SpecifierSet(f"=={release}.*") for release in MATRIX["transformers"])


@pytest.mark.parametrize("name", MATRIX["refused models"])
def test_a_model_that_is_refused(name: str) -> None:
    kind = getattr(hf, name, None)
    if kind is None:
        pytest.skip("this release of transformers has no such model")
    with torch.device("meta"):
        model = kind(kind.config_class())
    with pytest.raises(UnsupportedModel, match=MATRIX["refused models"][name]["says"]):
        attach(model, Cut(keep_all, layer=2))


def test_an_unknown_family_is_guessed_at_and_said_so_once() -> None:
    case = stranger("sdpa")
    _warn.cache_clear()
    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        for _ in range(2):
            with attach(case.model, Cut(every(2), layer=2)) as pruning:
                case.model.generate(**case.inputs, max_new_tokens=2)
    assert [str(each.message).split(" lays out")[0] for each in said if "prunekit" in str(each.message)] == [
        "prunekit guesses how StrangerConfig"
    ]
    assert pruning.selections[0].positions[0].amax(0).tolist() == [1, 3, 3]
