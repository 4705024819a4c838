from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from surgeline.clusters.accounting import (
    Account,
    Accounts,
    Ran,
    Stay,
    account,
    name_of_place,
    stays_here,
    stays_in_queue_jobs,
)
from surgeline.clusters.fleet import Berth
from surgeline.work.resources import Resources


@dataclass(frozen=True)
class Size:
    """A worker class, as far as it matters here."""

    offers: Resources


CLASSES = {"small": Size(Resources(cores=1)), "gpu": Size(Resources(cores=4, gpus=2))}


def stay(worker: str = "1", cores: int = 1, gpus: int = 0, **times: float | None) -> Stay:
    return Stay(
        worker,
        cores,
        gpus,
        submitted=times.get("submitted", 0.0) or 0.0,
        started=times.get("started", 10.0),
        came=times.get("came", 12.0),
        ended=times.get("ended", 30.0) or 0.0,
    )


def test_a_worker_is_shared_out_among_stages_at_the_ends_of_its_jobs() -> None:
    found = account([stay(cores=2)], [Ran("cal", "1", 13, 18), Ran("image", "1", 21, 26)], 0, 40)
    assert found.stages == {
        # From its start in the queue to the end of the job.
        "cal": Account(workers=1, queued=10, asked=16, used=10, starting=4, idle=2),
        # And what came after it.
        "image": Account(asked=24, used=10, idle=14),
    }
    assert found.in_vain == Account()
    assert (found.peak_cores, found.fixed) == (2, 80)
    assert found.total.asked == 40 and found.ratio == 0.5


def test_a_worker_without_a_job_was_asked_for_in_vain() -> None:
    found = account([stay(), stay("2", started=None, came=None, ended=8)], [], 0, 30)
    assert found.stages == {}
    assert found.in_vain == Account(workers=2, queued=10 + 8, asked=20, starting=2, idle=18)
    # Who never got cores is not part of the peak.
    assert found.peak_cores == 1


def test_one_that_never_came_only_started() -> None:
    assert account([stay(came=None)], [], 0, 30).in_vain == Account(workers=1, queued=10, asked=20, starting=20)


def test_work_that_was_lost_with_its_worker_is_told_apart() -> None:
    # Of a job that was lost it is known since when it may have run, and that it cannot have before its worker came.
    jobs = [Ran("cal", "1", 1, 20, lost=True), Ran("cal", "2", 22, 25)]
    found = account([stay(ended=20), stay("2", started=20, came=22, ended=25)], jobs, 0, 25)
    assert found.stages == {"cal": Account(workers=2, queued=30, asked=15, used=3, lost=8, starting=4)}


def test_gpu_seconds_are_counted_where_there_are_any() -> None:
    found = account([stay(cores=4, gpus=2)], [Ran("image", "1", 15, 25)], 0, 50)
    image = found.stages["image"]
    assert (image.gpu_asked, image.gpu_used) == (40, 20)
    assert (found.peak_gpus, found.gpu_fixed) == (2, 100)


def test_the_peak_is_of_workers_at_one_time() -> None:
    stays = [
        stay("1", started=0, ended=10),
        stay("2", started=5, ended=10),
        stay("3", cores=4, started=10, ended=12),
        stay("4", started=12, ended=20),
    ]
    assert account(stays, [], 0, 20).peak_cores == 4


def test_clocks_that_differ_make_no_time_negative() -> None:
    jobs = [Ran("cal", "1", 8, 9), Ran("cal", "1", 9, 16), Ran("cal", "1", 16, 35)]
    found = account([stay()], jobs, 0, 30).stages["cal"]
    assert found.asked == found.used == 20
    assert found.starting == found.idle == 0


def test_what_workers_ask_is_what_they_use_lose_need_to_start_or_idle_away() -> None:
    jobs = [Ran("a", "1", 12.5, 14), Ran("b", "1", 13, 18), Ran("b", "2", 11, 12, lost=True), Ran("c", "2", 12, 31)]
    total = account([stay(cores=3), stay("2", came=None)], jobs, 0, 30).total
    assert total.asked == pytest.approx(total.used + total.lost + total.starting + total.idle)


def test_berths_and_the_workers_of_this_machine_are_accounted_alike() -> None:
    berths = [
        Berth("7_1", "small", 100, state="ended", started=110, came=115, ended=140),
        Berth("7_2", "gpu", 100, state="running", started=120, came=125),
        Berth("8", "small", 150),
    ]
    jobs = [
        Ran("cal", name_of_place("worker-slurm-7_1"), 115, 135),
        Ran("image", name_of_place("worker-slurm-7_2-r1"), 125, 160),
        Ran("plots", name_of_place("worker-0"), 130, 150),
    ]
    queued = stays_in_queue_jobs(berths, CLASSES, now=160)
    here = stays_here(2, 1, jobs, queued, began=100, came=105, now=160)
    found = account([*queued, *here], jobs, 100, 160)
    assert found.stages["cal"] == Account(workers=1, queued=10, asked=30, used=20, starting=5, idle=5)
    assert found.stages["image"].asked == 160
    assert found.stages["plots"] == Account(workers=1, asked=60, used=20, starting=5, idle=35)
    # The second worker here, and the one that still waits in the queue.
    assert found.in_vain == Account(workers=2, queued=10, asked=60, starting=5, idle=55)
    assert found.peak_cores == 1 + 4 + 2


def test_a_worker_here_that_was_replaced_is_counted_once() -> None:
    jobs = [Ran("cal", "tcp://127.0.0.1:4567", 1, 5, lost=True), Ran("cal", "worker-0", 6, 9)]
    here = stays_here(1, 1, jobs, [], began=0, came=1, now=10)
    assert [stay.worker for stay in here] == ["worker-0"]
    assert account(here, jobs, 0, 10).total.asked == 10


@pytest.mark.parametrize(
    ("worker", "place"),
    [
        ("worker-slurm-12", "12"),
        ("worker-slurm-12_3-r2", "12_3"),
        ("worker-htcondor-12.0", "12.0"),
        ("worker-htcondor-12.0-r1", "12.0"),
        ("worker-3", "worker-3"),
        ("session", "session"),
    ],
)
def test_a_worker_is_known_by_its_queue_job(worker: str, place: str) -> None:
    assert name_of_place(worker) == place


def test_sessions_add_up_and_survive_the_record() -> None:
    first = account([stay()], [Ran("cal", "1", 13, 18)], 0, 40)
    second = account([stay(cores=2)], [Ran("cal", "1", 13, 18), Ran("image", "1", 18, 20)], 0, 30)
    both = Accounts.from_json(json.loads(json.dumps((first + second).as_json())))
    assert both == first + second
    assert both.stages["cal"].used == 5 + 10
    assert both.peak_cores == 2
    # Each session would have had an allocation of its own.
    assert both.fixed == 40 + 60
    with pytest.raises(ValueError, match="no accounts"):
        Accounts.from_json({"stages": {"cal": {"asked": 1, "wanted": 2}}})


def test_the_line_for_people_says_what_was_asked_what_for_and_what_it_was_worth() -> None:
    assert str(account([stay()], [Ran("cal", "1", 13, 18)], 0, 40)) == (
        "20 core-seconds (5 used, 13 idle, 2 starting); 0.50 of what 1 core all the time would have cost"
    )
    long = account([stay(cores=16, gpus=1, ended=3610.0)], [Ran("cal", "1", 12, 3610)], 0, 3610)
    assert str(long) == (
        "16.0 core-hours (16.0 used, 0.0 idle, 0.0 starting); 3600 GPU-seconds, 3598 used; "
        "1.00 of what 16 cores all the time would have cost"
    )
    assert str(account([], [], 0, 10)) == "no worker was asked for"
