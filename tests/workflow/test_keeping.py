from __future__ import annotations

from typing import Any

from surgeline import FunctionCall
from surgeline.work.jobs import Job, JobRequest
from surgeline.workflow.keeping import StageData


def request(task: str, **arguments: Any) -> Job:
    return JobRequest(task, {"vis": "data/my.ms", **arguments})


def kept(data: StageData, *jobs: Job) -> list[Any]:
    """The columns that are kept before some jobs; empty when nothing has to be."""
    return [job.arguments[2] for job in data.jobs_before(jobs) if isinstance(job, FunctionCall)]


def test_what_is_kept_already_is_not_kept_again() -> None:
    data = StageData("flag", 1)
    assert kept(data, request("flagdata", mode="manual")) == [("FLAG", "FLAG_ROW")]
    assert kept(data, request("flagdata", mode="clip")) == []
    assert kept(data, request("flagdata", mode="summary"), request("split", outputvis="part.ms")) == []


def test_a_later_state_keeps_what_earlier_ones_do_since_it_may_change_again() -> None:
    data = StageData("mixed", 1)
    kept(data, request("flagdata", mode="manual"))
    assert kept(data, request("setjy", usescratch=True)) == [("FLAG", "FLAG_ROW", "MODEL_DATA")]
    assert kept(data, request("flagdata", mode="clip")) == []


def test_what_may_change_anything_has_everything_kept() -> None:
    data = StageData("mixed", 1)
    anything = FunctionCall(print).declare(changes=["data/my.ms"])
    assert kept(data, request("setjy", usescratch=True), anything) == [None]
    assert kept(data, request("applycal", gaintable=["my.G"])) == []


def test_jobs_of_a_batch_that_change_one_ms_have_it_kept_once() -> None:
    data = StageData("mixed", 1)
    both = (request("setjy", usescratch=True), request("flagdata", mode="manual"))
    assert kept(data, *both) == [("FLAG", "FLAG_ROW", "MODEL_DATA")]


def ways_back(data: StageData, *jobs: Job) -> list[list[str]]:
    """From which states each of a batch of jobs finds its data put back where it has to run again."""
    data.jobs_before(jobs)
    return [[str(mend.arguments[0]) for mend in job.declared.mends] for job in data.with_way_back(jobs)]  # type: ignore[attr-defined]


def test_a_job_may_run_again_on_the_data_that_it_found_and_on_no_others() -> None:
    data = StageData("mixed", 1)
    ((state,),) = ways_back(data, request("flagdata", mode="tfcrop"))
    assert state.startswith("states/mixed.1/1.")
    # Now others have changed what was saved.
    assert ways_back(data, request("flagdata", mode="rflag")) == [[]]
    # A state that keeps more is of the data as they are now.
    ((state,),) = ways_back(data, request("setjy", usescratch=True))
    assert state.startswith("states/mixed.1/2.")


def test_of_two_that_change_the_same_at_once_neither_puts_it_back() -> None:
    assert ways_back(StageData("mixed", 1), request("flagdata"), request("flagdata")) == [[], []]
