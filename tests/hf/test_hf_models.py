"""Loading models, and prompts in the form each processor wants. Nothing here looks for the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from choosing import every
from families import llava, text_config, vision_config
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import prunekit.hf.models as module
from prunekit import PrunekitError, UnsupportedModel
from prunekit.hf import Cut, attach, load, prompt_inputs

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "what", "is", "left", "?", "user", ":", "red", "\n"]
CHAT = (
    "{% for message in messages %}user : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}: {% endif %}"
)


def tokenizer(**special: str) -> Any:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="removed")
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        extra_special_tokens={"image_token": "<image>", **special},
    )


def _images(name: str, **settings: Any) -> Any:
    """The image processor in its form without torchvision where there are two."""
    kind = getattr(hf, f"{name}Pil", None) or getattr(hf, name)
    return kind(**settings)


def llava_processor(chat: str | None = None) -> Any:
    images = _images("CLIPImageProcessor", size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return hf.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat,
    )


def picture(width: int = 40, height: int = 40) -> Image.Image:
    draw = np.random.default_rng(width)
    return Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its processor, saved."""
    place = tmp_path_factory.mktemp("model")
    processor = llava_processor(CHAT)
    text = text_config(hf.LlamaConfig)
    config = hf.LlavaConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=16,
    )
    hf.LlavaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(place)
    processor.save_pretrained(place)
    return place


def test_a_folder_loads_and_answers(folder: Path) -> None:
    loaded = load(folder)
    assert isinstance(loaded.model, hf.LlavaForConditionalGeneration)
    assert not loaded.model.training
    if loaded.model.device.type == "cpu":
        assert loaded.model.dtype == torch.float32
    inputs = prompt_inputs(loaded.processor, [picture(), picture(30)], ["what is left ?", "red"])
    inputs = inputs.to(loaded.model.device)
    with torch.no_grad(), attach(loaded.model, Cut(every(2), layer=2)) as pruning:
        out = loaded.model.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
    assert out.shape == (2, inputs["input_ids"].shape[1] + 2)
    assert pruning.report().visual_after == (8, 8)
    assert load(str(folder)).model.config.name_or_path == str(folder)


def test_the_testbed_is_a_folder_like_any_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT", folder)
    assert load("testbed").model.config.name_or_path == str(folder)
    monkeypatch.setattr(module, "CHECKPOINT", folder / "nothing")
    with pytest.raises(PrunekitError, match="missing from this installation"):
        load("testbed")


@pytest.mark.parametrize("name", ["./not/there", "/not/there", "~/not/there", "a/b/c", Path("not")])
def test_folders_that_are_not_there(name: Any) -> None:
    with pytest.raises(PrunekitError, match="no folder"):
        load(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(PrunekitError, match="no model that transformers can read"):
        load(tmp_path)


def test_a_model_of_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PrunekitError, match="is there a network"):
        load("nobody-at-all/no-model-of-this-name")


def test_a_model_without_eyes(tmp_path: Path) -> None:
    hf.LlamaForCausalLM(text_config(hf.LlamaConfig)).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="no vision-language model"):
        load(tmp_path)


def test_a_model_without_a_processor(tmp_path: Path) -> None:
    llava("sdpa").model.save_pretrained(tmp_path)
    with pytest.raises(PrunekitError, match="cannot be loaded"):
        load(tmp_path)


def decoded(processor: Any, inputs: Any) -> list[str]:
    return [
        " ".join(processor.tokenizer.convert_ids_to_tokens(row)).replace("<image> " * 16, "[16] ")
        for row in inputs["input_ids"].tolist()
    ]


def test_prompts_with_a_chat_template() -> None:
    processor = llava_processor(CHAT)
    inputs = prompt_inputs(processor, [picture(), picture()], ["what is left ?", "red"])
    assert decoded(processor, inputs) == [
        "user : [16] what is left ? :",
        "<pad> <pad> <pad> user : [16] red :",
    ]
    assert inputs["attention_mask"][1, :4].tolist() == [0, 0, 0, 1]
    assert inputs["pixel_values"].shape == (2, 3, 32, 32)


def test_prompts_without_one() -> None:
    processor = llava_processor()
    inputs = prompt_inputs(processor, [picture(), picture()], ["what is left ?", "is <image> red"])
    assert decoded(processor, inputs) == ["[16] what is left ?", "<pad> <pad> is [16] red"]


def test_several_images_and_none() -> None:
    processor = llava_processor(CHAT)
    inputs = prompt_inputs(processor, [[picture(), picture()], [picture()]], ["what", "red"])
    assert decoded(processor, inputs)[0] == "user : [16] [16] what :"
    assert inputs["pixel_values"].shape[0] == 3
    alone = prompt_inputs(processor, [[], []], ["what", "red"])
    assert "pixel_values" not in alone
    assert decoded(processor, alone) == ["user : what :", "user : red :"]


def gemma3_processor() -> Any:
    images = _images("Gemma3ImageProcessor", size={"height": 64, "width": 64})
    special = {"image_token": "<image_soft_token>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    return hf.Gemma3Processor(image_processor=images, tokenizer=tokenizer(**special), image_seq_length=16)


def paligemma_processor() -> Any:
    images = _images("SiglipImageProcessor", size={"height": 32, "width": 32})
    images.image_seq_length = 16
    return hf.PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer())


def idefics3_processor() -> Any:
    images = _images(
        "Idefics3ImageProcessor",
        size={"longest_edge": 64},
        max_image_size={"longest_edge": 64},
        do_image_splitting=False,
    )
    special = {
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    return hf.Idefics3Processor(image_processor=images, tokenizer=tokenizer(**special), image_seq_len=16)


@pytest.mark.parametrize("make", [gemma3_processor, paligemma_processor, idefics3_processor])
def test_each_processor_gets_what_it_wants(make: Any) -> None:
    try:
        processor = make()
    except ImportError as error:
        pytest.skip(f"needs torchvision in this release: {error}")
    inputs = prompt_inputs(processor, [picture(), picture(60, 40)], ["what is left ?", "red"])
    image = processor.tokenizer.image_token_id
    assert (inputs["input_ids"] == image).sum(1).tolist() == [16, 16]
    assert inputs["attention_mask"][1, 0] == 0


def test_a_text_for_each_image() -> None:
    with pytest.raises(PrunekitError, match="Each text"):
        prompt_inputs(llava_processor(), [picture()], ["what", "red"])


def test_a_processor_that_marks_no_images() -> None:
    class Bare:
        chat_template = None

    with pytest.raises(PrunekitError, match="neither a chat template nor an image token"):
        prompt_inputs(Bare(), [picture()], ["what"])  # type: ignore[arg-type]
