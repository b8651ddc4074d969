"""The type checker that conftest hangs on every function of prunekit, so that each test is a shape test."""

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep673Exception


def checked(thing):
    """`thing` with its annotations enforced.

    Left as they are: methods that say `Self`, which beartype cannot see without their class, and functions
    inside functions, whose checks would be compiled anew at every call.
    """
    if "<locals>" in thing.__qualname__:
        return thing
    try:
        return beartype(thing)
    except BeartypeDecorHintPep673Exception:
        return thing
