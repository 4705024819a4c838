"""What workers and jobs cost the session's process: how many workers it can keep at work.

All of the session's side is real: the queue, the choice of workers, Dask's scheduler and client, connections by TCP.
The workers are Dask's own, many in one other process, with nothing to do: each job comes back at once and says that
it took five seconds, so that none travel several at a time. What counts is processor time, not how long the workers
take. What the session spends on workers that wait is not counted as spent on jobs.

Runs alone, too, with more workers or jobs: `python benchmarks/scale.py --workers 1 10 100 1000`, and
`python benchmarks/scale.py --workers 100 --jobs 1000 10000 100000`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from report import report
from surgeline import TaskQueue
from surgeline.clusters.scheduler import start_scheduler
from surgeline.config import Configuration, load
from surgeline.parallel.crew import Worker
from surgeline.parallel.daskhelpers import DaskBackend
from surgeline.work.outcome import Outcome
from surgeline.work.resources import Resources

WORKERS = (1, 10, 100)
JOBS = (1000,)
# How many workers start at once, and how long all of them may take.
TOGETHER = 20
START_SECONDS = 600
# What a job says that it took.
JOB_SECONDS = 5.0
IDLE_SECONDS = 5.0


def no_op(number: int) -> int:
    """A job; its worker does not look at it."""
    return number


class Crowd(DaskBackend):
    """The session's side of a cluster, with as many workers as asked for in one other process."""

    def __init__(self, number: int, folder: Path) -> None:
        self.workers = number
        self._scratch = str(folder)
        self._idlers: subprocess.Popen[bytes] | None = None
        super().__init__(load(overrides=["backend=dask"]), "local", folder, folder)

    def _start_cluster(self) -> Any:
        cluster = start_scheduler("127.0.0.1", None, 0, None, None, threads=1)
        command = [sys.executable, __file__, "--idlers", cluster.scheduler_address, str(self.workers), self._scratch]
        self._idlers = subprocess.Popen(command)
        return cluster

    def _await_workers(self, configuration: Configuration, cluster_name: str, logs: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        # Each tells the session when it has been set up.
        while len(self._crew) < self.workers:
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(self._crew)} of {self.workers} workers came within {START_SECONDS} s")
            time.sleep(0.05)

    def _clean_up(self) -> None:
        if self._idlers is not None:
            self._idlers.kill()
            self._idlers.wait()

    def _recruit(self, message: Mapping[str, Any]) -> Worker:
        return Worker(message["worker"], message["name"], "idler", Resources())

    def _memory_of_each(self) -> int | None:
        return None

    def seconds_in_loop(self) -> float:
        """Processor time of the thread that Dask's scheduler and client run in."""

        async def seconds() -> float:
            return time.thread_time()

        spent: float = self._client.sync(seconds)
        return spent


def idle(address: str, number: int, folder: str) -> None:
    """Be workers that do nothing, as long as there is the scheduler."""
    import dask
    from distributed import Worker as DaskWorker

    from surgeline.clusters.daskoptions import dask_options
    from surgeline.parallel.workerprocess import READY_TOPIC, CasaWorker

    logging.disable()

    def set_up(plugin: Any, worker: Any) -> None:
        known = {"worker": worker.address, "name": worker.name, "environment_id": "", "environment": {}}
        worker.log_event(READY_TOPIC, known)

    def run(plugin: Any, pickled_jobs: Sequence[bytes], mpi: bool) -> list[bytes]:
        now = time.time()
        return [cloudpickle.dumps(Outcome("", "", started=now - JOB_SECONDS, ended=now))] * len(pickled_jobs)

    # The session sends its plugin by name; here it is one that knows no CASA.
    plugin_class: Any = CasaWorker
    plugin_class.setup, plugin_class.run = set_up, run

    # One thread for all: a thousand would spend their time waiting for each other.
    options = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "executor": ThreadPoolExecutor(1)}

    async def start() -> None:
        workers: list[DaskWorker] = []
        while len(workers) < number:
            names = range(len(workers), min(len(workers) + TOGETHER, number))
            workers += await asyncio.gather(*[DaskWorker(address, name=str(name), **options) for name in names])
        await asyncio.gather(*[worker.finished() for worker in workers])

    # So many in one process would be busy with looking at themselves.
    quiet = {"distributed.admin.tick.interval": "1h", "distributed.admin.system-monitor.interval": "1h"}
    dask.config.set({**dask_options(threads=1), **quiet, "temporary-directory": folder})
    asyncio.run(start())


def of_workers(number: int, many_jobs: Sequence[int], folder: Path) -> dict[str, float]:
    """What so many workers cost that come and wait, and what jobs cost with them."""
    session = psutil.Process()
    before = time.process_time()
    backend = Crowd(number, folder)
    try:
        came = time.process_time() - before
        before, in_loop = time.process_time(), backend.seconds_in_loop()
        time.sleep(IDLE_SECONDS)
        waiting = (time.process_time() - before) / IDLE_SECONDS
        waiting_in_loop = (backend.seconds_in_loop() - in_loop) / IDLE_SECONDS
        name = f"{number} worker" + ("s" if number > 1 else "")
        figures = {f"{name}: until all have come, s of a core": came, f"{name}: waiting, share of a core": waiting}
        for jobs in many_jobs:
            memory = session.memory_info().rss
            began, before, in_loop = time.perf_counter(), time.process_time(), backend.seconds_in_loop()
            with TaskQueue(backend) as queue:
                queue.map(no_op, range(jobs))
                assert all(outcome.ok for outcome in queue.get_results())
                wall = time.perf_counter() - began
                spent = time.process_time() - before - waiting * wall
                of_loop = backend.seconds_in_loop() - in_loop - waiting_in_loop * wall
                kept = session.memory_info().rss - memory
            figures |= {
                f"{name}, {jobs} jobs: a job, ms of a core": 1e3 * spent / jobs,
                f"{name}, {jobs} jobs: of it in Dask's loop, ms": 1e3 * of_loop / jobs,
                f"{name}, {jobs} jobs: a job, ms of wall time": 1e3 * wall / jobs,
                f"{name}, {jobs} jobs: memory at the end, MB": kept / 1e6,
            }
    finally:
        backend.close()
    # Dask has its workers give signs of life the less often the more there are: what waiting costs grows no further.
    figures[f"{name}: so many with jobs of 5 s would fill the core"] = (1 - waiting) * 5 * jobs / spent
    return figures


def scale_figures(
    folder: Path, many_workers: Sequence[int] = WORKERS, many_jobs: Sequence[int] = JOBS
) -> dict[str, float]:
    """Every figure of scale."""
    figures: dict[str, float] = {}
    for number in many_workers:
        figures |= of_workers(number, many_jobs, folder)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="What workers and jobs cost the session's process.")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="how many workers")
    parser.add_argument("--jobs", type=int, nargs="+", default=JOBS, help="how many jobs")
    parser.add_argument("--idlers", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.idlers:
        address, number, folder = asked.idlers
        idle(address, int(number), folder)
        return
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as scratch:
        figures = scale_figures(Path(scratch), asked.workers, asked.jobs)
    report(figures, "scale")


if __name__ == "__main__":
    main()
