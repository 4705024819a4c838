"""What CASA computes for a job does not depend on the epochs that its process had to do with before."""

from __future__ import annotations

import pytest

from surgeline.work.epochs import forget_epochs


def azimuths(*epochs: str) -> list[float]:
    """The azimuth of one direction at the VLA, at one epoch after the other, in radians."""
    from casatools import measures

    tool = measures()
    found = []
    for epoch in epochs:
        tool.doframe(tool.epoch("UTC", epoch))
        tool.doframe(tool.observatory("VLA"))
        seen = tool.measure(tool.direction("J2000", "15h22m00s", "5d04m00s"), "AZEL")
        found.append(seen["m0"]["value"])
    return found


@pytest.mark.usefixtures("casa")
def test_an_epoch_half_an_hour_before_leaves_no_trace() -> None:
    earlier, later = "1995/04/13/08:00:00", "1995/04/13/08:30:00"
    forget_epochs()
    (alone,) = azimuths(later)
    forget_epochs()
    remembered = azimuths(earlier, later)[-1]
    assert remembered != alone, "CASA has ceased to remember: there is nothing to forget"
    forget_epochs()
    (forgotten,) = azimuths(later)
    assert forgotten == alone
