"""What clusters with a queue cost and save, on a private Slurm and a private HTCondor of this machine.

- from nothing to the first result, above what the workload manager itself takes for a job that does nothing;
- how long workers stay after the last result, when nothing more comes;
- a batch of which workers are lost at random, against one that is left alone;
- a reduction of one wide and four narrow stages: what it asks for, against a fixed allocation of the widest stage.

Jobs sleep, so that a machine of few cores can stand for many. Needs what tests of clusters need.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cloudpickle

from report import ROOT, report
from surgeline import FunctionCall, Outcome, TaskQueue
from surgeline.clusters.accounting import Ran, account, name_of_place, stays_in_queue_jobs
from surgeline.clusters.surge import Ahead
from surgeline.config import load
from surgeline.parallel.backend import Backends
from surgeline.parallel.batchworkers import BatchWorkers
from surgeline.parallel.foresight import NOTHING_MORE, Foreseen
from surgeline.work.resources import Resources

sys.path.append(str(ROOT / "tests"))
from services.htcondor import HTCondor, programs_of_htcondor
from services.slurm import Slurm

cloudpickle.register_pickle_by_value(sys.modules[__name__])

JOBS = 50
JOB_SECONDS = 2.0
LOSSES = 5
SECONDS_BETWEEN_LOSSES = 5.0
WORKERS = 4
WIDTHS = (1, 1, 8, 1, 1)
STAGE_SECONDS = 10.0


def work(seconds: float) -> float:
    """A job that needs no core."""
    time.sleep(seconds)
    return time.time()


@contextmanager
def opened(kind: str, folder: Path, *overrides: str) -> Iterator[tuple[Backends, BatchWorkers]]:
    """A cluster with small workers."""
    folder.mkdir()
    settings = [f"type={kind}", "memory=400MB", "poll=0.5", "idle_seconds=5", *overrides]
    configuration = load(overrides=[f"clusters.{kind}.{text}" for text in settings])
    with Backends(configuration, folder, folder / "logs") as backends:
        backends.get(kind)
        yield backends, backends.surging[kind]


def run(backends: Backends, kind: str, number: int, seconds: float) -> list[Outcome]:
    """A batch of jobs, each of which has to succeed."""
    with TaskQueue(backends.get(kind)) as queue:
        for _ in range(number):
            queue.add(FunctionCall(work, seconds))
        outcomes = queue.get_results()
    for outcome in outcomes:
        outcome.result()
    return outcomes


def tick(service: Slurm | HTCondor, folder: Path) -> float:
    """Seconds from submitting a job that does nothing to its having been run."""
    done = folder / "done"
    began = time.time()
    if isinstance(service, Slurm):
        service.run("sbatch", "--output=/dev/null", f"--wrap=touch '{done}'")
    else:
        text = f"executable = /usr/bin/touch\narguments = {done}\nshould_transfer_files = NO\nqueue\n"
        service.run("condor_submit", "-", input=text)
    while not done.exists():
        time.sleep(0.01)
    return time.time() - began


def first_result(kind: str, service: Slurm | HTCondor, folder: Path) -> dict[str, float]:
    """From nothing to the first result, and from the last result to no worker."""
    folder.mkdir()
    least = tick(service, folder)
    with opened(kind, folder / "first") as (backends, cluster):
        cluster.foresee(NOTHING_MORE)
        began = time.time()
        run(backends, kind, 1, 0.0)
        took = time.time() - began
        ended = time.time()
        while any(berth.alive for berth in cluster.fleet.berths()):
            time.sleep(0.02)
        down = time.time() - ended
    return {
        f"{kind}: a job that does nothing, seconds": least,
        f"{kind}: zero to first result above that, seconds": took - least,
        f"{kind}: last result to no worker, seconds": down,
    }


def with_losses(service: Slurm, folder: Path) -> dict[str, float]:
    """The same batch twice, once with workers taken away while it runs."""
    folder.mkdir()
    walls = []
    for disturbed in (False, True):
        over = threading.Event()
        with opened("slurm", folder / str(disturbed), f"maximum={WORKERS}") as (backends, cluster):

            def disturb(cluster: BatchWorkers = cluster, over: threading.Event = over) -> None:
                chance = random.Random(5)
                for _ in range(LOSSES):
                    there: list[str] = []
                    while not there and not over.wait(chance.uniform(0, 2 * SECONDS_BETWEEN_LOSSES)):
                        there = [worker.name.removeprefix("slurm-") for worker in cluster._crew if worker.busy]
                    if there:
                        service.run("scancel", chance.choice(there))

            began = time.time()
            if disturbed:
                threading.Thread(target=disturb).start()
            outcomes = run(backends, "slurm", JOBS, JOB_SECONDS)
            walls.append(time.time() - began)
            over.set()
    return {
        f"slurm: {JOBS} jobs of {JOB_SECONDS:g} s on {WORKERS} workers, seconds": walls[0],
        "slurm: jobs that lost their worker when disturbed": sum(len(outcome.losses) for outcome in outcomes),
        "slurm: disturbed over undisturbed": walls[1] / walls[0],
    }


def wide_and_narrow(folder: Path) -> dict[str, float]:
    """One wide and four narrow stages; each knows what the next will ask for, as a second run of a recipe does."""
    folder.mkdir()
    with opened("slurm", folder / "stages", f"maximum={max(WIDTHS)}", "idle_seconds=2") as (backends, cluster):
        began = time.time()
        jobs = []
        for number, width in enumerate(WIDTHS):
            ahead = tuple(Ahead(Resources(), wide) for wide in WIDTHS[number + 1 : number + 2])
            cluster.foresee(Foreseen(at_work=True, ahead=ahead))
            for outcome in run(backends, "slurm", width, STAGE_SECONDS):
                jobs.append(Ran(str(number), name_of_place(outcome.worker), outcome.started, outcome.ended))
        ended = time.time()
        cluster.foresee(NOTHING_MORE)
        while any(berth.alive for berth in cluster.fleet.berths()):
            time.sleep(0.02)
        stays = stays_in_queue_jobs(cluster.fleet.berths(), cluster.fleet.classes, time.time())
    accounts = account(stays, jobs, began, ended)
    assert accounts.ratio is not None
    return {
        "slurm: stages of widths 1 1 8 1 1, core-seconds asked": accounts.total.asked,
        "slurm: of these used": accounts.total.used,
        "slurm: surge over a fixed allocation, core-seconds": accounts.ratio,
    }


def queue_figures(folder: Path) -> dict[str, float]:
    """All of these."""
    folder.mkdir(exist_ok=True)
    before = dict(os.environ)
    figures: dict[str, float] = {}
    for kind, service in (("slurm", Slurm(memory=8000)), ("htcondor", HTCondor(programs_of_htcondor(), memory=8000))):
        try:
            os.environ.update(service.environment())
            service.start()
            figures |= first_result(kind, service, folder / kind)
            if isinstance(service, Slurm):
                figures |= with_losses(service, folder / "losses")
                figures |= wide_and_narrow(folder / "surge")
        finally:
            service.remove()
            os.environ.clear()
            os.environ.update(before)
    return figures


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as scratch:
        report(queue_figures(Path(scratch)), "queues")
