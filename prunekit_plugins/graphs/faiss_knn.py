"""The graph of semantic likeness from FAISS: exact inner-product k-NN, stored as neighbour lists."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from threading import get_ident
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from prunekit import (
    Graph,
    GraphBuilder,
    MissingExtra,
    Pairs,
    SparseGraph,
    Stage,
    TokenBatch,
    hookimpl,
)
from prunekit.kernels.cosine import unit

MARGIN = 1e-5
"""How far FAISS and torch may differ in a float32 cosine; certificates leave that much room."""


class FaissKNN(GraphBuilder):
    """An edge where a token is among another's k nearest by cosine, and the cosine is above a threshold.

    k-NN truncates: a token with more than k look-alikes loses edges. With `certify` the k-th neighbour of
    every token must lie below the threshold, and k is doubled until it does: then nothing was cut off, and
    the graph is that of `{use: cosine, scaling: clip}` with the same threshold, but for cosines within
    float32 rounding of it.

    Runs on the GPU where the tokens and a GPU build of FAISS are, else on the CPU.

    Raises:
        MissingExtra: FAISS is not installed.
    """

    use: Literal["faiss_knn"] = "faiss_knn"
    k: int = Field(32, ge=1, description="How many neighbours to ask for, the token itself not counted.")
    above: float = Field(0.8, ge=0, le=1, description="An edge where the cosine exceeds this.")
    certify: bool = Field(True, description="Double k until the graph provably equals the one of all pairs.")

    @property
    def compares(self) -> Pairs:
        return "all"

    def __call__(self, tokens: TokenBatch) -> Graph:
        samples, starts, ends, weights = [], [], [], []
        for sample, present in enumerate(tokens.present):
            places = present.nonzero().squeeze(-1)
            start, end, weight = self._edges(unit(tokens.features[sample, places]))
            samples.append(torch.full_like(start, sample))
            starts.append(places[start])
            ends.append(places[end])
            weights.append(weight)
        return SparseGraph.of_edges(
            tokens.present, torch.cat(samples), torch.cat(starts), torch.cat(ends), torch.cat(weights)
        )

    def _edges(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and cosine of each edge of one sample, at least one direction of it."""
        count, k = len(vectors), self.k
        while True:
            asked = min(k + 1, count)
            likeness, neighbours = _nearest(vectors, asked)
            complete = asked == count or bool((likeness[:, -1] <= self.above - MARGIN).all())
            if complete or not self.certify:
                break
            k *= 2
        rows = torch.arange(count, device=vectors.device)[:, None].expand_as(neighbours)
        edge = (likeness > self.above) & (neighbours != rows) & (neighbours >= 0)
        return rows[edge], neighbours[edge], likeness[edge].clamp(0, 1)


def _nearest(vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each row with all rows, falling, and where they are."""
    if k == 0:
        return vectors.new_zeros(0, 0), torch.zeros(0, 0, dtype=torch.long, device=vectors.device)
    faiss = _faiss()
    vectors = vectors.contiguous()
    if vectors.is_cuda and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
        device = vectors.device.index or 0
        found = faiss.knn_gpu(
            _resources(device, get_ident()),
            vectors,
            vectors,
            k,
            metric=faiss.METRIC_INNER_PRODUCT,
            device=device,
        )
    else:
        host = vectors.cpu()
        found = faiss.knn(host, host, k, metric=faiss.METRIC_INNER_PRODUCT)
    likeness, neighbours = cast("tuple[Tensor, Tensor]", found)
    return likeness.to(vectors.device), neighbours.to(vectors.device)


@cache
def _faiss() -> Any:
    """FAISS, taught to take torch tensors; imported on first use because that rewrites its classes."""
    try:
        import faiss
        from faiss.contrib import torch_utils
    except ImportError as error:
        raise MissingExtra(
            "graph: faiss_knn needs FAISS. Install one of pip install 'prunekit[faiss-cpu]', "
            "'prunekit[faiss-gpu-cu12]' or 'prunekit[faiss-gpu-cu13]' (never two), or use {use: cosine}, "
            "which gives the same graph without it."
        ) from error
    del torch_utils
    return faiss


@cache
def _resources(device: int, thread: int) -> Any:
    """The scratch memory and streams FAISS uses on one GPU, made once a thread: they are not to be shared."""
    del thread
    with torch.cuda.device(device):
        return _faiss().StandardGpuResources()


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [FaissKNN]
