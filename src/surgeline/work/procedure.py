"""Heuristics and jobs in turn: the form that everything has that a session runs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

from surgeline.work.jobs import Job

Result = TypeVar("Result")

# A procedure yields batches of jobs and is sent their values, in order; it returns what it found out.
# Heuristics run between the batches, in the session's process; jobs of a batch run in parallel.
Procedure = Generator[Sequence[Job], Sequence[Any], Result]


def together(procedures: Sequence[Procedure[Result]]) -> Procedure[list[Result]]:
    """Run several procedures side by side: their batches are merged, so that their jobs share the workers."""
    results: dict[int, Result] = {}
    batches: dict[int, Sequence[Job]] = {}

    def advance(number: int, values: Sequence[Any] | None) -> None:
        try:
            batches[number] = procedures[number].send(values)  # type: ignore[arg-type]  # None begins it
        except StopIteration as stop:
            batches.pop(number, None)
            results[number] = stop.value

    for number in range(len(procedures)):
        advance(number, None)
    while batches:
        merged = list(batches.items())
        values: Iterator[Any] = iter((yield [job for _, batch in merged for job in batch]))
        for number, batch in merged:
            advance(number, [next(values) for _ in batch])
    return [results[number] for number in range(len(procedures))]
