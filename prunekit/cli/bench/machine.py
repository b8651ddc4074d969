"""What is said about the machine on the command line: a device, threads, a name among names."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch

from prunekit.errors import ConfigError, UnknownName, nearest


def device_named(name: str) -> torch.device:
    """A device that torch can use.

    Raises:
        ConfigError: It is none, or not here.
    """
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise ConfigError(f"--device {name}: write cpu, cuda or cuda:1.")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"--device {name}: torch cannot use it here: {reason}") from error
    return device


@contextmanager
def using_threads(count: int) -> Generator[None]:
    """Lets torch use so many threads inside the block."""
    outer = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(outer)


def known(option: str, names: Sequence[str], valid: Sequence[str]) -> Sequence[str]:
    """The names, if all of them are valid.

    Raises:
        UnknownName: One is not; the option it was given to, and the nearest valid one.
    """
    for name in names:
        if name not in valid:
            raise UnknownName(f"{option}: there is no {name!r}. {nearest(name, valid)}")
    return names
