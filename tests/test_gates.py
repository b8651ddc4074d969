"""What must stay true of the cost of a selection, by counts alone: the same on every machine, however busy.

Tensors on the meta device hold no values: what is dispatched there is what an accelerator would launch, and
whoever looks at a value fails.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from prunekit.bench.features import Size, made_up
from prunekit.bench.select import CASES, pipeline_for
from prunekit.kernels.mis.plan import plan_for
from prunekit.measuring import Counting
from prunekit.tokens import Selection, TokenBatch

CPU, META = torch.device("cpu"), torch.device("meta")
DEFAULT = ("d2pruner", "d2pruner-grounding")
KEEP = 16
DIM = 32


@pytest.fixture
def count(prior_file):
    """Counts what one case does on the device engine, from tokens to selection."""

    def counted(case: str, shape: Size, keep: int = KEEP) -> Counting:
        tokens = made_up(shape, META)
        pipeline = pipeline_for(case, keep, prior_file)
        pipeline(tokens)  # whatever is read from files or kept is there now
        with Counting(META) as counting:
            pipeline(tokens)
        return counting

    return counted


Count = Callable[..., Counting]


def shape(tokens: int, batch: int = 1, features: str = "clustered", dim: int = DIM) -> Size:
    return Size(features, tokens, dim, batch)


@pytest.mark.parametrize("case", CASES)
def test_the_host_is_never_waited_for(count: Count, case: str):
    assert count(case, shape(100, batch=3)).syncs == 0


@pytest.mark.parametrize("case", DEFAULT)
def test_launches_do_not_grow_with_the_tokens(count: Count, case: str):
    launches = {tokens: count(case, shape(tokens)).ops for tokens in (64, 256, 1024)}
    assert len(set(launches.values())) == 1, launches


@pytest.mark.parametrize("case", DEFAULT)
def test_a_batch_is_launched_at_once(count: Count, case: str):
    alone, together = count(case, shape(144)).ops, count(case, shape(144, batch=64)).ops
    assert 5 * together <= 64 * alone
    assert together == alone


@pytest.mark.parametrize("case", ["dpp", "max_min", "mmr", "coverage"])
def test_greedy_selectors_launch_in_proportion_to_what_they_keep(count: Count, case: str):
    small, large = count(case, shape(256), keep=8).ops, count(case, shape(256), keep=32).ops
    assert large <= 4 * small
    assert large <= 40 * 32


@pytest.mark.parametrize("case", DEFAULT)
@pytest.mark.parametrize(("tokens", "dim", "keep"), [(576, 64, 16), (1024, 256, 64), (4096, 64, 400)])
def test_memory_is_that_of_features_and_of_the_front(
    count: Count, case: str, tokens: int, dim: int, keep: int
):
    """O(N·D + M²) for the M best candidates, looked at together: no matrix of all pairs."""
    front = plan_for("device", tokens, keep, None).block
    features, pairs, each = 4 * tokens * dim, 4 * front**2, 256 * tokens
    assert count(case, shape(tokens, dim=dim), keep).peak_bytes <= features + 4 * pairs + each


@pytest.mark.parametrize("case", DEFAULT)
def test_memory_of_many_tokens_is_far_from_that_of_all_pairs(count: Count, case: str):
    assert count(case, shape(4096)).peak_bytes < 4 * 4096**2 / 32


@pytest.mark.parametrize("features", ["clustered", "gaussian", "anisotropic"])
@pytest.mark.parametrize("case", CASES)
def test_both_engines_select_the_same(prior_file, case: str, features: str):
    tokens = made_up(shape(144, batch=2, features=features), CPU)
    pipeline = pipeline_for(case, KEEP, prior_file)
    selections: list[Selection] = [pipeline(tokens, engine).settled() for engine in ("host", "device")]
    assert torch.equal(selections[0].kept, selections[1].kept)
    assert torch.equal(selections[0].kept_by, selections[1].kept_by)


@pytest.mark.parametrize("case", DEFAULT)
def test_host_work_stops_early(prior_file, case: str):
    """Four times the tokens, the same budget: not even twice the operations where nobody is alike."""
    counts: list[int] = []
    for tokens in (576, 2304):
        batch: TokenBatch = made_up(shape(tokens, features="gaussian"), CPU)
        with Counting() as counting:
            pipeline_for(case, KEEP, prior_file)(batch, "host")
        counts.append(counting.ops)
    assert counts[1] < 2 * counts[0]
