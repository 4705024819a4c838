from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surgeline import FunctionCall, Outcome, TaskQueue, open_backend
from surgeline.config import load
from surgeline.errors import BadInput, ClusterError
from surgeline.work.jobs import Job
from surgeline.work.taskqueue import Backend


def double(number: int) -> int:
    return 2 * number


def fail() -> None:
    raise ValueError("on purpose")


class Sum:
    """A pipeline framework's task, as small as it can be."""

    class Inputs:
        def __init__(self, context: list[int], start: int = 0) -> None:
            self.total = start + sum(context)

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def execute(self) -> int:
        return self.inputs.total


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    opened = open_backend(load(overrides=["backend=serial"], environment={}, home=tmp_path), folder=tmp_path)
    yield opened
    opened.close()


def values(outcomes: list[Outcome]) -> list[Any]:
    return [outcome.value for outcome in outcomes]


def test_every_kind_of_job_can_be_added_and_results_come_in_that_order(backend: Backend) -> None:
    with TaskQueue(backend) as queue:
        assert queue.add_functioncall(double, 4)
        assert queue.add_pipelinetask(Sum, {"start": 1}, [2, 3])
        queue.map(pow, [2, 3, 4], [1, 2, 3])
        assert len(queue) == 5
        assert values(queue.get_results()) == [8, 6, 2, 9, 64]
        assert len(queue) == 0
        assert queue.get_results() == []


def test_the_pairs_of_map_end_with_the_shortest(backend: Backend) -> None:
    with TaskQueue(backend) as queue:
        queue.map(pow, [2, 3, 4], [1, 2])
        assert values(queue.get_results()) == [2, 9]


def test_results_are_those_since_the_last_call(backend: Backend) -> None:
    with TaskQueue(backend) as queue:
        queue.add_functioncall(double, 1)
        assert values(queue.get_results()) == [2]
        queue.add_functioncall(double, 2)
        queue.add_functioncall(double, 3)
        assert values(queue.get_results()) == [4, 6]


def test_a_failed_job_costs_no_others_result(backend: Backend) -> None:
    with TaskQueue(backend) as queue:
        queue.add_functioncall(double, 1)
        queue.add_functioncall(fail)
        queue.add_functioncall(double, 2)
        outcomes = queue.get_results()
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.message == "ValueError: on purpose"


def test_a_unique_queue_drops_what_it_has_had(backend: Backend) -> None:
    with TaskQueue(backend, unique=True) as queue:
        added = [queue.add_functioncall(double, number) for number in (1, 2, 1, 3, 2)]
        assert added == [True, True, False, True, False]
        assert values(queue.get_results()) == [2, 4, 6]
        assert not queue.add_functioncall(double, 3)
        assert queue.get_results() == []
    with TaskQueue(backend) as queue:
        assert queue.add_functioncall(double, 1)
        assert queue.add_functioncall(double, 1)


def test_outcomes_come_as_jobs_end_and_jobs_may_be_added_meanwhile(backend: Backend) -> None:
    found = []
    with TaskQueue(backend) as queue:
        queue.map(double, [1, 2])
        for outcome in queue.as_completed():
            found.append(outcome.value)
            if outcome.value == 4:
                queue.add_functioncall(double, 10)
    assert found == [2, 4, 20]


def test_a_wrong_request_is_refused_where_it_is_added_and_leaves_no_trace(backend: Backend) -> None:
    with TaskQueue(backend, unique=True) as queue:
        with pytest.raises(BadInput, match="tclean"):
            queue.add_jobrequest("tclaen", {})
        assert len(queue) == 0
        assert queue.get_results() == []


def test_a_job_that_a_closed_backend_refused_can_be_added_to_no_harm(tmp_path: Path) -> None:
    opened = open_backend(load(overrides=["backend=serial"], environment={}, home=tmp_path), folder=tmp_path)
    opened.close()
    queue = TaskQueue(opened, unique=True)
    for _ in range(2):
        # The second time it is no duplicate, since the first was never taken.
        with pytest.raises(ClusterError, match="double"):
            queue.add_functioncall(double, 1)
    assert queue.get_results() == []
    opened.close()


def test_the_queue_tells_of_each_job_once_and_of_its_end_after_its_start(backend: Backend) -> None:
    told: list[tuple[str, str]] = []

    def added(ticket: str, job: Job) -> None:
        told.append(("added", ticket))

    def done(ticket: str, job: Job, outcome: Outcome) -> None:
        told.append(("done", ticket))

    with TaskQueue(backend, added=added, done=done) as queue:
        queue.map(double, range(20))
        queue.get_results()
    tickets = [ticket for what, ticket in told if what == "added"]
    assert len(set(tickets)) == 20
    for ticket in tickets:
        assert [what for what, other in told if other == ticket] == ["added", "done"]


def test_an_observer_that_fails_hides_no_outcome_and_is_not_hidden_itself(backend: Backend) -> None:
    def done(ticket: str, job: Job, outcome: Outcome) -> None:
        if outcome.value == 4:
            raise OSError("the record cannot be written")

    with TaskQueue(backend, done=done) as queue:
        queue.map(double, [1, 2, 3])
        with pytest.raises(OSError, match="cannot be written"):
            queue.get_results()
        queue.add_functioncall(double, 5)
        assert values(queue.get_results()) == [10]


def test_cancelling_stops_what_waits_and_every_job_still_has_an_outcome(backend: Backend) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert go_on.wait(30)
        return "ended by itself"

    with TaskQueue(backend) as queue:
        queue.add_functioncall(wait)
        queue.map(double, [1, 2])
        assert begun.wait(30)
        queue.cancel()
        # All are told at once, also the one that runs: nothing can stop it here, and nobody waits for it.
        outcomes = queue.get_results()
        assert not go_on.is_set()
    go_on.set()
    assert [outcome.job for outcome in outcomes] == ["wait", "double", "double"]
    assert all(outcome.failure is not None and outcome.failure.kind == "cancelled" for outcome in outcomes)
    with TaskQueue(backend) as queue:
        queue.add_functioncall(double, 3)
        assert values(queue.get_results()) == [6]


def test_an_exception_that_leaves_the_queue_cancels_it_and_is_the_one_that_is_told(backend: Backend) -> None:
    begun, go_on = threading.Event(), threading.Event()
    outcomes: list[Outcome] = []

    def wait() -> None:
        begun.set()
        assert go_on.wait(30)

    def leave_with_an_error() -> None:
        with TaskQueue(backend, done=lambda ticket, job, outcome: outcomes.append(outcome)) as queue:
            queue.add_functioncall(wait)
            queue.map(double, range(5))
            assert begun.wait(30)
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        leave_with_an_error()
    go_on.set()
    assert len(outcomes) == 6
    assert not any(outcome.ok for outcome in outcomes)


def test_leaving_the_queue_waits_for_its_jobs(backend: Backend) -> None:
    ended: list[str] = []
    with TaskQueue(backend, done=lambda ticket, job, outcome: ended.append(outcome.job)) as queue:
        queue.map(double, range(10))
        queue.add(FunctionCall(double, 1).declare(name="the last"))
    assert len(ended) == 11
    assert ended[-1] == "the last"


def test_several_threads_may_share_a_backend(backend: Backend) -> None:
    found: dict[int, list[Any]] = {}

    def use(number: int) -> None:
        with TaskQueue(backend) as queue:
            queue.map(double, range(number, number + 5))
            found[number] = values(queue.get_results())

    threads = [threading.Thread(target=use, args=(number,)) for number in range(0, 50, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [2 * n for n in range(number, number + 5)] for number in range(0, 50, 10)}
