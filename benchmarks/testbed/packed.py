"""Many questions on one picture in one sequence, each blind to the others.

The sequence is `<bos>`, the visual tokens, then the questions one after another. A question
sees the prefix and itself and counts positions from the end of the prefix, so that its logits
are those it would have alone, for a fraction of the work.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from benchmarks.testbed.processing import BOS, VOCABULARY
from prunekit.testbed import GRID

PREFIX = 1 + GRID * GRID


def see(model: LlavaForConditionalGeneration, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Run the vision tower and the projector.

    LLaVA reads `hidden_states[-1]`, which for SigLIP is taken *before* `post_layernorm`.

    Args:
        model: The model.
        pixels: (batch, 3, SIDE, SIDE), normalised.

    Returns:
        Tower features (batch, tokens, tower width) and visual tokens (batch, tokens, width).
    """
    tower = model.model.vision_tower(pixel_values=pixels, output_hidden_states=True)
    features = tower.hidden_states[-1]
    return features, model.model.multi_modal_projector(features)


def read(model: LlavaForConditionalGeneration, visual: Tensor, tokens: Tensor) -> Tensor:
    """Run the language model on packed questions.

    Args:
        model: The model.
        visual: Visual tokens (batch, GRID * GRID, width).
        tokens: Questions (batch, questions, length), padded at the end.

    Returns:
        Last hidden states of the questions, (batch, questions, length, width).
    """
    batch, questions, length = tokens.shape
    embed = model.model.language_model.embed_tokens
    begin = embed(torch.full((batch, 1), VOCABULARY[BOS]))
    words = embed(tokens.flatten(1))
    hidden = model.model.language_model(
        inputs_embeds=torch.cat([begin, visual.to(begin.dtype), words], dim=1),
        attention_mask=_sight(questions, length).expand(batch, 1, -1, -1),
        position_ids=_positions(questions, length).expand(batch, -1),
        use_cache=False,
    ).last_hidden_state
    return hidden[:, PREFIX:].unflatten(1, (questions, length))


def _sight(questions: int, length: int) -> Tensor:
    """What to add to attention logits, (1, 1, total, total): 0 where a row sees a column."""
    asked = torch.arange(1, questions + 1).repeat_interleave(length)
    group = torch.cat([torch.zeros(PREFIX), asked])
    seen = ((group[:, None] == group[None, :]) | (group[None, :] == 0)).tril()
    hidden = torch.finfo(torch.float32).min
    return torch.zeros(seen.shape).masked_fill(~seen, hidden)[None, None]


def _positions(questions: int, length: int) -> Tensor:
    """Position of each token, (1, total): every question starts where the prefix ends."""
    question = torch.arange(PREFIX, PREFIX + length)
    return torch.cat([torch.arange(PREFIX), question.repeat(questions)])[None]


@torch.no_grad()
def difference(model: LlavaForConditionalGeneration, pixels: Tensor, tokens: Tensor) -> float:
    """Return the greatest difference in logits between packed and plain forwards.

    Args:
        model: The model.
        pixels: (batch, 3, SIDE, SIDE), normalised.
        tokens: Questions (batch, questions, length) as in training.

    Returns:
        Greatest absolute difference over all positions of all questions; a correct pair of
        forwards stays below 1e-4 in float32.
    """
    packed = model.lm_head(read(model, see(model, pixels)[1], tokens))
    prefix = torch.tensor([VOCABULARY[BOS]] + [model.config.image_token_id] * (PREFIX - 1))
    worst = 0.0
    for question in range(tokens.shape[1]):
        ids = torch.cat([prefix.expand(len(tokens), -1), tokens[:, question]], dim=1)
        plain = model(input_ids=ids, pixel_values=pixels).logits[:, PREFIX:]
        worst = max(worst, (plain - packed[:, question]).abs().max().item())
    return worst
