"""Models with random weights, built in code: they answer nonsense, as fast as a real one of their shape.

Their vision tower is small, for pruning does not change what it costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

PREFIX = "random-"
"""What their names begin with."""

PAD, BOS, EOS, UNKNOWN, IMAGE = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
VOCABULARY = 32064
SIDE, PATCH = 336, 14
TOWER_WIDTH, TOWER_LAYERS = 64, 2
LONGEST = 32768


@dataclass(frozen=True, slots=True)
class Llava:
    """A LLaVA with 576 visual tokens an image, by the sizes of its language model.

    Attributes:
        width: Of its hidden state.
        mlp: Of its MLPs.
        layers: How many it has.
        heads: Query heads of a layer.
        key_heads: Key and value heads of a layer.
        dtype: Its own precision.
    """

    width: int
    mlp: int
    layers: int
    heads: int
    key_heads: int
    dtype: torch.dtype

    @property
    def config(self) -> LlavaConfig:
        """Its configuration."""
        text = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=LONGEST,
            pad_token_id=SPECIAL.index(PAD),
            bos_token_id=SPECIAL.index(BOS),
            eos_token_id=SPECIAL.index(EOS),
        )
        tower = CLIPVisionConfig(
            hidden_size=TOWER_WIDTH,
            intermediate_size=4 * TOWER_WIDTH,
            num_hidden_layers=TOWER_LAYERS,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
        )
        return LlavaConfig(
            vision_config=tower,
            text_config=text,
            image_token_index=SPECIAL.index(IMAGE),
            image_seq_length=(SIDE // PATCH) ** 2,
            tie_word_embeddings=False,
        )


RANDOM: Mapping[str, Llava] = MappingProxyType({
    "random-llava-tiny": Llava(640, 1728, 12, 10, 2, torch.float32),
    "random-llava-small": Llava(1024, 2816, 20, 16, 4, torch.float32),
    "random-llava-7b": Llava(4096, 11008, 32, 32, 32, torch.bfloat16),
})  # fmt: skip
"""By name: 0.1 B and 0.3 B parameters for a CPU, and the shape of LLaVA-1.5-7B for a GPU."""


def random_model(name: str, device: torch.device, dtype: torch.dtype | None) -> LlavaForConditionalGeneration:
    """One of them, the same weights every time on one kind of device.

    Args:
        name: One of `RANDOM`.
        device: Where to make it.
        dtype: Its precision; None for its own.
    """
    shape = RANDOM[name]
    config = shape.config
    config.name_or_path = name
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        return LlavaForConditionalGeneration._from_config(config, dtype=dtype or shape.dtype).eval()


def random_processor() -> ProcessorMixin:
    """What prepares their inputs: a word is a token, known or not."""
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(SPECIAL)}, unk_token=UNKNOWN)
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=LONGEST,
    )
    return LlavaProcessor(
        image_processor=_image_processor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
    )


def _image_processor(**settings: Any) -> Any:
    """CLIP's, in the form without torchvision where there are two."""
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    return kind(**settings)
