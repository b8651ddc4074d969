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

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.graph import SparseGraph
from prunekit.signals import (
    Distance,
    InputFeatures,
    JointFeatures,
    Keys,
    PaddedShare,
    Signal,
    Sizes,
    TextAttention,
    TextRows,
    VisionAttention,
    VisionKeys,
    WeightGradient,
)
from prunekit.tokens import Candidates, Kept, Room, Scores, Selection, TokenBatch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DIM = 8
HEADS = 2
LAYERS = 2
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


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """What a merger is asked: tokens, and which of them are kept.

    Attributes:
        tokens: The tokens.
        scores: Their scores, both before and after debiasing.
        kept_by: The step that kept each of them; -1 where none did.
        steps: The names of the steps.
    """

    tokens: TokenBatch
    scores: Scores
    kept_by: Int[Tensor, "batch tokens"]
    steps: tuple[str, ...]

    @property
    def selection(self) -> Selection:
        """The selection a merger is called with."""
        return Selection(
            kept=self.kept_by >= 0,
            kept_by=self.kept_by,
            steps=self.steps,
            scores=self.scores,
            debiased=self.scores,
            positions=self.tokens.positions,
            present=self.tokens.present,
        )


@st.composite
def token_sets(
    draw: st.DrawFn,
    *,
    needs: Set[Signal] = frozenset(),
    spoilt: bool = True,
    far: bool = True,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    most_samples: int = 3,
    most_planes: int = 3,
    longest_side: int = 4,
    layouts: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> TokenBatch:
    """Batches of visual tokens with the signals a stage needs: `token_sets(needs=stage.needs)`.

    Args:
        draw: Given by Hypothesis.
        needs: The signals to make up. Those that prunekit does not know become `Float[batch, tokens]` in
            [0, 1], or vectors `Float[batch, 3, 8]` where they are not per token.
        spoilt: Whether present tokens may hold NaN and infinities. Padding always may.
        far: Whether features may be so long or short that squares overflow or vanish. Where they are not, a
            sum of a few of them is exact in whatever order it is added.
        dtypes: The dtypes of features and signals to draw from.
        most_samples: The largest batch.
        most_planes: The most planes of a sample; one may have none, and so no token.
        longest_side: The most rows and columns of a plane. Longer ones can have distances that meet a
            threshold exactly, such as 0.8 = 1 - 1/5.
        layouts: The rows and columns of the planes of each sample, every cell with a token; drawn, and with
            cells missing, if not given.
    """
    dtype = draw(st.sampled_from(dtypes))
    side = st.integers(1, longest_side)
    planes = st.lists(st.tuples(side, side), max_size=most_planes)
    whole = layouts is not None
    layouts = layouts or draw(st.lists(planes, min_size=1, max_size=most_samples))
    random = Random(draw(st.integers(0, 2**32 - 1)))
    spare = draw(st.integers(0, 3))
    samples = [_cells(layout, random, whole) for layout in layouts]
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
            scale = _scale(dtype, random, far)
            features.append([scale * x for x in random.choice(palette)] if slot in left else _noise(random))
            nowhere = random.choice([-1, 0, 9999])
            positions.append(left.get(slot, (nowhere, nowhere, nowhere)))
    texts = torch.tensor([random.randint(1, TEXTS) for _ in samples])
    signals = {signal: _signal(signal, present, texts, random).to(dtype) for signal in sorted(needs, key=str)}
    vectors = torch.tensor(features).reshape(len(samples), length, DIM)
    places = torch.tensor(positions, dtype=torch.long).reshape(len(samples), length, 3)
    if spoilt and draw(st.booleans()):
        said = [value.movedim(-1, 1) for signal, value in signals.items() if signal.per_token]
        _spoil([vectors, *said], random)
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


@st.composite
def merges(draw: st.DrawFn, *, needs: Set[Signal] = frozenset(), after: Set[str] = frozenset()) -> Merge:
    """What a merger may be asked: tokens, scores like attention, a few, many or all tokens kept.

    Args:
        draw: Given by Hypothesis.
        needs: As in `token_sets`.
        after: Steps that are among those which kept tokens.
    """
    tokens = draw(token_sets(needs=needs, dtypes=(torch.float32,), far=False))
    pool = draw(st.sampled_from(_ATTENTION))
    share = draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]))
    random = Random(draw(st.integers(0, 2**32 - 1)))
    steps = tuple(sorted({*after, "best", "rest"}))
    batch, length = tokens.present.shape
    kept_by = torch.full((batch, length), -1)
    for sample, present in enumerate(tokens.present):
        there = present.nonzero().flatten().tolist()
        for place in random.sample(there, min(len(there), max(1, round(share * len(there))))):
            kept_by[sample, place] = random.randrange(len(steps))
    scores = [[pool(random) for _ in range(length)] for _ in range(batch)]
    return Merge(tokens, torch.tensor(scores).reshape(batch, length), kept_by, steps)


_SCORES: tuple[Callable[[Random], float], ...] = (
    lambda random: random.random(),
    lambda random: random.choice([0.0, 0.5, 1.0]),
    lambda _: 1.0,
    lambda random: random.choice([0.0, -0.0, 1e-45, 1e-38, -1e-38, 1.0, 3e38, -3e38]),
    lambda random: random.choice([float("nan"), float("inf"), float("-inf"), 0.0, random.random()]),
)

_ATTENTION: tuple[Callable[[Random], float], ...] = (
    lambda random: random.randint(0, 16) / 1024,
    lambda random: random.choice([0.0, 1 / 1024]),
    lambda random: random.choice([float("nan"), float("inf"), -0.5, 0.25, 1.0]),
)


def _cells(planes: Sequence[tuple[int, int]], random: Random, whole: bool) -> list[tuple[int, int, int]]:
    """The tokens of one sample: every cell of its planes or not, in raster order or not."""
    cells = [
        (plane, row, column)
        for plane, (rows, columns) in enumerate(planes)
        for row in range(rows)
        for column in range(columns)
    ]
    if not whole and random.random() < 0.3:
        cells = sorted(random.sample(cells, random.randint(0, len(cells))))
    if random.random() < 0.3:
        random.shuffle(cells)
    return cells


def _direction(random: Random) -> list[float]:
    """A vector of one or four entries ±1, else 0: its length is 1 or 2, and all cosines are quarters."""
    support = random.sample(range(DIM), random.choice([1, 4, 4]))
    return [random.choice([-1.0, 1.0]) if axis in support else 0.0 for axis in range(DIM)]


def _scale(dtype: torch.dtype, random: Random, far: bool) -> float:
    """A power of two, where wanted sometimes near the ends of the dtype's range, sometimes zero."""
    if random.random() < 0.1:
        return 0.0
    end = 3 if not far else 12 if dtype == torch.float16 else 100
    return 2.0 ** random.choice([0, 0, 0, -3, 3, -end, end])


def _noise(random: Random) -> list[float]:
    """What the features of padding may hold: anything."""
    return [_garbage(random)] * DIM


def _garbage(random: Random) -> float:
    return random.choice([float("nan"), float("inf"), -1e4, 0.0])


def _signal(
    signal: Signal, present: Bool[Tensor, "batch tokens"], texts: Int[Tensor, " batch"], random: Random
) -> Tensor:
    """The signal at every token, garbage at padding; zeros for texts that a sample does not have."""
    batch, length = present.shape
    generator = torch.Generator().manual_seed(random.getrandbits(31))
    spoken = torch.arange(TEXTS) < texts[:, None]
    match signal:
        case TextRows():
            values = _whole(16, (batch, HEADS, TEXTS, length), generator) / 1024
            values = values.masked_fill(~spoken[:, None, :, None], 0)
        case TextAttention() | VisionAttention():
            values = _whole(16, (batch, HEADS, length), generator) / 1024
        case VisionKeys() | Keys():
            # Each token's key is in one head alone, so that cosines are quarters for one and for all heads.
            head = _whole(HEADS - 1, (batch, length), generator)
            alone = head[:, None, None] == torch.arange(HEADS)[:, None, None]
            values = _directions((batch, length), random).mT[:, None] * alone
        case InputFeatures() | JointFeatures():
            values = _directions((batch, length), random).mT
        case WeightGradient():
            values = _whole(8, (batch, LAYERS, DIM // LAYERS, length), generator) / 4 - 1
        case Distance():
            values = _whole(64, (batch, length), generator).float()
        case Sizes():
            values = 1 + _whole(3, (batch, length), generator).float()
        case _ if not signal.per_token:
            return _directions((batch, TEXTS), random).masked_fill(~spoken[..., None], 0)
        case _:
            values = _whole(8, (batch, length), generator) / 8
            if isinstance(signal, PaddedShare):
                values = values.masked_fill(torch.rand(values.shape, generator=generator) < 0.5, 0.0)
    here = present.reshape(batch, *[1] * (values.ndim - 2), length)
    return values.masked_fill(~here, _garbage(random))


def _whole(top: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Whole numbers from 0 to `top`."""
    return torch.randint(0, top + 1, shape, generator=generator)


def _directions(lead: tuple[int, int], random: Random) -> Tensor:
    """Vectors of a few directions, one for each place."""
    palette = [_direction(random) for _ in range(4)]
    drawn = [random.choice(palette) for _ in range(lead[0] * lead[1])]
    return torch.tensor(drawn).reshape(*lead, DIM)


def _spoil(values: list[Tensor], random: Random) -> None:
    """Puts NaN or an infinity into the features and signals of about every eighth token, texts too."""
    batch, length = values[0].shape[:2]
    for sample in range(batch):
        for slot in range(length):
            if random.random() < 1 / 8:
                spoilt = random.choice(values)[sample]
                if slot < len(spoilt):
                    spoilt[slot] = random.choice([float("nan"), float("inf"), -float("inf")])
