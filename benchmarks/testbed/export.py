"""Writing the checkpoint folder: half-precision weights that load in single precision."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from benchmarks.testbed.processing import build_processor

_NEW_NAME, _OLD_NAME = "vision_tower.", "vision_tower.vision_model."


def export(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write model, tokenizer and processor, as `save_pretrained` does, with two changes.

    Weights are stored in float16 to halve the size, while the configuration asks for float32:
    a plain `from_pretrained` gives a model that a CPU runs fast and exactly. And the weights
    of the vision tower keep the names they have in published checkpoints, which all releases
    of transformers from 5.0 on read; recent ones write names that older ones do not know.

    Args:
        model: The trained model; left as it is.
        folder: Where to write; made if need be.
    """
    half: Any = copy.deepcopy(model).half()
    half.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    _keep_old_names(folder / "model.safetensors")
    config = folder / "config.json"
    config.write_text(json.dumps(_in_single(json.loads(config.read_text())), indent=2) + "\n")


def _keep_old_names(weights: Path) -> None:
    """Rename the vision tower's weights where they have the new names."""
    tensors = {
        name if _OLD_NAME in name else name.replace(_NEW_NAME, _OLD_NAME): tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def _in_single(node: Any) -> Any:
    """Replace every `dtype` in a nested configuration by float32."""
    if not isinstance(node, dict):
        return node
    return {key: "float32" if key == "dtype" else _in_single(value) for key, value in node.items()}
