"""Likeness to text is a cosine, text by text or with their mean."""

import torch
from torch.nn.functional import cosine_similarity

import prunekit as pk

MAKE = torch.Generator().manual_seed(0)
TextSimilarity = pk.installed().stage("importance", "text_similarity")


def test_each_and_mean_without_what_is_no_text():
    features, texts = torch.randn(1, 12, 8, generator=MAKE), torch.randn(1, 5, 8, generator=MAKE)
    texts[0, 1], texts[0, 4] = 0, torch.nan
    real = texts[0, [0, 2, 3]]
    tokens = pk.TokenBatch.grid(features, 3, 4, {pk.TextFeatures(): texts})
    each = cosine_similarity(features[0][:, None], real[None], dim=-1).mean(-1)
    mean = cosine_similarity(features[0], real.mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(TextSimilarity()(tokens)[0], each)
    torch.testing.assert_close(TextSimilarity(texts="mean")(tokens)[0], mean)
    torch.testing.assert_close(TextSimilarity(prefer="far")(tokens)[0], -each)


def test_in_a_joint_space_features_do_not_matter():
    patches, texts = torch.randn(1, 6, 12, generator=MAKE), torch.randn(1, 1, 6, generator=MAKE)
    signals = {pk.JointFeatures(): patches, pk.JointTexts(): texts}
    tokens = pk.TokenBatch.grid(torch.ones(1, 12, 3), 3, 4, signals)
    wanted = cosine_similarity(patches[0].mT, texts[0], dim=-1)
    torch.testing.assert_close(TextSimilarity(space="joint")(tokens)[0], wanted)
