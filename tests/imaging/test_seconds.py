"""How long imaging jobs are told to take before the first has run."""

from __future__ import annotations

from typing import Any

import pytest

from surgeline.imaging.cube import clean_cube
from surgeline.imaging.onejob import clean_in_one_job
from surgeline.imaging.seconds import seconds_of_dirty, seconds_of_major_cycle, seconds_of_one_job

IMAGE = {"vis": "my.ms", "imagename": "my", "imsize": 512}
CUBE = {**IMAGE, "specmode": "cube", "nchan": 60, "start": 0, "niter": 100}


@pytest.mark.parametrize(
    "longer",
    [
        {"imsize": 4096},
        {"gridder": "wproject", "wprojplanes": 32},
        {"gridder": "mosaic"},
        {"niter": 100},
        {"niter": 100, "nmajor": 20},
        {"specmode": "cube", "nchan": 60},
    ],
)
def test_more_to_do_takes_longer(longer: dict[str, Any]) -> None:
    assert seconds_of_one_job({**IMAGE, **longer}, 10**7) > seconds_of_one_job(IMAGE, 10**7)


def test_visibilities_are_what_takes_the_time_of_large_data() -> None:
    for estimate in (seconds_of_dirty, seconds_of_major_cycle):
        assert 9 < estimate(IMAGE, 10**10) / estimate(IMAGE, 10**9) < 11
        assert estimate(CUBE, 10**7, 60) > estimate(CUBE, 10**7, 30)


def test_each_part_of_a_cube_tells_of_its_own_share() -> None:
    whole, parts = (
        [job.declared.estimated_seconds for job in next(clean_cube(CUBE, workers, visibilities=10**9))]
        for workers in (1, 4)
    )
    assert len(parts) == 4 and all(0.25 < part / whole[0] < 0.3 for part in parts)
    # Of what nothing is known nothing is told.
    assert [job.declared.estimated_seconds for job in next(clean_cube(CUBE, 1))] == [None]


def test_one_job_tells_of_all_and_an_mpi_session_of_nothing() -> None:
    (job,) = next(clean_in_one_job(IMAGE, visibilities=10**8))
    assert job.declared.estimated_seconds == seconds_of_one_job(IMAGE, 10**8)
    (job,) = next(clean_in_one_job(IMAGE, mpi=True, visibilities=10**8))
    assert job.declared.estimated_seconds is None
