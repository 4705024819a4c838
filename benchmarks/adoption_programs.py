"""What adoption.py measures, each in a process of its own: `adoption_programs.py PROGRAM ARGUMENTS`.

The arguments are a JSON object; what a program returns is written to results.json in the current directory.
"""

from __future__ import annotations

import json
import ssl  # noqa: F401  # CASA brings an older library of the same name: Python's own has to be loaded first.
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORKERS = 2


def no_op(number: int) -> int:
    """The least that a job can do."""
    return number


class NoOpTask:
    """The least that a task of the Pipeline can do: it finds the context."""

    class Inputs:
        """What it is made of."""

        def __init__(self, context: Any, number: int) -> None:
            self.name = context.name
            self.number = number

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def execute(self) -> tuple[str, int]:
        """Do nothing."""
        return self.inputs.name, self.inputs.number


@contextmanager
def layer_of(name: str) -> Iterator[None]:
    """The Pipeline, imported, with workers of its own parallel layer or of this one; or with none."""
    if name == "surgeline":
        from surgeline import adopt, open_backend
        from surgeline.config import load

        backend = open_backend(load(overrides=["backend=dask", f"dask.n_workers={WORKERS}"]))
        adopt.install(backend)
        try:
            yield
        finally:
            adopt.uninstall()
            backend.close()
        return
    from pipeline.infrastructure import daskhelpers

    if name == "own":
        # As its users do: from its own configuration, which is in this folder.
        assert daskhelpers.start_daskcluster() is not None
    try:
        yield
    finally:
        if name == "own":
            daskhelpers.stop_daskcluster()


def calls(number: int, first: int) -> float:
    """Calls at once through the Pipeline's TaskQueue; calls a second."""
    from pipeline.infrastructure.mpihelpers import TaskQueue

    numbers = range(first, first + number)
    began = time.perf_counter()
    with TaskQueue() as queue:
        assert queue.is_async()
        queue.map(no_op, [(one,) for one in numbers])
    assert queue.get_results() == list(numbers)
    return number / (time.perf_counter() - began)


def single_calls(number: int, first: int) -> float:
    """One call after the other, each through a queue of its own; calls a second."""
    began = time.perf_counter()
    for one in range(number):
        calls(1, first + one)
    return number / (time.perf_counter() - began)


def tasks(context: Any, number: int, first: int) -> float:
    """Tasks at once through the Pipeline's TaskQueue, all with one context; seconds a task."""
    from pipeline.infrastructure.mpihelpers import TaskQueue

    numbers = range(first, first + number)
    began = time.perf_counter()
    with TaskQueue() as queue:
        for one in numbers:
            queue.add_pipelinetask(NoOpTask, {"number": one}, context)
    assert queue.get_results() == [(context.name, one) for one in numbers]
    return (time.perf_counter() - began) / number


def dispatch(layer: str, number: int, single: int, of_tasks: int, megabytes: float, rounds: int) -> dict[str, Any]:
    """No-op calls, and no-op tasks with a context of a size."""
    started = time.time()
    with layer_of(layer):
        import pipeline.cli

        # No two calls are the same: its own layer tells Dask that the same would have the same result.
        seen: dict[str, Any] = {"calls": [], "single": [], "tasks": []}
        calls(2 * WORKERS, 0)
        seen["first"] = time.time() - started
        context = pipeline.cli.h_init()
        seen["bytes"] = fill(context, megabytes)
        tasks(context, 2 * WORKERS, 0)
        for turn in range(rounds):
            first = 1_000_000 * (turn + 1)
            seen["calls"].append(calls(number, first))
            seen["single"].append(single_calls(single, first + number))
            seen["tasks"].append(tasks(context, of_tasks, first))
        seen["left"] = sum(path.stat().st_size for path in Path.cwd().rglob("tmp*.context"))
    return seen


def fill(context: Any, megabytes: float) -> int:
    """Have a context be of a size, by many small objects, as spectral windows with their channels are; in bytes."""
    size = Path("size.pickle")

    def filled(count: int) -> int:
        context.filling = [
            {"channel": one, "frequency": 1e9 + one / 7, "width": 1e6 + one / 3} for one in range(count)
        ]
        context.save(str(size))
        return size.stat().st_size

    trial = 10_000
    empty = filled(0)
    each = (filled(trial) - empty) / trial
    found = filled(round((1e6 * megabytes - empty) / each))
    size.unlink()
    return found


def procedure(layer: str, commands: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Tasks of the Pipeline one after the other; how long each took."""
    from importlib import import_module

    seconds: dict[str, float] = {}
    with layer_of(layer):
        cli = import_module("pipeline.cli")
        began = time.time()
        cli.h_init()
        for name, arguments in commands:
            task = getattr(cli, name, None)
            if task is None:
                task = getattr(import_module(f"pipeline.{name.partition('_')[0]}.cli.{name}"), name)
            before = time.time()
            task(**arguments)
            seconds[name] = seconds.get(name, 0.0) + time.time() - before
        ended = time.time()
    return {"began": began, "ended": ended, "tasks": seconds}


def imported() -> dict[str, Any]:
    """That the Pipeline can be imported."""
    import pipeline

    return {"file": pipeline.__file__}


def observations() -> dict[str, Any]:
    """Simulate what procedures reduce, in the current directory."""
    from surgeline.work.casaprocess import CasaProcess

    CasaProcess(Path.cwd(), Path("casa.log").resolve()).prepare()
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    import pipelinedata

    pipelinedata.observe(Path.cwd())
    return {}


PROGRAMS = {program.__name__: program for program in (imported, dispatch, procedure, observations)}


if __name__ == "__main__":
    program, asked = sys.argv[1:]
    # CASA reads the command line, too.
    del sys.argv[1:]
    results = PROGRAMS[program](**json.loads(asked))
    Path("results.json").write_text(json.dumps(results))
