"""AdaTP against a slow reading of its description, on short videos."""

import math

import pytest
import torch

import prunekit as pk

SHOTS = ((3, 0.0), (2, 2.0), (4, 4.0))
"""How many frames each shot has, and how much it has to do with the question."""


def video(seed):
    """Nine frames of 3 × 4 tokens in three shots, with attention and a question of two words."""
    make = torch.Generator().manual_seed(seed)
    question = torch.randn(1, 2, 32, generator=make)
    frames = []
    for count, relevance in SHOTS:
        shot = 3 * torch.randn(1, 32, generator=make) + relevance * question.mean(1)
        frames += [shot + torch.randn(12, 32, generator=make) for _ in range(count)]
    attention = torch.rand(1, 2, 108, generator=make)
    signals = {pk.TextAttention(): attention, pk.TextFeatures(): question}
    return pk.TokenBatch.grid(torch.cat(frames)[None], 3, 4, signals)


def unit(vector):
    return vector / vector.norm()


def one_place(tokens, left, room, alike=0.9, temperature=0.1):
    """What one place keeps of the tokens left: a set of indices."""
    features, positions = tokens.features[0].double(), tokens.positions[0].tolist()
    score = tokens.signals[pk.TextAttention()][0].mean(0)
    question = unit(tokens.signals[pk.TextFeatures()][0].double().mean(0))
    frames = {}
    for token in sorted(left):
        frames.setdefault(positions[token][0], []).append(token)
    segments, before = [], None
    for frame in sorted(frames):
        mean = torch.stack([unit(features[token]) for token in frames[frame]]).mean(0)
        if before is None or float(unit(mean) @ unit(before)) < alike:
            segments.append([])
        segments[-1] += frames[frame]
        before = mean
    alike_to = {token: float(unit(features[token]) @ question) for token in left}
    likeness = [sum(map(alike_to.get, segment)) / len(segment) for segment in segments]
    odds = [math.exp((value - max(likeness)) / temperature) for value in likeness]
    shares = [
        len(segment) / len(left) * (1 + odd / sum(odds) - 1 / len(segments))
        for segment, odd in zip(segments, odds, strict=True)
    ]
    wanted = [room * share / sum(shares) for share in shares]
    quota = [min(math.floor(want), len(segment)) for want, segment in zip(wanted, segments, strict=True)]
    by_remainder = sorted(range(len(segments)), key=lambda number: (quota[number] - wanted[number], number))
    while sum(quota) < room:
        for number in by_remainder:
            if sum(quota) < room and quota[number] < len(segments[number]):
                quota[number] += 1
    kept = set()
    for segment, most in zip(segments, quota, strict=True):
        queue = sorted(segment, key=lambda token: (-float(score[token]), token))
        once, places = [], set()
        for token in queue:
            if tuple(positions[token][1:]) not in places:
                places.add(tuple(positions[token][1:]))
                once.append(token)
        kept |= set([*once, *(token for token in queue if token not in once)][:most])
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_it_is_said_to_be(seed):
    tokens, left = video(seed), set(range(108))
    for cut in pk.load("adatp").cuts:
        left = one_place(tokens, left, int(108 * cut.budget))
    assert pk.load("adatp")(tokens).indices[0].tolist() == sorted(left)


def test_relevant_shots_keep_more_and_a_place_is_kept_once():
    tokens = video(0)
    pipeline = pk.load("adatp").cuts[0].swap(budget=24)
    kept = pipeline(tokens).kept[0].view(9, 12)
    shots = torch.split(kept, [count for count, _ in SHOTS])
    density = [float(shot.float().mean()) for shot in shots]
    assert density[2] > 24 / 108 > max(density[:2])
    assert all(int(shot.sum(0).max()) <= 1 for shot in shots if int(shot.sum()) <= 12)
