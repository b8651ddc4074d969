"""Ways of running a model: what it says, and how a slow reference says the same from one prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers as hf
from families import IMAGE, VIDEO, Case, noise, prompts, token_types
from torch import Tensor

Inputs = dict[str, Any]
STEPS = 4
TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Said:
    """What came out of a model.

    Attributes:
        tokens: The token ids.
        logits: Behind them: (steps, rows, words) when generated, (rows, columns, words) of a whole forward.
        whole: Everything that the model was told, as one prompt.
        columns: Of a whole forward, the columns that are no padding.
    """

    tokens: Tensor
    logits: Tensor
    whole: Inputs
    columns: Tensor | None = None


@dataclass(frozen=True)
class Way:
    """A way of running a model.

    Attributes:
        run: With hooks on or off.
        again: The same from one prompt, without a cache; None where only finite numbers are asked for.
        inputs: What is run on, from the images of a family.
        dtype: What the model computes in.
        settings: How to attach.
    """

    run: Callable[[Any, Inputs], Said]
    again: Callable[[Any, Inputs], Said] | None
    inputs: Callable[[Case], Inputs] = lambda case: case.inputs
    dtype: torch.dtype = torch.float32
    settings: dict[str, Any] = field(default_factory=dict)


def pictures(inputs: Inputs) -> Inputs:
    """All that is no text."""
    return {name: value for name, value in inputs.items() if name not in TEXT}


def text(inputs: Inputs) -> Inputs:
    return {name: value for name, value in inputs.items() if name in TEXT}


def generated(model: Any, inputs: Inputs, **settings: Any) -> Said:
    torch.manual_seed(7)
    settings = {"max_new_tokens": STEPS, "do_sample": False, **settings}
    out = model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **settings)
    return Said(out.sequences, torch.stack(out.logits), inputs)


def forward(model: Any, inputs: Inputs, **more: Any) -> Said:
    logits = model(**inputs, **more).logits
    return Said(inputs["input_ids"], logits, inputs, inputs["attention_mask"].bool())


def hidden_states(model: Any, inputs: Inputs, **more: Any) -> Said:
    """Of the last token, behind each layer."""
    states = model(**inputs, output_hidden_states=True, **more).hidden_states
    return Said(inputs["input_ids"], torch.stack([each[:, -1] for each in states]), inputs)


def generating(**settings: Any) -> Way:
    return Way(partial(generated, **settings), partial(generated, **settings | {"use_cache": False}))


def longer(inputs: Inputs, sequences: Tensor, turn: Inputs) -> Inputs:
    """A prompt, what the model answered, and the next turn behind it."""
    told, answer = inputs["input_ids"].shape[1], sequences.shape[1]
    ids = torch.cat([sequences, turn["input_ids"]], 1)
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    made["attention_mask"][:, :told] = inputs["attention_mask"]
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            made[name] = torch.zeros_like(ids)
            made[name][:, :told] = inputs[name]
            made[name][:, answer:] = turn.get(name, 0)
    return made


def words_later(model: Any, inputs: Inputs) -> Said:
    first = generated(model, inputs, **(kept := {"past_key_values": cache(model)}))
    turn = {"input_ids": torch.full((len(inputs["input_ids"]), 3), 31)}
    prompt = longer(inputs, first.tokens, turn)
    second = generated(model, prompt, **kept)
    return Said(second.tokens, second.logits, prompt | pictures(inputs))


def image_later(model: Any, inputs: Inputs) -> Said:
    """The first row is the first turn, the second row the second one."""
    one, two = row(inputs, 0), row(inputs, 1)
    first = generated(model, one, **(kept := {"past_key_values": cache(model)}))
    prompt = longer(one, first.tokens, two)
    told = prompt | joined(pictures(one), pictures(two))
    turn, logits = prompt | pictures(two), []
    for _ in range(STEPS):
        logits.append(follow(model, turn, told, **kept)[:, -1])
        ids = logits[-1].masked_fill(suppressed(model), -torch.inf).argmax(-1, keepdim=True)
        prompt = longer(prompt, prompt["input_ids"], {"input_ids": ids})
        turn, told = prompt, told | prompt
    whole = told | {name: value[:, :-STEPS] for name, value in text(told).items()}
    return Said(prompt["input_ids"], torch.stack(logits), whole)


def cropped(model: Any, inputs: Inputs) -> Said:
    """Words that are taken back again, and others in their place."""
    kept = {"past_key_values": cache(model)}
    if hasattr(kept["past_key_values"], "activate_past_recording"):  # where a window slides
        kept["past_key_values"].activate_past_recording()
    model(**inputs, **kept)
    for count in (3, 2):
        turn = {"input_ids": torch.full((len(inputs["input_ids"]), count), 30 + count)}
        prompt = longer(inputs, inputs["input_ids"], turn)
        logits = follow(model, prompt, prompt | pictures(inputs), **kept)
        if count == 3:
            kept["past_key_values"].crop(-3)
    return Said(prompt["input_ids"], logits.transpose(0, 1), prompt | pictures(inputs))


def follow(model: Any, turn: Inputs, told: Inputs, past_key_values: Any) -> Tensor:
    """The logits of what is new in a turn, where the rest is in the cache."""
    count = turn["input_ids"].shape[1] - past_key_values.get_seq_length()
    new = {name: value[:, -count:] if name in TEXT else value for name, value in turn.items()}
    new["attention_mask"] = turn["attention_mask"]
    body = getattr(model, "model", model)
    if hasattr(body, "get_rope_index"):  # the positions of a turn depend on the images before it
        wanted = inspect.signature(body.get_rope_index).parameters
        positions, _ = body.get_rope_index(**{key: told[key] for key in told if key in wanted})
        new["position_ids"] = positions[..., -count:]
    return model(**new, past_key_values=past_key_values).logits


def suppressed(model: Any) -> Tensor:
    marks = torch.zeros(model.config.get_text_config().vocab_size, dtype=torch.bool)
    return marks.index_fill(0, torch.tensor(model.generation_config.suppress_tokens), True)


def cropped_again(model: Any, inputs: Inputs) -> Said:
    logits = model(**inputs, use_cache=False).logits
    return Said(inputs["input_ids"], logits[:, -2:].transpose(0, 1), inputs)


def cache(model: Any) -> Any:
    return hf.DynamicCache(config=model.config.get_text_config())


def row(inputs: Inputs, number: int) -> Inputs:
    """One of the two rows, without its padding and with its own pictures; the second row has the last one."""
    real = inputs["attention_mask"][number].bool()
    made = {name: value[number : number + 1, real] for name, value in text(inputs).items()}
    shown = pictures(inputs)
    if "image_grid_thw" in shown:
        patches = [int(shown["image_grid_thw"][:-1].prod(1).sum())]
        pixels = shown["pixel_values"]
        made["pixel_values"] = (pixels[: patches[0]], pixels[patches[0] :])[number]
        del shown["pixel_values"]
    for name, value in shown.items():
        made[name] = value[number : number + 1] if by_row(shown) else (value[:-1], value[-1:])[number]
    return made


def by_row(shown: Inputs) -> bool:
    """Whether the pictures have the rows of the batch, as those of Idefics do."""
    return set(shown) == {"pixel_values"} and shown["pixel_values"].ndim == 5


def joined(first: Inputs, second: Inputs) -> Inputs:
    return {name: torch.cat([value, second[name]], int(by_row(first))) for name, value in first.items()}


def padded_right(case: Case) -> Inputs:
    inputs = dict(case.inputs)
    pads = (inputs["attention_mask"] == 0).sum(1).tolist()
    for name, value in text(inputs).items():
        inputs[name] = torch.stack([ids.roll(-pad) for ids, pad in zip(value, pads, strict=True)])
    return inputs


def row_of_words(case: Case) -> Inputs:
    """A row without an image between the others."""
    inputs = dict(case.inputs)
    words = prompts([[]])
    for name, value in text(inputs).items():
        new = torch.zeros_like(value[:1])
        if name in words:
            new[:, -words[name].shape[1] :] = words[name]
        inputs[name] = torch.cat([value[:1], new, value[1:]])
    if by_row(pictures(inputs)):
        pixels = inputs["pixel_values"]
        inputs["pixel_values"] = torch.cat([pixels[:1], torch.zeros_like(pixels[:1]), pixels[1:]])
    return inputs


def halved(dtype: torch.dtype) -> Way:
    def inputs(case: Case) -> Inputs:
        return {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in case.inputs.items()
        }

    return Way(generated, None, inputs, dtype)


def videos(case: Case) -> Inputs:
    """Two videos, the second one shorter where a family lets it be."""
    kind = case.model.config.model_type
    if kind.startswith("glm4v"):  # frames of image tokens, between the tokens of a video
        thw = torch.tensor([[3, 4, 6], [2, 4, 6]])
        ids = prompts([[(110, 1), *[6] * 3, (111, 1)], [(110, 1), *[6] * 2, (111, 1)]])
        kinds = {"mm_token_type_ids": 2 * (ids["input_ids"] == IMAGE).int()}
        kinds = kinds if token_types(case.model, ids["input_ids"]) else {}
        patches = noise(int(thw.prod(1).sum()), 3 * 2 * 14 * 14)
        return ids | kinds | {"pixel_values_videos": patches, "video_grid_thw": thw}
    if not hasattr(case.model.config, "video_token_index") and not kind.startswith("qwen"):
        raise LookupError(f"{kind} has no videos")
    if kind.startswith("qwen"):
        thw = torch.tensor([[3, 4, 6], [2, 4, 6]])
        size = case.model.config.vision_config.patch_size
        each = kind.startswith("qwen3")  # the time is written between frames
        ids = prompts([[(VIDEO, 6)] * frames if each else [(VIDEO, 6 * frames)] for frames in (3, 2)])
        patches = noise(int(thw.prod(1).sum()), 3 * 2 * size * size)
        shown = {"pixel_values_videos": patches, "video_grid_thw": thw}
        return ids | shown | token_types(case.model, ids["input_ids"])
    tokens = {"llava_onevision": 13, "llava_next_video": 12, "video_llava": 8 * 17}[kind]
    frames = 8 if kind == "video_llava" else 3
    ids = prompts([[(VIDEO, tokens)] * 2, [(VIDEO, tokens)]])
    return ids | {"pixel_values_videos": noise(3, frames, 3, 32, 32)}


LEFT = Way(forward, partial(forward, use_cache=False))
SLOW = partial(generated, use_cache=False)

WAYS: dict[str, Way] = {
    "greedy": generating(),
    "sampling": generating(do_sample=True, temperature=1.5),
    "beams": generating(num_beams=3),
    "several answers": generating(do_sample=True, num_return_sequences=2),
    "no cache": generating(use_cache=False),
    "forward": LEFT,
    "right padding": Way(LEFT.run, LEFT.again, padded_right),
    "row of words": Way(generated, SLOW, row_of_words),
    "words later": Way(words_later, SLOW),
    "image later": Way(image_later, SLOW),
    "crop": Way(cropped, cropped_again),
    "hidden states": Way(hidden_states, partial(hidden_states, use_cache=False)),
    "bfloat16": halved(torch.bfloat16),
    "float16": halved(torch.float16),
    "repack": Way(generated, SLOW, settings={"positions": "repack"}),
    "videos": Way(generated, SLOW, videos),
    "static cache": Way(partial(generated, cache_implementation="static"), None),
    "prompt lookup": Way(
        partial(generated, prompt_lookup_num_tokens=3), None, lambda case: row(case.inputs, 0)
    ),
    "prefill in chunks": Way(partial(generated, prefill_chunk_size=8), None),
}
