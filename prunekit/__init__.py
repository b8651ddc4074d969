"""prunekit: modular visual-token pruning for multimodal models.

import prunekit as pk

pipeline = pk.load("d2pruner-grounding").swap(budget=64)
with pipeline.attach(model) as pruning:
    output = model.generate(**inputs, max_new_tokens=64)
print(pruning.report())
"""

from prunekit.blocks import At
from prunekit.errors import (
    ConfigError,
    MissingExtra,
    MissingPrior,
    PluginError,
    PrunekitError,
    TokenError,
    UnknownName,
    UnsupportedModel,
)
from prunekit.files import load, to_yaml
from prunekit.graph import AllOf, AnyOf, Graph, ImplicitGraph, Known, NoEdges, Pick, SparseGraph, blend
from prunekit.hookspecs import hookimpl
from prunekit.pipeline import Pipeline
from prunekit.prior import Prior
from prunekit.registry import Registry, installed
from prunekit.signals import (
    Distance,
    InputFeatures,
    JointFeatures,
    JointTexts,
    Keys,
    PaddedShare,
    Signal,
    Sizes,
    TextAttention,
    TextFeatures,
    TextKeys,
    TextRows,
    VisionAttention,
    VisionKeys,
    WeightGradient,
)
from prunekit.stages import (
    BiasEstimator,
    GraphBuilder,
    ImportanceScorer,
    Merger,
    Pairs,
    Selector,
    Site,
    Stage,
    Where,
)
from prunekit.tokens import (
    Bias,
    Candidates,
    Explanation,
    Growth,
    Kept,
    Removal,
    Room,
    Scores,
    Selection,
    TokenBatch,
)

__all__ = [
    "AllOf",
    "AnyOf",
    "At",
    "Bias",
    "BiasEstimator",
    "Candidates",
    "ConfigError",
    "Distance",
    "Explanation",
    "Graph",
    "GraphBuilder",
    "Growth",
    "ImplicitGraph",
    "ImportanceScorer",
    "InputFeatures",
    "JointFeatures",
    "JointTexts",
    "Kept",
    "Keys",
    "Known",
    "Merger",
    "MissingExtra",
    "MissingPrior",
    "NoEdges",
    "PaddedShare",
    "Pairs",
    "Pick",
    "Pipeline",
    "PluginError",
    "Prior",
    "PrunekitError",
    "Registry",
    "Removal",
    "Room",
    "Scores",
    "Selection",
    "Selector",
    "Signal",
    "Site",
    "Sizes",
    "SparseGraph",
    "Stage",
    "TextAttention",
    "TextFeatures",
    "TextKeys",
    "TextRows",
    "TokenBatch",
    "TokenError",
    "UnknownName",
    "UnsupportedModel",
    "VisionAttention",
    "VisionKeys",
    "WeightGradient",
    "Where",
    "blend",
    "hookimpl",
    "installed",
    "load",
    "to_yaml",
]
