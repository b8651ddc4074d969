"""The question in a prompt: by ids alone, in the ways templates go."""

from __future__ import annotations

import pytest
import torch
from families import END, FAMILIES, IMAGE, START, llava
from hypothesis import given
from hypothesis import strategies as st

from prunekit.hf.question import Template, question_columns

EOS, WORD = 2, 50
PLAIN = Template(ends={EOS}, marks={EOS, 0, 1, START, END, IMAGE}, tails=[(60, 61, 62), (70,)])


def question(*ids: int, template: Template = PLAIN) -> list[int]:
    visual = [token == IMAGE for token in ids]
    real = [token != 0 for token in ids]
    return [ids[column] for column in template.question(ids, visual, real)]


@pytest.mark.parametrize(
    ("ids", "asked"),
    [
        ((1, 40, START, IMAGE, IMAGE, END, 51, 52), [51, 52]),
        ((0, 0, 1, 40, IMAGE, 51, EOS, 41, 42), [51]),
        ((1, 40, IMAGE, 51, IMAGE, 52, 0, 0), [52]),
        ((1, 40, IMAGE, 51, 60, 61, 62), [51]),
        ((1, 40, IMAGE, 51, 60, 61), [51, 60, 61]),
        ((1, 40, IMAGE, 51, 70), [51]),
        ((1, 40, EOS, 41, 51, START, IMAGE, END, EOS, 42), [41, 51]),
        ((1, 51, 52), [51, 52]),
        ((1, IMAGE, END, EOS), []),
        ((0, 0), []),
    ],
)
def test_templates(ids: tuple[int, ...], asked: list[int]) -> None:
    assert question(*ids) == asked


@given(st.lists(st.lists(st.sampled_from([0, 1, EOS, IMAGE, START, WORD, 60, 70]), max_size=12), max_size=4))
def test_a_batch_is_its_rows(rows: list[list[int]]) -> None:
    length = max(map(len, rows), default=0)
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows], dtype=torch.long).view(
        len(rows), length
    )
    columns, counted = question_columns(PLAIN, ids, ids == IMAGE, ids != 0)
    for number, row in enumerate(rows):
        asked = ids[number, columns[number, counted[number]]].tolist()
        assert asked == question(*row)
        assert set(asked).isdisjoint(PLAIN.marks)


def test_without_ids_all_text_behind_the_picture_counts() -> None:
    visual = torch.tensor([[False, True, True, False, False]])
    columns, counted = question_columns(PLAIN, None, visual, torch.ones_like(visual))
    assert columns[counted].tolist() == [3, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_models_name_their_marks(family: str) -> None:
    model = FAMILIES[family]("sdpa").model
    model.generation_config.eos_token_id = [2, 9]
    template = Template.of(model)
    assert {2, 9} <= set(template.ends)
    assert {IMAGE, 0, 1, 2} <= set(template.marks)


def test_qwen_marks_where_pictures_begin_and_end() -> None:
    assert {START, END} <= set(Template.of(FAMILIES["qwen2_5_vl"]("sdpa").model).marks)
    assert Template.of(llava("sdpa").model, [(7,)]).tails == [(7,)]
