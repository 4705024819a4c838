from __future__ import annotations

from report.reported import START, a_job, a_stage
from surgeline.report.timeline import RunningTime, draw


def page(stage: int, job: int) -> str:
    return f"stage {stage}, job {job}"


def test_pauses_between_sessions_take_no_room() -> None:
    sessions = [{"started": 100.0, "ended": 150.0}, {"started": 90_000.0, "ended": 90_050.0}]
    time = RunningTime({"sessions": sessions}, now=0.0)
    moments = (100, 125, 150, 5000, 90_000, 90_050)
    assert [time.percent(moment) for moment in moments] == [0, 25, 50, 50, 50, 100]


def test_a_session_that_crashed_ended_with_its_last_job() -> None:
    sessions = [{"started": 100.0, "ended": None}, {"started": 90_000.0, "ended": 90_050.0}]
    stages = [a_stage("a", jobs=[a_job("a", 110.0, 40.0, 0), a_job("b", 90_000.0, 50.0, 0)])]
    assert RunningTime({"sessions": sessions, "stages": stages}, now=0.0).total == 100


def test_stages_side_by_side_have_lanes_of_their_own() -> None:
    stages = [
        a_stage("a", started=START, ended=START + 10),
        a_stage("b", started=START + 5, ended=START + 20),
        a_stage("c", started=START + 10, ended=START + 20),
    ]
    record = {"sessions": [{"started": START, "ended": START + 20}], "stages": stages}
    timeline = draw(record, START + 20, page)
    assert timeline is not None
    assert [[bar.label for bar in lane.bars] for lane in timeline.stages] == [["a", "c"], ["b"]]
    assert (timeline.stages[1].bars[0].left, timeline.stages[1].bars[0].width) == (25, 75)


def test_jobs_that_run_and_wait_are_counted_over_time() -> None:
    jobs = [
        a_job("a", START + 2.0, 8.0, 0, submitted=START),
        a_job("b", START + 2.0, 8.0, 1, submitted=START),
        a_job("c", START + 10.0, 10.0, 0, submitted=START),
    ]
    stages = [a_stage("a", started=START, ended=START + 20, jobs=jobs)]
    record = {"sessions": [{"started": START, "ended": START + 20}], "stages": stages}
    timeline = draw(record, START + 20, page)
    assert timeline is not None
    assert (timeline.load.most_running, timeline.load.most_waiting) == (2, 3)
    # Up to two at a tenth of the time, down to one at its half, to the fifth of a percent.
    assert timeline.load.running == "M0 3H10V1H50.2V2H100V3Z"


def test_a_job_leads_to_where_it_is_told_of() -> None:
    stages = [a_stage("a b", started=START, ended=START + 20, jobs=[a_job("a", START, 8.0, 0)])]
    timeline = draw({"sessions": [{"started": START, "ended": START + 20}], "stages": stages}, START + 20, page)
    assert timeline is not None
    assert timeline.workers[0].bars[0].target == "stage 0, job 0"
