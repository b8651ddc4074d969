"""Selection beside its references, in one run, as ratios.

    python -m benchmarks.stages                  # all sizes
    python -m benchmarks.stages --smoke          # one small size, to see that it runs

Each row is one size of problem. `Gram` is the full cosine matrix, which a selection that builds its graph
first pays at least; `dense` builds that graph and then takes the same greedy independent set from it.
D²Pruner's selection is compared with both, on the same tokens, and must give the same tokens as `dense`.
Medians after warm-up, one thread. Features are synthetic: regions of like tokens, with noise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

import prunekit as pk
from prunekit.graph import everywhere
from prunekit.kernels.cosine import cosine
from prunekit.kernels.ranking import packed_key, take

SIZES = ((24, 1024, 64), (24, 4096, 192), (48, 1024, 256), (56, 4096, 320))
SMOKE = ((12, 64, 16),)
RUNS = 7


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds, and what they are worth beside the Gram matrix."""

    tokens: int
    dim: int
    kept: int
    gram_ms: float
    dense_ms: float
    prunekit_ms: float

    @property
    def of_gram(self) -> float:
        return self.prunekit_ms / self.gram_ms

    @property
    def of_dense(self) -> float:
        return self.prunekit_ms / self.dense_ms


def tokens(side: int, dim: int, seed: int = 0) -> pk.TokenBatch:
    """One image of `side` × `side` tokens in Voronoi regions, half signal and half noise."""
    make = torch.Generator().manual_seed(seed)
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    centres = torch.rand(side, 2, generator=make) * side
    region = torch.cdist(cells, centres).argmin(1)
    features = torch.randn(side, dim, generator=make)[region] + 0.5 * torch.randn(
        side**2, dim, generator=make
    )
    return pk.TokenBatch.grid(features[None], side, side)


def dense(batch: pk.TokenBatch, scores: torch.Tensor, kept: int, above: float) -> torch.Tensor:
    """The textbook: pivots, the whole graph, then one candidate after another."""
    everyone = everywhere(batch.present)
    edges = (cosine(batch.features, everyone, everyone) > above)[0].numpy()
    pivots = take(packed_key(scores, batch.present), torch.tensor([int(0.7 * kept)]))[0].numpy()
    chosen: list[int] = []
    for token in packed_key(scores, batch.present)[0].argsort(descending=True).tolist():
        if len(chosen) == kept - pivots.sum():
            break
        if not pivots[token] and not edges[token, chosen].any():
            chosen.append(token)
    mask = torch.from_numpy(pivots.copy())
    mask[chosen] = True
    return mask


def median_ms(call: Callable[[], object]) -> float:
    """The median of several calls, the first two not counted."""
    spans: list[float] = []
    for _ in range(RUNS + 2):
        start = time.perf_counter()
        call()
        spans.append(1000 * (time.perf_counter() - start))
    return statistics.median(spans[2:])


def measured(side: int, dim: int, kept: int) -> Row:
    batch = tokens(side, dim)
    pipeline = pk.load("d2pruner").swap(
        importance="feature_norm", bias=None, budget=kept, select=[{"use": "top_k", "share": 0.7}, "mis"]
    )
    scores = pipeline.importance(batch)
    lazy, reference = pipeline(batch), dense(batch, scores, kept, 0.8)
    independent = lazy.kept_by[0] != len(pipeline.select)
    assert bool((lazy.kept[0] & independent == reference).all()), (
        "the lazy selection differs from the dense one"
    )
    everyone = everywhere(batch.present)
    return Row(
        side**2,
        dim,
        kept,
        median_ms(lambda: cosine(batch.features, everyone, everyone)),
        median_ms(lambda: dense(batch, scores, kept, 0.8)),
        median_ms(lambda: pipeline(batch)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="one small size")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(*size) for size in (SMOKE if options.smoke else SIZES)]
    if options.json:
        ratios = [{**asdict(r), "of_gram": r.of_gram, "of_dense": r.of_dense} for r in rows]
        print(json.dumps({"device": platform.processor() or platform.machine(), "rows": ratios}, indent=2))
        return
    columns = ("tokens", "dim", "kept", "Gram ms", "dense ms", "prunekit ms", "× Gram", "× dense")
    print(" ".join(f"{column:>11}" for column in columns))
    for row in rows:
        times = (row.gram_ms, row.dense_ms, row.prunekit_ms)
        counts = (row.tokens, row.dim, row.kept)
        ratios = (row.of_gram, row.of_dense)
        print(
            " ".join(
                [
                    *(f"{n:>11}" for n in counts),
                    *(f"{t:>11.1f}" for t in times),
                    *(f"{r:>11.3f}" for r in ratios),
                ]
            )
        )


if __name__ == "__main__":
    main()
