"""What it takes to run the demo where workers share no files with the session, by a real object store (Swift).

Beside the bytes that moved it tells those that would have, if each path went as one archive: to each job anew, or
kept by its content on workers and in the store.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from report import ROOT, report
from surgeline.config import load
from surgeline.parallel.backend import Backends
from surgeline.parallel.bringing import Bringing, own_store
from surgeline.work.artifacts import Artifact
from surgeline.work.outcome import Outcome
from surgeline.work.staging import BroughtJob, BroughtOutcome
from surgeline.workflow import recipe as recipes
from surgeline.workflow.session import Session

sys.path.append(str(ROOT / "tests"))
sys.path.append(str(ROOT / "tests" / "parallel"))
from separate_workers import SeparateWorkers
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
    """The demo on two workers that see nothing of the session's folder."""
    workdir = folder / "session"
    store = Swift(Path(sys.executable).parent)
    opened: list[tuple[Counting, Bringing]] = []

    def open_dask(backends: Backends, name: str) -> Bringing:
        workers = SeparateWorkers(load(environment={}, home=folder), workdir, folder / "workers", [workdir])
        counting = Counting(workers)
        found = Bringing(counting, own_store(f"s3://{BUCKET}/bytes", store.options), workdir, workdir / "logs")
        opened.append((counting, found))
        return found

    try:
        store.start()
        store.files().mkdir(BUCKET)
        configuration = load(overrides=["backend=dask"], environment={}, home=folder)
        began = time.perf_counter()
        with (
            patch.object(Backends, "_open_dask", open_dask),
            Session(recipes.load(str(RECIPE)), workdir, configuration) as session,
        ):
            session.run()
        took = time.perf_counter() - began
    finally:
        store.remove()
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


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="surgeline-bytes-") as scratch:
        report(byte_figures(Path(scratch)), "bytes")
