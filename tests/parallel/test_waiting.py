from __future__ import annotations

from surgeline.parallel.waiting import Pending, WaitingJobs
from surgeline.work.jobs import FunctionCall
from surgeline.work.outcome import Outcome
from surgeline.work.resources import Resources


def pending(name: str, cores: int = 1) -> Pending:
    def deliver(outcome: Outcome) -> None:
        raise AssertionError("nothing is delivered here")

    job = FunctionCall(print).declare(name=name)
    return Pending(name, job, b"", deliver, Resources(cores=cores))


def waiting(*jobs: Pending) -> WaitingJobs:
    found = WaitingJobs()
    for job in jobs:
        found.add(job)
    return found


def test_each_line_has_its_head_in_the_order_added() -> None:
    jobs = waiting(pending("a", 1), pending("b", 4), pending("c", 1), pending("d", 2))
    assert [head.ticket for head in jobs.heads()] == ["a", "b", "d"]
    jobs.pop(jobs.heads()[0])
    assert [head.ticket for head in jobs.heads()] == ["b", "c", "d"]
    assert len(jobs) == 3


def test_what_is_put_first_comes_first_in_its_own_order() -> None:
    jobs = waiting(pending("a"))
    jobs.put_first([pending("x"), pending("y")])
    taken = [jobs.pop(jobs.heads()[0])[0].ticket for _ in range(3)]
    assert taken == ["x", "y", "a"]
    assert not len(jobs) and not jobs.heads()


def test_several_are_taken_that_go_together() -> None:
    jobs = waiting(pending("a"), pending("a"), pending("b"), pending("a"))
    taken = jobs.pop(jobs.heads()[0], lambda job: job.ticket == "a", most=5)
    assert [job.ticket for job in taken] == ["a", "a"]
    assert [head.ticket for head in jobs.heads()] == ["b"]


def test_dropped_jobs_are_gone_from_every_line() -> None:
    jobs = waiting(pending("a", 1), pending("b", 4), pending("c", 1))
    assert [job.ticket for job in jobs.drop(lambda job: job.ticket in ("b", "c"))] == ["b", "c"]
    assert [head.ticket for head in jobs.heads()] == ["a"]
