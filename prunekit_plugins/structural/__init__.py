"""Structural pruning: weights as tokens. The tokens are the channels that a group of layers shares."""

from prunekit_plugins.structural.pruning import Pruned, prune
from prunekit_plugins.structural.report import Report, Thinned, Whole

__all__ = ["Pruned", "Report", "Thinned", "Whole", "prune"]
