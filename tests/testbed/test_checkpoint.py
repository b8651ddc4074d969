"""The shipped checkpoint loads like any other, takes any picture and any text, and answers."""

from __future__ import annotations

import socket
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from prunekit.testbed import (
    CHECKPOINT,
    CONTENT_FREE,
    COORDINATES,
    GRID,
    SIDE,
    WORDS,
    grade,
    scene,
    scenes,
)

MOST_BYTES = 10_000_000
QUESTION = "where is the red ring?"


def refuse(*_arguments, **_options):
    raise OSError("the network is not to be used")


@pytest.fixture(scope="module")
def loaded():
    """The model and the processor, loaded without the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        model = transformers.AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype=torch.float32)
        processor = transformers.AutoProcessor.from_pretrained(CHECKPOINT)
    return model.eval(), processor


def prompt(processor, text=QUESTION):
    """One question, through the chat template."""
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def ask(loaded, images, texts):
    """Answer questions in one batch."""
    model, processor = loaded
    inputs = processor(
        text=[prompt(processor, text) for text in texts],
        images=images,
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        output = model.generate(**inputs)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_folder_is_small_and_plain():
    files = [file for file in CHECKPOINT.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    for file in files:
        if file.suffix in (".json", ".jinja"):
            text = file.read_text()
            assert "/home" not in text
            assert "_name_or_path" not in text


def test_it_is_a_llava_in_single_precision(loaded):
    model, processor = loaded
    assert isinstance(model, transformers.LlavaForConditionalGeneration)
    assert isinstance(processor, transformers.LlavaProcessor)
    assert model.config.image_seq_length == GRID * GRID
    plain = transformers.AutoModelForImageTextToText.from_pretrained(CHECKPOINT)
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.float32}


def test_a_prompt_is_begin_image_question(loaded):
    _, processor = loaded
    assert prompt(processor) == f"<image>{QUESTION}"
    inputs = processor(text=prompt(processor), images=scene(0).image, return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert tokens == ["<bos>", *["<image>"] * GRID**2, "where", "is", "the", "red", "ring", "?"]


def test_the_template_tokenises_to_the_same(loaded):
    _, processor = loaded
    picture = Image.fromarray(scene(0).image)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    tokenised = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    two_steps = processor(text=prompt(processor), images=picture, return_tensors="pt")
    assert torch.equal(tokenised["input_ids"], two_steps["input_ids"])
    assert torch.equal(tokenised["pixel_values"], two_steps["pixel_values"])


def test_padding_is_on_the_left(loaded):
    _, processor = loaded
    texts = [prompt(processor), prompt(processor, "where is the small red ring?")]
    inputs = processor(text=texts, images=[scene(0).image] * 2, padding=True, return_tensors="pt")
    assert inputs["attention_mask"][:, 0].tolist() == [0, 1]
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]


def test_every_word_has_a_token_of_its_own(loaded):
    tokenizer = loaded[1].tokenizer
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in (*WORDS, *COORDINATES)]
    assert all(len(one) == 1 for one in ids)
    assert len({one[0] for one in ids}) == len(WORDS) + len(COORDINATES)
    assert tokenizer.unk_token_id not in {one[0] for one in ids}


@pytest.mark.parametrize("text", ["<12> <30> <19> <37>", "red", "3 things"])
def test_answers_come_back_readable(loaded, text):
    tokenizer = loaded[1].tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_case_and_spelling_do_not_matter(loaded):
    tokenizer = loaded[1].tokenizer
    plain = tokenizer("what colour is the ring?")["input_ids"]
    assert tokenizer("What COLOR is the Ring ?")["input_ids"] == plain


def test_an_unknown_word_is_unknown(loaded):
    tokenizer = loaded[1].tokenizer
    ids = tokenizer("where is the zebra?", add_special_tokens=False)["input_ids"]
    assert ids[3] == tokenizer.unk_token_id
    assert ids.count(tokenizer.unk_token_id) == 1


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("RGB", (1023, 517)),
        ("RGB", (7, 300)),
        ("RGBA", (200, 100)),
        ("L", (96, 96)),
        ("L", (50, 333)),
    ],
)
def test_any_photograph_will_do(loaded, mode, size):
    (answer,) = ask(loaded, [Image.new(mode, size, 120)], ["how many red things?"])
    assert answer.strip()


def test_a_picture_enters_as_it_is(loaded):
    """No resampling, no cropping: pixel values are the scene's, from -1 to 1."""
    image = scene(3).image
    values = loaded[1].image_processor(image, return_tensors="pt")["pixel_values"][0].numpy()
    assert values.shape == (3, SIDE, SIDE)
    assert np.allclose(values, image.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_no_torchvision_is_needed(loaded):
    assert loaded
    assert "torchvision" not in sys.modules or transformers.utils.is_torchvision_available()


def test_the_gist_is_how_many_things(loaded):
    held_out = scenes(8, seed=77)
    answers = ask(loaded, [one.image for one in held_out], [CONTENT_FREE[0]] * 8)
    assert all(answer.endswith("things") for answer in answers)
    right = [answer == f"{len(one.objects)} things" for one, answer in zip(held_out, answers, strict=True)]
    assert sum(right) >= 4


def test_it_answers_held_out_scenes(loaded):
    held_out = scenes(40, seed=78)
    asked = [(one, question) for one in held_out for question in one.questions]
    answers = ask(loaded, [one.image for one, _ in asked], [q.text for _, q in asked])
    grades = [
        (question.kind, grade(question, answer).correct)
        for (_, question), answer in zip(asked, answers, strict=True)
    ]
    where = [correct for kind, correct in grades if kind == "where"]
    general = [correct for kind, correct in grades if kind != "where"]
    assert sum(where) / len(where) >= 0.85
    assert sum(general) / len(general) >= 0.85
