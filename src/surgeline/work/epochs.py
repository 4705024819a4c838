"""What CASA's measures remember of earlier epochs, by which pixels depend on what a process did before."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

# So far from any data that nothing known of it is taken for them, and within the tables of the Earth's rotation.
_FAR = "1975/01/01/00:00:00"


def forget_epochs() -> None:
    """Have CASA begin as in a process that has not converted any time or direction yet.

    casacore keeps UT1-UTC of the last epoch that it was asked of, and takes it for all within 0.04 days
    (MeasTable::dUT1 in MeasTable.cc). So frequencies and directions of a job would depend, in their last bits, on
    whether its process had data of the same hour before: pixels on which worker has the job, by 1e-8 of the peak.

    A process without CASA has nothing to forget.
    """
    if "casatools" not in sys.modules:
        return
    tool = _measures()
    far = tool.epoch("UTC", _FAR)
    # Nothing is read for it where no other epoch was asked of since.
    tool.measure(far, "UT1")


@cache
def _measures() -> Any:
    from casatools import measures

    return measures()
