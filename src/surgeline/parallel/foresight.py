"""What a cluster is told of what comes next."""

from __future__ import annotations

from dataclasses import dataclass

from surgeline.clusters.surge import Ahead


@dataclass(frozen=True)
class Foreseen:
    """What comes after the jobs that there are.

    Attributes:
        at_work: whether a stage that runs now may have more jobs.
        ahead: what the stages that come next ask for.
    """

    at_work: bool
    ahead: tuple[Ahead, ...] = ()


NOTHING_MORE = Foreseen(at_work=False)
