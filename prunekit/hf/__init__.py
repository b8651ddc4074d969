"""Attaching to transformers models by hooks on one model object, all taken off again; no class is patched.

with attach(model, Cut(select, layer=2)) as pruning:
    output = model.generate(**inputs)
print(pruning.report())
"""

from prunekit.hf.adapters import Family
from prunekit.hf.attachment import Attachment, Positions, attach
from prunekit.hf.clock import timed
from prunekit.hf.cut import Cut, Select
from prunekit.hf.decoder import find_decoder
from prunekit.hf.grids import Adapter, GenericAdapter, Grid
from prunekit.hf.models import LoadedModel, decoder_shape, load, prompt_inputs, silence
from prunekit.hf.pruning import Pruning
from prunekit.hf.report import Report, Saving

__all__ = [
    "Adapter",
    "Attachment",
    "Cut",
    "Family",
    "GenericAdapter",
    "Grid",
    "LoadedModel",
    "Positions",
    "Pruning",
    "Report",
    "Saving",
    "Select",
    "attach",
    "decoder_shape",
    "find_decoder",
    "load",
    "prompt_inputs",
    "silence",
    "timed",
]
