"""The tokenizer, image processor and chat template of the testbed model, built in code."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from prunekit.testbed import COORDINATES, PATCH, SIDE, WORDS

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<bos>", "<eos>", "<unk>", "<image>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, IMAGE)
VOCABULARY = {word: index for index, word in enumerate((*SPECIAL, *WORDS, *COORDINATES))}

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}<image>{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{ part['text'] if loop.first else ' ' + part['text'] }}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}<eos>{%- endif -%}
{%- endfor -%}"""
"""Image first, then the words, nothing else; `<bos>` is the tokenizer's affair."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer: lower case, punctuation apart, `<bos>` in front."""
    core = Tokenizer(WordLevel(VOCABULARY, unk_token=UNKNOWN))
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("color", "colour")])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, VOCABULARY[BOS])]
    )
    core.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIAL])
    core.add_tokens([AddedToken(word, normalized=False) for word in COORDINATES])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_image_processor() -> SiglipImageProcessorPil:
    """Build the image processor: any picture to SIDE x SIDE, values from -1 to 1."""
    return SiglipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def build_processor() -> LlavaProcessor:
    """Put tokenizer, image processor and chat template together."""
    return LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )
