"""How fast one client may ask, so that others are answered, too, and no token is found by trying."""

from __future__ import annotations

import time
from collections import OrderedDict

# A page of a weblog with all its pictures is some hundred requests.
_AT_ONCE = 1000.0
_A_SECOND = 100.0
# One that was refused counts as so many: some ten a second.
REFUSED = 10.0
_MOST_CLIENTS = 10_000


class Pace:
    """What each client has left of its allowance, which fills again with time."""

    def __init__(self) -> None:
        # By address: how many requests it has left, and when that was so; those that asked last come last.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def seconds_to_wait(self, client: str) -> float:
        """How long a client has to wait before it may ask; 0: it may now."""
        return max(0.0, 1.0 - self._now(client)) / _A_SECOND

    def count(self, client: str, requests: float = 1.0) -> None:
        """Count a client's request, or one that counts as many."""
        self._left[client] = (self._now(client) - requests, time.monotonic())
        self._left.move_to_end(client)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)

    def _now(self, client: str) -> float:
        left, when = self._left.get(client, (_AT_ONCE, 0.0))
        return min(_AT_ONCE, left + (time.monotonic() - when) * _A_SECOND)
