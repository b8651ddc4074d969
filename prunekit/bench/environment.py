"""Where something was measured."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def environment(device: torch.device, threads: int) -> dict[str, str | int]:
    """The machine and the versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "threads": threads,
        "prunekit": version("prunekit"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }


def _processor() -> str:
    """The model of the processor, where the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
