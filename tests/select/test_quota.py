"""Quotas whose parts take first what another selector would."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit.kernels.parts import chunk_of, quotas, size_of
from prunekit.kernels.ranking import packed_key
from prunekit.testing import choices
from prunekit_plugins.select.mis import MIS
from prunekit_plugins.select.quota import Quota
from prunekit_plugins.select.top_k import TopK


@settings(max_examples=80)
@given(choices(), st.integers(1, 5))
def test_each_part_takes_of_an_independent_set_first(choice, chunks):
    """Slowly: in every part walk by falling score, look-alikes of what is taken wait to the end."""
    candidates, free = choice.candidates, choice.tokens.present & ~choice.kept
    part = chunk_of(choice.tokens.positions, choice.tokens.present, chunks)
    share = size_of(part, free) / free.sum(-1, keepdim=True).clamp(min=1)
    quota = quotas(share, part, free, choice.room, leftover="remainder")
    edges, key = candidates.graph.to_dense(), packed_key(choice.scores, free)
    wanted = choice.kept.clone()
    for sample, there in enumerate(free):
        queue = sorted(there.nonzero().flatten().tolist(), key=lambda token: -int(key[sample, token]))
        taken = []
        for token in queue:
            if not any(edges[sample, token, other] for other in taken):
                taken.append(token)
        left = {}
        for token in [*taken, *(token for token in queue if token not in taken)]:
            here = int(part[sample, token])
            left.setdefault(here, int(quota[sample, token]))
            if left[here]:
                left[here] -= 1
                wanted[sample, token] = True
    growth = Quota(part="chunk", chunks=chunks, first=MIS())(candidates, choice.kept, choice.room)
    assert torch.equal(growth.kept, wanted)
    assert growth.suppressing is None or not (growth.suppressing & ~growth.kept).any()


@settings(max_examples=40)
@given(choices(), st.integers(1, 5))
def test_the_best_first_is_the_best(choice, chunks):
    plain = Quota(part="chunk", chunks=chunks)(choice.candidates, choice.kept, choice.room)
    growth = Quota(part="chunk", chunks=chunks, first=TopK())(choice.candidates, choice.kept, choice.room)
    assert torch.equal(growth.kept, plain.kept)


def test_a_part_with_nothing_to_say_still_gets_its_least():
    detail = torch.zeros(1, 64)
    detail[0, :8] = 1
    tokens = pk.TokenBatch.grid(torch.ones(1, 64, 2), 8, 8)
    candidates = pk.Candidates(tokens, detail, pk.NoEdges(tokens.present))
    nobody = torch.zeros_like(tokens.present)
    for least, wanted in ((0, [12, 0, 0, 0]), (2, [6, 2, 2, 2])):
        stage = Quota(part="chunk", chunks=4, share="mean", least=least)
        kept = stage(candidates, nobody, torch.tensor([12])).kept
        assert kept[0].view(4, 16).sum(-1).tolist() == wanted
