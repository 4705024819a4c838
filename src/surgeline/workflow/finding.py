"""One thing that `surgeline doctor` examined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What was found of a thing.

    Attributes:
        what: the thing.
        state: ok; warning: sessions run, though not as well as they might; bad: sessions, or those that need it,
            fail; not here: it is not installed or not in reach, which is no fault.
        found: what it is like.
        way_out: what to do about it.
    """

    what: str
    state: Literal["ok", "warning", "bad", "not here"]
    found: str
    way_out: str = ""

    @property
    def well(self) -> bool:
        """Whether nothing has to be mended."""
        return self.state != "bad"


def judged(what: str, well: bool, found: str, way_out: str) -> Finding:
    """A thing that is either well or bad."""
    return Finding(what, "ok", found) if well else Finding(what, "bad", found, way_out)
