"""What a session costs under load, from its first job to its last: whether time and memory stay flat.

Each part is a session in a process of its own, that is watched as `surgeline run --json` runs it, with its weblog and
its file for `surgeline status`:

jobs     100,000 jobs that do nothing, in five stages, on two local workers of Dask;
serial   the same in this process;
results  stages of 2,000 jobs whose results are 1 MB each, taken a hundred at a time;
kept     the same, where the stage takes all of its results at once;
workers  500 workers. The session's side is real; the workers are Dask's own in one other process, with neither CASA
         nor nannies, and jobs end at once (see scale.py);
context  a context of 1 GB: facts that stages commit and files that their jobs write, and jobs that ask for some;
day      what a session of a day does, but for the work itself: 144 stages, one each ten minutes, of 200 jobs that
         write a file and a page of CASA's log each.

`python benchmarks/load.py` runs all parts, `python benchmarks/load.py jobs day --share 0.1` two of them with a tenth
of their jobs. The figures are printed, and written to build/load.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from fifths import FIFTHS, Watch, run_watched, show
from report import keep
from surgeline import FunctionCall, stage
from surgeline.context.records import Extension, Fact
from surgeline.context.reference import ContextReference
from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.stages.stage import Stage
from surgeline.work.procedure import Procedure
from surgeline.workflow.workfolder import read_record

TWO_WORKERS = ("backend=dask", "dask.n_workers=2")
JOBS = 100_000
RESULTS = 2_000
RESULT_BYTES = 1_000_000
AT_ONCE = 100
WORKERS = 500
JOBS_OF_WORKERS = 25_000
# A commit of 10 MB: facts of 500 numbers each; and files of half a megabyte.
COMMITS = 100
FACTS = 1_000
NUMBERS = 500
FILES = 20
FILE_BYTES = 500_000
DAY_STAGES = 144
DAY_JOBS = 200
DAY_FACTS = 20
LOG_LINES = 40


# Jobs: all that they call can be imported by workers.


@stage
def many(given: Stage, jobs: int = 1) -> Procedure[None]:
    """Jobs that do nothing."""
    values = yield [FunctionCall(abs, number).declare(name="nothing") for number in range(jobs)]
    assert values == list(range(jobs))


@stage
def idle(given: Stage, jobs: int = 1) -> Procedure[None]:
    """Jobs for workers that do not look at them."""
    yield [FunctionCall(abs, number).declare(name="nothing") for number in range(jobs)]


@stage
def large(given: Stage, jobs: int = 1, at_once: int = 1) -> Procedure[None]:
    """Jobs with large results, of which nothing is kept but the sum of their sizes."""
    size = 0
    for _ in range(jobs // at_once):
        values = yield [FunctionCall(os.urandom, RESULT_BYTES).declare(name="large") for _ in range(at_once)]
        size += sum(map(len, values))
        del values
    assert size == jobs * RESULT_BYTES


def ask_and_write(reference: ContextReference, name: str, path: str) -> int:
    """A job that asks for two facts, and writes a file."""
    found = reference.all(Extension, namespace="load", name=name) + reference.all(Extension, namespace="none")
    Path(path).write_bytes(os.urandom(FILE_BYTES))
    return len(found)


@stage
def remember(given: Stage, number: int = 0) -> Procedure[list[Fact]]:
    """Commit facts that come to 10 MB, have jobs ask for one of those before, and write files."""
    assert given.reference is not None
    asked = f"{max(number - 1, 0)}.7"
    paths = [f"data/{number}-{place}" for place in range(FILES)]
    found = yield [
        FunctionCall(ask_and_write, given.reference, asked, path).declare(name="ask", writes=[path]) for path in paths
    ]
    assert set(found) == {1 if number else 0}
    values = [number + 0.123456789 * place for place in range(NUMBERS)]
    return [Extension(namespace="load", name=f"{number}.{place}", value=[place, *values]) for place in range(FACTS)]


def write_and_log(path: str) -> int:
    """A job that writes a file and a page of CASA's log."""
    from casatasks import casalog

    for number in range(LOG_LINES):
        casalog.post(f"{path}: line {number}", "WARN" if number % 10 == 0 else "INFO", "load")
    Path(path).write_text(path * 100)
    return len(path)


@stage
def ten_minutes(given: Stage, number: int = 0, jobs: int = 1) -> Procedure[list[Fact]]:
    """What a stage of ten minutes leaves: files and logs of its jobs, and facts in the place of earlier ones."""
    paths = [f"data/{number}-{place}" for place in range(jobs)]
    yield [FunctionCall(write_and_log, path).declare(name="work", writes=[path]) for path in paths]
    known = given.known(Extension, namespace="day")
    assert len(known) == (DAY_FACTS if number else 0)
    return [Extension(namespace="day", name=str(place), value=[number, place]) for place in range(DAY_FACTS)]


def recipe(task: Any, arguments: list[dict[str, Any]]) -> dict[str, Any]:
    """Stages that run the same task one after the other."""
    stages = [{"task": task, "name": f"s{number}", "arguments": said} for number, said in enumerate(arguments)]
    return {"name": "load", "stages": stages}


# Parts: each runs its session in a folder, and gives what was seen.

Seen = tuple[Watch, Mapping[str, float]]


def jobs_part(folder: Path, share: float, *overrides: str) -> Seen:
    """Jobs that do nothing."""
    jobs = int(JOBS * share) // FIFTHS
    watch = run_watched(recipe(many, [{"jobs": jobs}] * FIFTHS), FIFTHS * jobs, folder, *(overrides or TWO_WORKERS))
    return watch, left(folder)


def serial_part(folder: Path, share: float) -> Seen:
    """The same in this process."""
    return jobs_part(folder, share, "backend=serial")


def results_part(folder: Path, share: float, at_once: int = AT_ONCE) -> Seen:
    """Large results."""
    jobs = int(RESULTS * share)
    arguments = [{"jobs": jobs, "at_once": min(at_once, jobs)}] * FIFTHS
    watch = run_watched(recipe(large, arguments), FIFTHS * jobs, folder, *TWO_WORKERS)
    return watch, {**left(folder), "memory of the session when it has ended, MB": watch.memory()}


def kept_part(folder: Path, share: float) -> Seen:
    """Large results, all at once."""
    return results_part(folder, share, RESULTS)


def workers_part(folder: Path, share: float) -> Seen:
    """Many workers."""
    from scale import Crowd
    from surgeline.parallel import localworkers

    def crowd(configuration: Any, name: str, given: Path, *_: Any) -> Crowd:
        return Crowd(WORKERS, given)

    localworkers.LocalWorkers = crowd  # type: ignore[assignment,misc]
    jobs = int(JOBS_OF_WORKERS * share) // FIFTHS
    return run_watched(recipe(idle, [{"jobs": jobs}] * FIFTHS), FIFTHS * jobs, folder, *TWO_WORKERS), left(folder)


def context_part(folder: Path, share: float) -> Seen:
    """A large context."""
    commits = int(COMMITS * share) // FIFTHS * FIFTHS
    arguments = [{"number": number} for number in range(commits)]
    (folder / "session" / "data").mkdir(parents=True)
    watch = run_watched(recipe(remember, arguments), commits * FILES, folder, *TWO_WORKERS)
    path = SessionPaths(folder / "session").context
    before = watch.memory()
    began = time.perf_counter()
    with closing(Context(path, read_only=True)) as context:
        opened = time.perf_counter()
        one = context.all(Extension, namespace="load", name=f"{commits // 2}.7")
        asked = time.perf_counter()
        older = context.at(commits // 2).all(Extension, namespace="load", name="1.7")
        asked_older = time.perf_counter()
        assert len(one) == len(older) == 1
    return watch, {
        **left(folder),
        "the context, MB": path.stat().st_size / 1e6,
        "files that jobs wrote, MB": sum(file.stat().st_size for file in (path.parent / "data").rglob("*")) / 1e6,
        "opening it, ms": 1e3 * (opened - began),
        "a query of one fact, ms": 1e3 * (asked - opened),
        "a query of one fact at half of the versions, ms": 1e3 * (asked_older - asked),
        "memory that both took, MB": watch.memory() - before,
    }


def day_part(folder: Path, share: float) -> Seen:
    """A day."""
    jobs = max(int(DAY_JOBS * share), FIFTHS)
    stages = DAY_STAGES // FIFTHS * FIFTHS
    arguments = [{"number": number, "jobs": jobs} for number in range(stages)]
    (folder / "session" / "data").mkdir(parents=True)
    watch = run_watched(recipe(ten_minutes, arguments), stages * jobs, folder, *TWO_WORKERS)
    return watch, left(folder)


def left(folder: Path) -> dict[str, float]:
    """What a session leaves, and how long commands take that look at it."""
    workdir = folder / "session"
    last = read_record(SessionPaths(workdir))["stages"][-1]["name"]
    figures = {
        "run.json, MB": SessionPaths(workdir).record.stat().st_size / 1e6,
        "weblog, MB": sum(path.stat().st_size for path in (workdir / "weblog").rglob("*")) / 1e6,
    }
    for command in (("status",), ("logs", last), ("report",)):
        began = time.perf_counter()
        line = [sys.executable, "-m", "surgeline.cli", *command, "--workdir", str(workdir)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        figures[f"surgeline {' '.join(command)}, s"] = time.perf_counter() - began
    return figures


PARTS: Mapping[str, Callable[[Path, float], Seen]] = {
    "jobs": jobs_part,
    "serial": serial_part,
    "results": results_part,
    "kept": kept_part,
    "workers": workers_part,
    "context": context_part,
    "day": day_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether a session's time and memory stay flat under load.")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], help="which of them; all unless given")
    parser.add_argument("--share", type=float, default=1.0, help="the share of the jobs to be run")
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.output:
        (part,) = asked.parts
        with tempfile.TemporaryDirectory(prefix="surgeline-load-") as scratch:
            show(part, *PARTS[part](Path(scratch), asked.share), asked.output)
        return
    found = {}
    with tempfile.TemporaryDirectory(prefix="surgeline-load-") as scratch:
        for part in asked.parts or PARTS:
            # Each in a process of its own, which has the memory of no other.
            output = Path(scratch) / f"{part}.json"
            line = [sys.executable, __file__, part, "--share", str(asked.share), "--output", str(output)]
            subprocess.run(line, check=True)
            found[part] = json.loads(output.read_text())
    keep(found, "load")


if __name__ == "__main__":
    main()
