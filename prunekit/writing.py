"""Writing files whole or not at all: whoever reads one never sees half of it."""

from __future__ import annotations

import os
from pathlib import Path

from prunekit.errors import ConfigError


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file beside its place, then moves it there; makes missing folders.

    Raises:
        ConfigError: The place cannot be written to.
    """
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(file)
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be written: {error.strerror}.") from error
    finally:
        if unfinished.is_file():
            unfinished.unlink()
