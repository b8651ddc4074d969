"""Hypothesis strategies: the token sets that break stages.

Empty sets, one token, duplicates, ties, several planes of different size, padding in any place filled with
garbage, half precision, zero vectors, NaN and infinities, scores from the tiniest to the hugest.

All numbers are exact on purpose. Features are multiples of vectors whose normalised entries are 0, ±1/2 or
±1, so every cosine is a multiple of 1/4 and comes out the same in whatever order a kernel adds; attention
is a multiple of 1/1024. A law that compares two evaluations of one stage then compares rules, never
rounding. Random features would have cosines so near a threshold that the rounding of a batch differs from
that of its samples.

Hypothesis draws the shape of a case and one seed; the seed decides the contents, which keeps drawing cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

import torch
from hypothesis import strategies as st
from jaxtyping import Bool
from torch import Tensor

from prunekit.graph import SparseGraph
from prunekit.tokens import (
    Candidates,
    JointFeatures,
    Kept,
    Keys,
    PaddedShare,
    Room,
    Scores,
    Signal,
    TextAttention,
    TokenBatch,
    VisionAttention,
    VisionKeys,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DIM = 8
HEADS = 2
TEXTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a selector is asked: candidates, what is kept already, and the room left.

    Attributes:
        tokens: The tokens.
        scores: Their debiased scores.
        edges: The graph, as the whole adjacency matrix; loops and padding are taken out of it.
        kept: What earlier selectors kept.
        room: How many more each sample may keep; never more than are left.
    """

    tokens: TokenBatch
    scores: Scores
    edges: Bool[Tensor, "batch tokens tokens"]
    kept: Kept
    room: Room

    @property
    def candidates(self) -> Candidates:
        """The candidates a selector is called with."""
        present = self.tokens.present
        real = self.edges & present[:, :, None] & present[:, None]
        real = real & ~torch.eye(present.shape[-1], dtype=torch.bool)
        sample, start, end = real.nonzero(as_tuple=True)
        graph = SparseGraph.of_edges(present, sample, start, end, torch.ones(len(sample)))
        return Candidates(self.tokens, self.scores, graph)


@st.composite
def token_sets(
    draw: st.DrawFn,
    *,
    needs: Set[Signal] = frozenset(),
    spoilt: bool = True,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    most_samples: int = 3,
    most_planes: int = 3,
    longest_side: int = 4,
) -> TokenBatch:
    """Batches of visual tokens with the signals a stage needs: `token_sets(needs=stage.needs)`.

    Args:
        draw: Given by Hypothesis.
        needs: The signals to make up. Those that prunekit does not know become `Float[batch, tokens]` in
            [0, 1], or vectors `Float[batch, 3, 8]` where they are not per token.
        spoilt: Whether present tokens may hold NaN and infinities. Padding always may.
        dtypes: The dtypes of features and signals to draw from.
        most_samples: The largest batch.
        most_planes: The most planes of a sample; one may have none, and so no token.
        longest_side: The most rows and columns of a plane. Longer ones can have distances that meet a
            threshold exactly, such as 0.8 = 1 - 1/5.
    """
    dtype = draw(st.sampled_from(dtypes))
    side = st.integers(1, longest_side)
    plane = st.tuples(side, side)
    layouts = draw(st.lists(st.lists(plane, max_size=most_planes), min_size=1, max_size=most_samples))
    random = Random(draw(st.integers(0, 2**32 - 1)))
    spare = draw(st.integers(0, 3))
    samples = [_cells(layout, random) for layout in layouts]
    length = max(map(len, samples)) + spare
    features: list[list[float]] = []
    positions: list[tuple[int, int, int]] = []
    present = torch.zeros(len(samples), length, dtype=torch.bool)
    for sample, cells in enumerate(samples):
        palette = [_direction(random) for _ in range(random.randint(1, 5))]
        slots = sorted(random.sample(range(length), len(cells)))
        present[sample, slots] = True
        left = dict(zip(slots, cells, strict=True))
        for slot in range(length):
            scale = _scale(dtype, random)
            features.append([scale * x for x in random.choice(palette)] if slot in left else _noise(random))
            nowhere = random.choice([-1, 0, 9999])
            positions.append(left.get(slot, (nowhere, nowhere, nowhere)))
    signals = {signal: _signal(signal, present, random).to(dtype) for signal in needs}
    vectors = torch.tensor(features).reshape(len(samples), length, DIM)
    places = torch.tensor(positions, dtype=torch.long).reshape(len(samples), length, 3)
    if spoilt and draw(st.booleans()):
        _spoil([vectors, *(value.movedim(-1, 1) if signal.per_token else value
                           for signal, value in signals.items())], random)  # fmt: skip
    return TokenBatch(vectors.to(dtype), places, present, MappingProxyType(signals))


@st.composite
def choices(draw: st.DrawFn, *, needs: Set[Signal] = frozenset()) -> Choice:
    """What a selector may be asked: tokens, scores, a graph, some kept tokens, some room.

    Scores are distinct, tied, all the same, tiny and huge, or partly NaN and infinite; graphs go from no
    edge to all edges.
    """
    tokens = draw(token_sets(needs=needs, dtypes=(torch.float32,)))
    pool = draw(st.sampled_from(_SCORES))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    share = draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    random = Random(draw(st.integers(0, 2**32 - 1)))
    batch, length = tokens.present.shape
    generator = torch.Generator().manual_seed(random.getrandbits(31))
    upper = (torch.rand(batch, length, length, generator=generator) < density).triu(1)
    kept = tokens.present & (torch.rand(batch, length, generator=generator) < share)
    left = (tokens.present & ~kept).sum(-1).tolist()
    return Choice(
        tokens,
        torch.tensor([[pool(random) for _ in range(length)] for _ in range(batch)]).reshape(batch, length),
        upper | upper.mT,
        kept,
        torch.tensor([random.randint(0, most) for most in left]),
    )


_SCORES: tuple[Callable[[Random], float], ...] = (
    lambda random: random.random(),
    lambda random: random.choice([0.0, 0.5, 1.0]),
    lambda _: 1.0,
    lambda random: random.choice([0.0, -0.0, 1e-45, 1e-38, -1e-38, 1.0, 3e38, -3e38]),
    lambda random: random.choice([float("nan"), float("inf"), float("-inf"), 0.0, random.random()]),
)


def _cells(planes: list[tuple[int, int]], random: Random) -> list[tuple[int, int, int]]:
    """The tokens of one sample: every cell of its planes or not, in raster order or not."""
    cells = [
        (plane, row, column)
        for plane, (rows, columns) in enumerate(planes)
        for row in range(rows)
        for column in range(columns)
    ]
    if random.random() < 0.3:
        cells = sorted(random.sample(cells, random.randint(0, len(cells))))
    if random.random() < 0.3:
        random.shuffle(cells)
    return cells


def _direction(random: Random) -> list[float]:
    """A vector of one or four entries ±1, else 0: its length is 1 or 2, and all cosines are quarters."""
    support = random.sample(range(DIM), random.choice([1, 4, 4]))
    return [random.choice([-1.0, 1.0]) if axis in support else 0.0 for axis in range(DIM)]


def _scale(dtype: torch.dtype, random: Random) -> float:
    """A power of two, sometimes near the ends of the dtype's range, sometimes zero."""
    if random.random() < 0.1:
        return 0.0
    far = 12 if dtype == torch.float16 else 100
    return 2.0 ** random.choice([0, 0, 0, -3, 3, -far, far])


def _noise(random: Random) -> list[float]:
    """What the features of padding may hold: anything."""
    return [_garbage(random)] * DIM


def _garbage(random: Random) -> float:
    return random.choice([float("nan"), float("inf"), -1e4, 0.0])


def _signal(signal: Signal, present: Bool[Tensor, "batch tokens"], random: Random) -> Tensor:
    """The signal; at padding tokens garbage."""
    batch, length = present.shape
    if not signal.per_token:
        return torch.tensor([[_text(random) for _ in range(TEXTS)] for _ in range(batch)])
    if isinstance(signal, (Keys, VisionKeys, JointFeatures)):
        vectors = torch.tensor([[_direction(random) for _ in range(length)] for _ in range(batch)])
        values = vectors.reshape(batch, length, DIM).mT
        values = values if isinstance(signal, JointFeatures) else values[:, None].repeat(1, HEADS, 1, 1)
    else:
        values = _shares(signal, present, random)
    here = present.reshape(batch, *[1] * (values.ndim - 2), length)
    return values.masked_fill(~here, _garbage(random))


def _shares(signal: Signal, present: Bool[Tensor, "batch tokens"], random: Random) -> Tensor:
    """Attention, or a number in [0, 1] a token."""
    attention = isinstance(signal, (TextAttention, VisionAttention))
    lead = (len(present), HEADS) if attention else (len(present),)
    top, unit = (16, 1024) if attention else (8, 8)
    generator = torch.Generator().manual_seed(random.getrandbits(31))
    values = torch.randint(0, top + 1, (*lead, present.shape[-1]), generator=generator) / unit
    if isinstance(signal, PaddedShare):
        values = values.masked_fill(torch.rand(values.shape, generator=generator) < 0.5, 0.0)
    return values


def _text(random: Random) -> list[float]:
    """A text's vector, or the zeros that stand for none."""
    return _direction(random) if random.random() < 0.6 else [0.0] * DIM


def _spoil(values: list[Tensor], random: Random) -> None:
    """Puts NaN or an infinity into the features and signals of about every eighth token, texts too."""
    batch, length = values[0].shape[:2]
    for sample in range(batch):
        for slot in range(length):
            if random.random() < 1 / 8:
                spoilt = random.choice(values)[sample]
                if slot < len(spoilt):
                    spoilt[slot] = random.choice([float("nan"), float("inf"), -float("inf")])
