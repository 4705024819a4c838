from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from surgeline import Resources
from surgeline.clusters.surge import STARTUP_SECONDS, Ahead, Decision, Demand, Headcount, Unserved, decide


@dataclass(frozen=True)
class Kind:
    name: str
    offers: Resources
    maximum: int = 10
    minimum: int = 0


SMALL = Kind("small", Resources(memory="4GB"))
FAT = Kind("fat", Resources(cores=8, memory="64GB"))
GPU = Kind("gpu", Resources(cores=4, memory="32GB", gpus=1))
CLASSES = (GPU, FAT, SMALL)
CALIBRATION = Resources(memory="2GB")
IMAGING = Resources(cores=8, memory="40GB")
GRIDDING = Resources(gpus=1)


def numbers(decision: Decision) -> tuple[int, int, int]:
    """How many small, fat and GPU workers."""
    return (
        decision.wanted["small"].workers,
        decision.wanted["fat"].workers,
        decision.wanted["gpu"].workers,
    )


# What waits


def test_each_job_asks_for_a_worker_of_the_smallest_class_in_which_it_fits() -> None:
    demands = [Demand(CALIBRATION, waiting=5), Demand(IMAGING, waiting=2), Demand(GRIDDING, waiting=1)]
    assert numbers(decide(CLASSES, demands, {})) == (5, 2, 1)


def test_workers_in_the_queue_are_not_asked_for_twice() -> None:
    present = {"small": Headcount(busy=2, queued=3)}
    assert numbers(decide(CLASSES, [Demand(CALIBRATION, waiting=4, running=2)], present)) == (6, 0, 0)


def test_idle_workers_of_larger_classes_serve_jobs_and_no_others_are_asked_for() -> None:
    present = {"fat": Headcount(idle=2), "gpu": Headcount(idle=1)}
    assert numbers(decide(CLASSES, [Demand(CALIBRATION, waiting=3)], present)) == (0, 2, 1)
    assert numbers(decide(CLASSES, [Demand(CALIBRATION, waiting=5)], present)) == (2, 2, 1)


def test_idle_workers_go_to_the_jobs_that_need_them_most() -> None:
    present = {"fat": Headcount(idle=1)}
    demands = [Demand(CALIBRATION, waiting=1), Demand(IMAGING, waiting=1)]
    assert numbers(decide(CLASSES, demands, present)) == (1, 1, 0)


def test_jobs_that_need_no_gpu_ask_for_none_but_where_nothing_else_fits() -> None:
    full = replace(SMALL, maximum=1)
    assert numbers(decide((full, FAT, GPU), [Demand(CALIBRATION, waiting=3)], {})) == (1, 0, 0)
    assert decide([GPU], [Demand(CALIBRATION, waiting=3)], {}).wanted["gpu"].workers == 3
    without = [replace(SMALL, maximum=0), replace(FAT, maximum=0), GPU]
    assert numbers(decide(without, [Demand(CALIBRATION, waiting=3)], {})) == (0, 0, 3)


def test_a_job_that_takes_longer_than_the_walltime_of_a_class_goes_to_another() -> None:
    short = Kind("short", Resources(walltime="1h"))
    long = Kind("long", Resources(walltime="1d", memory="4GB"))
    day = Demand(Resources(walltime="10h"), waiting=2)
    decision = decide([short, long], [day, Demand(Resources(walltime="10m"), waiting=1)], {})
    assert {name: wanted.workers for name, wanted in decision.wanted.items()} == {"long": 3, "short": 0}
    assert decide([short], [day], {}).unserved == (
        Unserved(day.asked, 2, "no class of workers offers so much", for_ever=True),
    )


# Short jobs


@pytest.mark.parametrize(
    ("waiting", "running", "seconds", "workers"),
    [
        (100, 0, 0.1, 1),
        (100, 0, 1.0, 10),
        (20, 0, 1.0, 2),
        (20, 0, 9.0, 18),
        (20, 0, 10.0, 20),
        (20, 0, None, 20),
        (1, 0, 0.01, 1),
        (0, 3, 0.01, 3),
        # Those that run the others will be done with these before another had started.
        (20, 4, 0.1, 4),
        (76, 4, 1.0, 8),
    ],
)
def test_a_worker_has_at_least_as_much_to_do_as_it_takes_to_start(
    waiting: int, running: int, seconds: float | None, workers: int
) -> None:
    present = {"small": Headcount(busy=running)}
    decision = decide([replace(SMALL, maximum=50)], [Demand(CALIBRATION, waiting, running, seconds)], present)
    assert decision.wanted["small"].workers == workers


def test_short_jobs_that_ask_for_different_things_share_workers_where_they_fit_alike() -> None:
    demands = [Demand(Resources(memory=10**9 + number), waiting=2, seconds=0.5) for number in range(20)]
    assert numbers(decide(CLASSES, demands, {})) == (2, 0, 0)


def test_a_worker_that_starts_quickly_is_worth_less_work() -> None:
    demand = Demand(CALIBRATION, waiting=8, seconds=1.0)
    assert decide([SMALL], [demand], {}, startup_seconds=2.0).wanted["small"].workers == 4
    assert decide([SMALL], [demand], {}, startup_seconds=0.0).wanted["small"].workers == 8


# Down again


def test_as_the_queue_drains_idle_workers_go_and_busy_ones_stay() -> None:
    present = {"small": Headcount(idle=3, busy=4), "fat": Headcount(idle=1)}
    assert numbers(decide(CLASSES, [Demand(CALIBRATION, waiting=0, running=4)], present)) == (4, 0, 0)
    assert numbers(decide(CLASSES, [Demand(CALIBRATION, waiting=2, running=4)], present)) == (6, 0, 0)


def test_workers_in_the_queue_for_which_there_is_nothing_to_do_any_more_are_withdrawn() -> None:
    decision = decide(CLASSES, [], {"small": Headcount(queued=5)})
    assert numbers(decision) == (0, 0, 0)
    assert decision.wanted["small"].reason == "nothing needs any"


# Look-ahead


def test_idle_workers_that_the_next_stage_will_use_are_kept_and_no_others() -> None:
    present = {"small": Headcount(idle=3, busy=2), "gpu": Headcount(idle=2), "fat": Headcount(idle=1)}
    running = [Demand(CALIBRATION, waiting=0, running=2)]
    assert numbers(decide(CLASSES, running, present, [Ahead(CALIBRATION, jobs=4)])) == (4, 0, 0)
    assert numbers(decide(CLASSES, running, present, [Ahead(IMAGING, jobs=1)])) == (2, 1, 0)


def test_the_next_stages_workers_are_asked_for_once_nothing_waits_any_more() -> None:
    present = {"small": Headcount(busy=3)}
    ahead = [Ahead(CALIBRATION, jobs=5), Ahead(IMAGING, jobs=2)]
    assert numbers(decide(CLASSES, [Demand(CALIBRATION, waiting=1, running=3)], present, ahead)) == (4, 0, 0)
    assert numbers(decide(CLASSES, [Demand(CALIBRATION, waiting=0, running=3)], present, ahead)) == (5, 2, 0)
    assert numbers(decide(CLASSES, [], {}, ahead)) == (5, 2, 0)


def test_those_asked_for_ahead_stay_in_the_queue_when_the_present_stage_has_more_jobs() -> None:
    present = {"small": Headcount(busy=3), "fat": Headcount(queued=2)}
    ahead = [Ahead(IMAGING, jobs=2)]
    assert numbers(decide(CLASSES, [Demand(CALIBRATION, waiting=4, running=3)], present, ahead)) == (7, 2, 0)


def test_of_a_next_stage_of_unknown_width_all_that_fits_is_kept_and_one_worker_asked_for_if_there_is_none() -> None:
    unknown = [Ahead(IMAGING, jobs=None)]
    present = {"fat": Headcount(idle=4), "small": Headcount(idle=4)}
    assert numbers(decide(CLASSES, [], present, unknown)) == (0, 4, 0)
    assert numbers(decide(CLASSES, [], {}, unknown)) == (0, 1, 0)
    busy = {"fat": Headcount(busy=1)}
    assert numbers(decide(CLASSES, [Demand(IMAGING, waiting=0, running=1)], busy, unknown)) == (0, 1, 0)


def test_stages_of_known_and_unknown_width_that_come_next_do_not_ask_for_more_and_more() -> None:
    ahead = [Ahead(CALIBRATION, jobs=None), Ahead(CALIBRATION, jobs=5)]
    assert numbers(decide([*CLASSES], [], {"small": Headcount(queued=6)}, ahead)) == (6, 0, 0)


def test_a_next_stage_of_short_jobs_has_few_workers_asked_for() -> None:
    assert numbers(decide(CLASSES, [], {}, [Ahead(CALIBRATION, jobs=50, seconds=0.5)])) == (2, 0, 0)


def test_what_begins_later_than_workers_come_is_not_asked_for_yet_and_far_later_not_kept() -> None:
    idle = {"small": Headcount(idle=2)}

    def workers(begins_in: float, queue_seconds: float) -> int:
        ahead = [Ahead(CALIBRATION, jobs=5, begins_in=begins_in)]
        decision = decide([SMALL], [], idle, ahead, startup_seconds=60.0, queue_seconds=queue_seconds)
        return decision.wanted["small"].workers

    assert [workers(begins_in, 0.0) for begins_in in (50.0, 500.0, 5000.0)] == [5, 2, 0]
    # Where the queue is long they are asked for early.
    assert [workers(begins_in, 4000.0) for begins_in in (50.0, 500.0, 4000.0, 5000.0)] == [5, 5, 5, 0]


# Limits


def test_no_class_gets_more_than_its_maximum_or_fewer_than_its_minimum() -> None:
    classes = (replace(SMALL, maximum=3, minimum=1), replace(FAT, minimum=2), GPU)
    assert numbers(decide(classes, [Demand(CALIBRATION, waiting=9)], {})) == (3, 2, 0)
    assert numbers(decide(classes, [], {})) == (1, 2, 0)


def test_the_clusters_maximum_is_shared_among_those_that_wait() -> None:
    demands = [Demand(CALIBRATION, waiting=100), Demand(GRIDDING, waiting=1), Demand(IMAGING, waiting=5)]
    assert numbers(decide(CLASSES, demands, {}, maximum=5)) == (2, 2, 1)


def test_idle_workers_that_take_others_room_are_to_go_first() -> None:
    present = {"small": Headcount(idle=4)}
    decision = decide(CLASSES, [Demand(IMAGING, waiting=2)], present, maximum=4)
    assert numbers(decision) == (0, 2, 0)
    assert decision.crowded
    assert not decide(CLASSES, [Demand(IMAGING, waiting=2)], present, maximum=6).crowded


def test_jobs_without_any_worker_since_others_take_all_room_are_named() -> None:
    present = {"small": Headcount(busy=2)}
    demands = [Demand(CALIBRATION, waiting=5, running=2), Demand(IMAGING, waiting=3)]
    decision = decide(CLASSES, demands, present, maximum=2)
    assert decision.unserved == (Unserved(IMAGING, 3, "2 is the cluster's maximum", for_ever=False),)


def test_no_worker_is_asked_for_that_the_core_hours_left_do_not_pay() -> None:
    # A fat worker takes 10 s to start and 100 s for a job, on 8 cores: 880 core-seconds.
    demand = Demand(IMAGING, waiting=5, seconds=100.0)
    assert numbers(decide(CLASSES, [demand], {}, core_seconds_left=5 * 880.0)) == (0, 5, 0)
    decision = decide(CLASSES, [demand], {}, core_seconds_left=2 * 880.0)
    assert numbers(decision) == (0, 2, 0)
    assert decision.wanted["fat"].reason == "2 for 5 waiting jobs; the core-hours left do not pay for more"
    # Those that run have to be paid, too.
    busy = replace(demand, running=1)
    assert numbers(decide(CLASSES, [busy], {"fat": Headcount(busy=1)}, core_seconds_left=2 * 880.0)) == (0, 2, 0)


def test_without_core_hours_left_busy_workers_go_on_and_all_others_go() -> None:
    classes = (replace(SMALL, minimum=2), FAT, GPU)
    present = {"small": Headcount(idle=2, busy=1), "fat": Headcount(queued=1)}
    demands = [Demand(CALIBRATION, waiting=5, running=1), Demand(IMAGING, waiting=1)]
    decision = decide(classes, demands, present, [Ahead(CALIBRATION, None)], core_seconds_left=0.0)
    assert numbers(decision) == (1, 0, 0)
    assert [(jobs.asked, jobs.for_ever) for jobs in decision.unserved] == [(IMAGING, False)]
    alone = decide(classes, [Demand(IMAGING, waiting=1)], {}, core_seconds_left=0.0)
    assert alone.unserved == (Unserved(IMAGING, 1, "the core-hours left do not pay for more", for_ever=True),)


def test_a_job_of_unknown_length_may_take_as_long_as_it_asks_for() -> None:
    hour = Demand(Resources(walltime="1h"), waiting=1)
    assert decide([SMALL], [hour], {}, core_seconds_left=3600.0).wanted["small"].workers == 0
    assert decide([SMALL], [hour], {}, core_seconds_left=3700.0).wanted["small"].workers == 1


# Reasons


def test_people_are_told_why_in_a_few_words() -> None:
    classes = (replace(SMALL, maximum=6), replace(FAT, minimum=1), GPU)
    present = {"small": Headcount(busy=4), "gpu": Headcount(idle=2)}
    demands = [Demand(CALIBRATION, waiting=20, running=4)]
    decision = decide(classes, demands, present, [Ahead(GRIDDING, 2)])
    assert {name: wanted.reason for name, wanted in decision.wanted.items()} == {
        "small": "4 at work, 2 for 20 waiting jobs; 6 is the maximum of its class",
        "fat": "1 kept as its minimum",
        "gpu": "2 for 20 waiting jobs",
    }
    finishing = decide(classes, [Demand(CALIBRATION, 0, running=4)], present, [Ahead(GRIDDING, 3)], maximum=8)
    assert {name: wanted.reason for name, wanted in finishing.wanted.items()} == {
        "small": "4 at work",
        "fat": "1 kept as its minimum",
        "gpu": "2 kept for the next stage, 1 asked for ahead of the next stage",
    }


# What holds whatever is asked


@dataclass(frozen=True)
class Case:
    classes: list[Kind]
    demands: list[Demand]
    present: dict[str, Headcount]
    ahead: list[Ahead]
    maximum: int | None
    core_seconds_left: float | None

    def decision(self) -> Decision:
        return decide(self.classes, self.demands, self.present, self.ahead, self.maximum, self.core_seconds_left)


def drawn(seed: int) -> Case:
    """A cluster, its workers and what is asked of it, at random."""
    dice = random.Random(seed)

    def some_resources(most_cores: int, most_memory: int) -> Resources:
        return Resources(
            cores=dice.randint(1, most_cores),
            memory=dice.choice([None, *range(1, most_memory)]),
            gpus=dice.choice([0, 0, 1, 2]),
            walltime=dice.choice([None, None, 100, 1000]),
        )

    def seconds() -> float | None:
        return dice.choice([None, 0.01, 1.0, 5.0, 60.0, 3000.0])

    classes = []
    for number in range(dice.randint(1, 4)):
        maximum = dice.randint(0, 12)
        minimum = dice.choice([0, 0, dice.randint(0, maximum)])
        classes.append(Kind(f"class{number}", some_resources(8, 9), maximum, minimum))
    return Case(
        classes,
        [
            Demand(some_resources(8, 9), dice.choice([0, 1, 3, 40]), dice.randint(0, 3), seconds())
            for _ in range(dice.randint(0, 5))
        ],
        {
            kind.name: Headcount(dice.randint(0, 4), dice.randint(0, 4), dice.randint(0, 4))
            for kind in classes
            if dice.random() < 0.7
        },
        [
            Ahead(some_resources(8, 9), dice.choice([None, 1, 5, 30]), seconds(), dice.choice([None, 0.0, 50.0, 1e4]))
            for _ in range(dice.randint(0, 2))
        ],
        dice.choice([None, None, dice.randint(0, 20)]),
        dice.choice([None, None, 0.0, 10 ** dice.uniform(0, 6)]),
    )


def cases() -> Iterator[Case]:
    return map(drawn, range(500))


def test_whatever_is_asked_limits_hold_and_nobody_is_forgotten() -> None:
    for case in cases():
        decision = case.decision()
        wanted = {name: wanted.workers for name, wanted in decision.wanted.items()}
        busy = {kind.name: case.present.get(kind.name, Headcount()).busy for kind in case.classes}
        for kind in case.classes:
            assert busy[kind.name] <= wanted[kind.name] <= max(kind.maximum, busy[kind.name]), case
            assert decision.wanted[kind.name].reason
        if case.maximum is not None:
            assert sum(wanted.values()) <= max(case.maximum, sum(busy.values())), case
        for demand in case.demands:
            fitting = [kind for kind in case.classes if demand.asked.fits(kind.offers)]
            alike = [d for d in case.demands if [k for k in case.classes if d.asked.fits(k.offers)] == fitting]
            # Where any of them run there is a worker, but not in what was drawn.
            if demand.waiting and not any(d.running for d in alike):
                served = any(wanted[kind.name] for kind in fitting)
                assert served != any(jobs.asked == demand.asked for jobs in decision.unserved), case
                unlimited = case.maximum is None and case.core_seconds_left is None
                assert served or not unlimited or not any(kind.maximum for kind in fitting), case


def test_more_jobs_never_get_fewer_workers() -> None:
    for case in cases():
        case = replace(case, ahead=[], core_seconds_left=None)
        before = sum(wanted.workers for wanted in case.decision().wanted.values())
        for number, demand in enumerate(case.demands):
            for more in (1, 10):
                demands = case.demands.copy()
                demands[number] = replace(demand, waiting=demand.waiting + more)
                after = replace(case, demands=demands).decision()
                assert before <= sum(wanted.workers for wanted in after.wanted.values()), (case, number)


def test_without_demand_there_are_those_at_work_and_the_minimum() -> None:
    for case in cases():
        case = replace(case, demands=[], ahead=[], maximum=None, core_seconds_left=None)
        decision = case.decision()
        for kind in case.classes:
            busy = case.present.get(kind.name, Headcount()).busy
            assert decision.wanted[kind.name].workers == max(busy, kind.minimum), case


def test_once_it_is_as_wanted_nothing_else_is_wanted() -> None:
    for case in cases():
        before = case.decision().wanted
        present = {}
        for name, wanted in before.items():
            count = case.present.get(name, Headcount())
            others = wanted.workers - count.busy
            present[name] = Headcount(min(count.idle, others), count.busy, others - min(count.idle, others))
        again = replace(case, present=present).decision()
        assert {name: w.workers for name, w in again.wanted.items()} == {n: w.workers for n, w in before.items()}, (
            case
        )


def test_workers_that_are_asked_for_can_be_paid() -> None:
    for case in cases():
        decision = case.decision()
        if case.core_seconds_left is not None:
            starting = 0
            for kind in case.classes:
                count = case.present.get(kind.name, Headcount())
                new = max(decision.wanted[kind.name].workers - count.busy - count.idle, 0)
                starting += new * kind.offers.cores
            assert starting * STARTUP_SECONDS <= case.core_seconds_left, case
