"""Writing files whole or not at all: whoever reads one never sees half of it."""

from __future__ import annotations

import os
from pathlib import Path

from prunekit.errors import ConfigError


def check_place(file: Path) -> None:
    """Refuses a place that cannot become a file, before any work is done for it.

    Raises:
        ConfigError: It is a folder or a device, or lies in something that is no folder.
    """
    if file.is_dir() or not file.name:
        raise ConfigError(f"{str(file)!r} is a folder; name a file in it.")
    if file.exists() and not file.is_file():
        raise ConfigError(f"{str(file)!r} is no ordinary file, and would be replaced by one; name another.")
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"{str(file)!r} cannot be written: {str(above)!r} is no folder to write to.")


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
