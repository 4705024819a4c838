from __future__ import annotations

import time

from surgeline.parallel.crew import Crew, Worker
from surgeline.work.resources import Resources

SMALL, FAT, GPU = (
    Resources(cores=1, memory=10**9, walltime=1000),
    Resources(cores=4, memory=8 * 10**9, walltime=1000),
    Resources(cores=1, memory=10**9, gpus=1, walltime=1000),
)


def crew(**offers: Resources) -> Crew:
    found = Crew()
    for name, offer in offers.items():
        found.join(Worker(f"tcp://{name}", name, name, offer))
    return found


def test_a_job_goes_to_the_smallest_worker_that_it_fits() -> None:
    there = crew(fat=FAT, gpu=GPU, small=SMALL)
    asked = Resources()
    assert there.take("first", asked, None) == ["tcp://small"]
    # A core and 8 GB are given away rather than a GPU.
    assert there.take("second", asked, None) == ["tcp://fat"]
    assert there.take("third", asked, None) == ["tcp://gpu"]
    assert there.take("fourth", asked, None) == []


def test_a_job_never_goes_where_it_does_not_fit() -> None:
    there = crew(small=SMALL, gpu=GPU)
    assert there.take("memory", Resources(memory=2 * 10**9), None) == []
    assert there.take("cores", Resources(cores=2), None) == []
    assert there.take("walltime", Resources(walltime=2000), None) == []
    assert there.take("gpu", Resources(gpus=1), None) == ["tcp://gpu"]


def test_a_worker_that_is_given_back_is_taken_again_and_one_that_left_is_not() -> None:
    there = crew(one=SMALL, two=SMALL)
    taken = there.take("both", Resources(), None, number=2)
    assert sorted(taken) == ["tcp://one", "tcp://two"]
    there.leave("tcp://one")
    there.give_back(taken)
    assert there.take("next", Resources(), None, number=2) == []
    assert there.take("next", Resources(), None) == ["tcp://two"]


def test_a_job_avoids_workers_where_it_died_while_there_are_others() -> None:
    there = crew(one=SMALL, two=SMALL)
    assert there.take("again", Resources(), None, avoid={"one"}) == ["tcp://two"]
    assert there.take("another", Resources(), None, avoid={"one"}) == ["tcp://one"]


def test_a_job_that_would_outlast_a_worker_waits_for_a_fresh_one() -> None:
    there = Crew()
    there.join(Worker("tcp://old", "old", "small", SMALL, ends=time.monotonic() + 100))
    assert there.take("long", Resources(), 200.0) == []
    there.join(Worker("tcp://fresh", "fresh", "small", SMALL, ends=time.monotonic() + 995))
    assert there.take("long", Resources(), 200.0) == ["tcp://fresh"]
    assert there.take("short", Resources(), 50.0) == ["tcp://old"]


def test_a_job_that_takes_as_long_as_workers_live_runs_on_a_fresh_one() -> None:
    there = Crew()
    there.join(Worker("tcp://fresh", "fresh", "small", SMALL, ends=time.monotonic() + 995))
    assert there.take("as long as allowed", Resources(walltime=1000), 1000.0) == ["tcp://fresh"]


def test_a_job_goes_where_the_last_one_of_its_name_was_if_that_worker_is_idle() -> None:
    there = crew(one=SMALL, two=SMALL, three=SMALL)
    (first,) = there.take("first part", Resources(), None, near="first")
    (second,) = there.take("second part", Resources(), None, near="second")
    there.give_back([first, second])
    assert there.take("second part again", Resources(), None, near="second") == [second]
    assert there.take("first part again", Resources(), None, near="first") == [first]
    (elsewhere,) = there.take("first part, while it is busy", Resources(), None, near="first")
    there.give_back([first, second, elsewhere])
    assert there.take("first part, the last time", Resources(), None, near="first") == [elsewhere]
    there.leave(elsewhere)
    assert there.take("its worker is gone", Resources(), None, near="first")
