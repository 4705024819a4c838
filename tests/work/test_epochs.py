"""What a job makes does not depend on what its process did before."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from surgeline.simulate import Simulation, simulate
from surgeline.work.execution import execute
from surgeline.work.jobs import JobRequest
from surgeline.work.surroundings import Surroundings


def convert_a_time(utc: str) -> None:
    """Have CASA convert a time, as any work on data of that time does."""
    from casatools import measures

    tool = measures()
    tool.measure(tool.epoch("UTC", utc), "UT1")
    tool.done()


def residual(imagename: Path) -> Any:
    from casatools import image

    with closing(image()) as tool:
        tool.open(f"{imagename}.residual")
        return tool.getchunk()


def test_pixels_do_not_depend_on_the_times_of_data_that_the_process_had_before(tmp_path: Path, casa: Path) -> None:
    vis = tmp_path / "my.ms"
    # The target is observed from 6:54 to 6:58.
    simulate(vis, Simulation(antennas=8, channels=20, integration_seconds=120, target_scans=1))
    found = []
    for number, before in enumerate(("2024/04/30/06:15", "2024/04/30/07:35", "2011/01/01/00:00")):
        convert_a_time(before)
        arguments = {"imagename": str(tmp_path / f"{number}"), "field": "TARGET", "datacolumn": "data", "imsize": 48,
                     "cell": "20arcsec", "specmode": "cube", "nchan": 4, "start": 8, "niter": 20}  # fmt: skip
        outcome = execute(JobRequest("tclean", {"vis": str(vis), **arguments}), Surroundings("here"))
        assert outcome.ok, outcome.failure
        found.append(residual(tmp_path / f"{number}"))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
