"""Whose turn it is: a model that is attached to runs in one thread at a time."""

from __future__ import annotations

import threading

from prunekit.errors import PrunekitError


class Turn:
    """Taken by the thread that runs the model, as often as it likes, and given back as often."""

    def __init__(self) -> None:
        self._owner: int | None = None
        self._taken = 0

    def take(self) -> None:
        """Makes it this thread's turn.

        Raises:
            PrunekitError: It is another's.
        """
        here = threading.get_ident()
        if self._owner not in (None, here):
            raise PrunekitError(
                "Another thread runs this model inside the block, and what a pass prunes is noted in one "
                "place. Run one at a time, with a lock around each call."
            )
        self._owner = here
        self._taken += 1

    def give_back(self) -> bool:
        """Ends it once, and says whether it was this thread's."""
        if self._owner != threading.get_ident():
            return False
        self._taken -= 1
        if not self._taken:
            self._owner = None
        return True
