"""What it takes to run the demo where workers share no files with the session, by a real object store (Swift).

Beside the bytes that moved it tells those that would have, if each path went as one archive: to each job anew, or
kept by its content on workers and in the store. And it tells those of jobs that read one spectral window each, with
and without a selection of rows.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from report import ROOT, report
from surgeline import JobRequest, TaskQueue
from surgeline.config import load
from surgeline.parallel import selecting
from surgeline.parallel.backend import Backends
from surgeline.parallel.bringing import Bringing, own_store
from surgeline.work.artifacts import Artifact, Digests, survey
from surgeline.work.outcome import Outcome
from surgeline.work.staging import BroughtJob, BroughtOutcome
from surgeline.workflow import recipe as recipes
from surgeline.workflow.session import Session

sys.path.append(str(ROOT / "tests"))
sys.path.append(str(ROOT / "tests" / "parallel"))
from separate_workers import SeparateWorkers, bringing
from services.s3 import BUCKET, Swift

RECIPE = ROOT / "examples" / "ngc5921.yaml"


class Counting:
    """A backend that counts what its jobs read and write, and what archives of that would be."""

    def __init__(self, backend: SeparateWorkers) -> None:
        self._backend = backend
        self.read = self.written = self.jobs = 0
        self.anew = self.kept = 0
        self._in_store: set[frozenset[tuple[str, str]]] = set()
        self._on_worker: dict[str, set[frozenset[tuple[str, str]]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def submit(self, job: BroughtJob, deliver: Callable[[Outcome], None], urgent: bool = True) -> str:
        """Queue a job, and count when it has ended."""

        def counted(outcome: Outcome) -> None:
            assert isinstance(outcome, BroughtOutcome)
            self.jobs += 1
            self.read += sum(found.size for found in outcome.inputs)
            self.written += sum(found.size for found in outcome.outputs)
            made = {*job.declared.writes, *job.declared.changes}
            sent = {artifact.name: artifact for artifact in job.artifacts}
            come = [found for found in outcome.artifacts if found.name in made or sent.get(found.name) != found]
            # To the store and from it.
            self.anew += 2 * (_size(job.artifacts) + _size(come))
            self._count_kept(outcome.worker, job.artifacts, come)
            deliver(outcome)

        return self._backend.submit(job, counted, urgent)

    def _count_kept(self, worker: str, needed: Iterable[Artifact], come: Iterable[Artifact]) -> None:
        there = self._on_worker.setdefault(worker, set())
        for artifact in needed:
            content = _content(artifact)
            self.kept += _size([artifact]) * ((content not in self._in_store) + (content not in there))
            self._in_store.add(content)
            there.add(content)
        for artifact in come:
            content = _content(artifact)
            self.kept += 2 * _size([artifact]) * (content not in self._in_store)
            self._in_store.add(content)
            there.add(content)


def _size(artifacts: Iterable[Artifact]) -> int:
    return sum(item.size for artifact in artifacts for item in artifact.files)


def _content(artifact: Artifact) -> frozenset[tuple[str, str]]:
    return frozenset((item.name, item.digest) for item in artifact.items)


def byte_figures(folder: Path) -> dict[str, float]:
    """What moves by an object store to two workers that see nothing of the session's folder."""
    store = Swift(Path(sys.executable).parent)
    try:
        store.start()
        store.files().mkdir(BUCKET)
        return _demo_figures(folder, store) | _row_figures(folder, store)
    finally:
        store.remove()


def _demo_figures(folder: Path, store: Swift) -> dict[str, float]:
    workdir = folder / "session"
    opened: list[tuple[Counting, Bringing]] = []

    def open_dask(backends: Backends, name: str) -> Bringing:
        workers = SeparateWorkers(load(environment={}, home=folder), workdir, folder / "workers", [workdir])
        counting = Counting(workers)
        found = Bringing(counting, own_store(f"s3://{BUCKET}/bytes", store.options), workdir, workdir / "logs")
        opened.append((counting, found))
        return found

    configuration = load(overrides=["backend=dask"], environment={}, home=folder)
    began = time.perf_counter()
    with (
        patch.object(Backends, "_open_dask", open_dask),
        Session(recipes.load(str(RECIPE)), workdir, configuration) as session,
    ):
        session.run()
    took = time.perf_counter() - began
    ((counting, backend),) = opened
    figures: Mapping[str, float] = {
        "bytes that jobs of the demo read, MB": counting.read,
        "bytes that they write, MB": counting.written,
        "session to store, MB": backend.traffic.sent,
        "store to workers, MB": backend.traffic_of_workers.fetched,
        "workers to store, MB": backend.traffic_of_workers.sent,
        "store to session, MB": backend.traffic.fetched,
        "the same by archives, kept by their content, MB": counting.kept,
        "the same by archives, to each job anew, MB": counting.anew,
    }
    moved = backend.traffic.sent + backend.traffic_of_workers.fetched
    moved += backend.traffic_of_workers.sent + backend.traffic.fetched
    return {
        **{name: value / 1e6 for name, value in figures.items()},
        "all that moved, MB": moved / 1e6,
        "what workers fetched over what jobs read": backend.traffic_of_workers.fetched / counting.read,
        "all that moved over what jobs read and write": moved / (counting.read + counting.written),
        "requests for each job": (backend.traffic.requests + backend.traffic_of_workers.requests) / counting.jobs,
        "demo without a shared file system, s": took,
    }


def _row_figures(folder: Path, store: Swift) -> dict[str, float]:
    """Gains of two calibrators, each of eight windows by a job of its own, from an MS that has the target besides."""
    vis = folder / "simulated.ms"
    windows = 8
    simulate = [sys.executable, "-m", "surgeline.cli", "simulate", str(vis), "--antennas", "10", "--channels", "64"]
    simulate += ["--spectral-windows", str(windows), "--target-scans", "3"]
    subprocess.run(simulate, check=True, capture_output=True)
    figures: dict[str, float] = {"MS of eight windows, MB": _size([survey(folder, vis.name, Digests())]) / 1e6}
    for what, smallest in {"its rows": 0, "all of it": sys.maxsize}.items():
        workdir, place = (folder / f"{kind}-{smallest}" for kind in ("session", "workers"))
        shutil.copytree(vis, workdir / "data" / vis.name)
        began = time.perf_counter()
        with (
            patch.object(selecting, "SMALLEST", smallest),
            bringing(workdir, place, f"s3://{BUCKET}/{workdir.name}", options=store.options) as backend,
            TaskQueue(backend) as queue,
        ):
            for window in range(windows):
                arguments = {"vis": f"data/{vis.name}", "caltable": f"data/{window}.G", "field": "0,1"}
                queue.add(JobRequest("gaincal", {**arguments, "spw": str(window), "minblperant": 3}))
            for outcome in queue.get_results():
                outcome.result()
            moved = backend.traffic.sent + backend.traffic_of_workers.fetched
        figures[f"{what}, to the store and to two workers, MB"] = moved / 1e6
        figures[f"{what}, gains of each window by a job, s"] = time.perf_counter() - began
    return figures


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="surgeline-bytes-") as scratch:
        report(byte_figures(Path(scratch)), "bytes")
