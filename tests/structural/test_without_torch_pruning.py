"""Without the extra, what needs it says so; the rest works."""

import sys

import pytest
import torch
from torch import nn

import prunekit as pk
from prunekit_plugins.structural import prune


def test_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(pk.MissingExtra, match=r"pip install 'prunekit\[structural\]'"):
        prune(network, torch.randn(2, 4), pk.load("magnitude"))
