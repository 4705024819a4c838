"""How many workers each cluster of a session has, by what has become of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workforce:
    """The workers of one cluster at a moment.

    Attributes:
        cluster: the cluster, as the configuration names it; or what runs jobs without one.
        there: how many are ready for jobs, or have one.
        starting: how many have a machine and are not ready yet.
        waiting: how many wait in a queue.
        reason: why these wait, in the scheduler's words; empty where it does not say, or none waits.
    """

    cluster: str
    there: int
    starting: int = 0
    waiting: int = 0
    reason: str = ""

    def __str__(self) -> str:
        told = [f"{self.there} there"] if self.there or not (self.starting or self.waiting) else []
        told += [f"{self.starting} starting"] if self.starting else []
        told += (
            [f"{self.waiting} in the queue" + (f" ({self.reason})" if self.reason else "")] if self.waiting else []
        )
        return f"{self.cluster}: {', '.join(told)}"
