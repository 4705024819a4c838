"""Workers that share no files with the session: they are brought theirs through a real object store."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from astropy.io import fits

from separate_workers import SeparateWorkers, bringing
from services.s3 import Swift
from support import RECIPE, surgeline, wait_until
from surgeline import FunctionCall, Outcome, TaskQueue
from surgeline.config import load
from surgeline.errors import ClusterError
from surgeline.parallel.backend import Backends
from surgeline.parallel.bringing import Bringing, own_store
from surgeline.paths import store_note
from surgeline.work.artifacts import digest_of
from surgeline.work.datastore import DataStore
from surgeline.work.outcome import Loss
from surgeline.workflow import recipe as recipes
from surgeline.workflow.session import Session

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass
class Brought:
    """A session's folder, what there is outside of it, and a backend whose workers see neither."""

    backend: Bringing
    folder: Path
    outside: Path
    place: Path
    store: Any
    bucket: str
    lost: list[tuple[str, Loss]]
    told: list[str] = field(default_factory=list)

    def run(self, *jobs: FunctionCall) -> list[Outcome]:
        with TaskQueue(self.backend) as queue:
            for job in jobs:
                queue.add(job)
            return queue.get_results()

    def moved(self) -> int:
        """How many bytes went to workers and came from them."""
        return self.backend.traffic_of_workers.fetched + self.backend.traffic_of_workers.sent


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory, swift: Swift) -> Iterator[Brought]:
    base = tmp_path_factory.mktemp("brought")
    folder, outside, bucket = base / "session", base / "outside", "s3://observations/brought"
    outside.mkdir()
    (folder / "logs").mkdir(parents=True)
    # A session of the same folder was killed before.
    left = DataStore(bucket, "surgeline-data-00000000", swift.options)
    left.put(b"left behind")
    store_note(folder / "logs", left.name).write_text(json.dumps({"url": left.url, "name": left.name}))
    (folder / "data").mkdir()
    (folder / "data" / ".a.ms.arriving").mkdir()
    told: list[str] = []
    lost: list[tuple[str, Loss]] = []
    with bringing(
        folder,
        base / "workers",
        bucket,
        outside,
        options=swift.options,
        tell=told.append,
        lost=lambda job, loss: lost.append((job, loss)),
    ) as backend:
        yield Brought(backend, folder, outside, base / "workers", swift.files(), bucket, lost, told)


def look(*paths: str) -> dict[str, str | None]:
    return {path: Path(path).read_text() if Path(path).is_file() else None for path in paths}


def everything() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def write(content: str, *paths: str) -> None:
    for path in paths:
        Path(path).write_text(content)


def change(table: str) -> None:
    with (Path(table) / "table.f1").open("r+b") as handle:
        handle.write(b"changed")
    (Path(table) / "table.f2").unlink()
    (Path(table) / "table.f3").write_bytes(b"new")


def make_table(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "table.f0").write_bytes(os.urandom(2 * 2**20))
    for number in (1, 2):
        (folder / name / f"table.f{number}").write_bytes(b"as it was")


def test_what_a_killed_session_left_is_removed(brought: Brought) -> None:
    assert any("is removed" in text for text in brought.told)
    assert not brought.store.exists(f"{brought.bucket}/surgeline-data-00000000")
    assert [path.name for path in (brought.folder / "logs").glob("surgeline-data-*")] == [brought.backend._note.name]
    assert not (brought.folder / "data" / ".a.ms.arriving").exists()


def test_a_job_finds_what_it_declares_and_nothing_else(brought: Brought) -> None:
    for name in ("declared", "other"):
        (brought.folder / "data" / name).write_text(name)
    outside = str(brought.outside / "outside")
    (brought.outside / "outside").write_text("from outside")
    paths = ("data/declared", "data/other", outside, str(brought.folder / "data" / "other"))
    seen, all_there = brought.run(
        FunctionCall(look, *paths[:3]).declare(reads=["data/declared", outside]),
        FunctionCall(everything).declare(reads=["data/declared", "data/missing"]),
    )
    # Its value tells of paths as it was given them.
    assert list(seen.result().values()) == ["declared", None, "from outside"]
    assert [found.path for found in seen.inputs] == ["data/declared", outside]
    assert outside in seen.call
    assert all_there.result() == ["data/declared"]


def test_what_it_writes_is_here_wherever_that_is(brought: Brought) -> None:
    outside = str(brought.outside / "made")
    (outcome,) = brought.run(
        FunctionCall(write, "made", "images/made", outside).declare(writes=["images/made", outside])
    )
    outcome.result()
    assert (brought.folder / "images" / "made").read_text() == "made"
    assert (brought.outside / "made").read_text() == "made"
    assert [found.path for found in outcome.outputs] == ["images/made", outside]


def test_of_a_table_that_is_changed_the_changed_files_move(brought: Brought) -> None:
    make_table(brought.folder / "data", "changed.ms")
    before = (brought.folder / "data" / "changed.ms" / "table.f0").stat()
    moved = brought.moved()
    (outcome,) = brought.run(FunctionCall(change, "data/changed.ms").declare(changes=["data/changed.ms"]))
    outcome.result()
    table = brought.folder / "data" / "changed.ms"
    assert {path.name for path in table.iterdir()} == {"table.f0", "table.f1", "table.f3"}
    assert (table / "table.f1").read_bytes() == b"changedas"[:7] + b"as"
    assert (table / "table.f0").stat().st_ino == before.st_ino
    # Both ways, and all of it would have been more than four.
    assert brought.moved() - moved < 2.1 * 2**20
    # The state that was recorded is that of what is here.
    from surgeline.work.fingerprint import fingerprint

    assert fingerprint(table).state == outcome.outputs[0].state


def test_what_a_worker_has_is_not_brought_again(brought: Brought) -> None:
    (brought.folder / "data" / "again").write_bytes(os.urandom(3 * 2**20))
    job = FunctionCall(everything).declare(reads=["data/again"])
    brought.backend.exec_everywhere(job)
    moved, sent = brought.moved(), brought.backend.traffic.sent
    assert [outcome.result() for outcome in brought.run(job, job, job)] == [["data/again"]] * 3
    assert (brought.moved(), brought.backend.traffic.sent) == (moved, sent)


def keep(number: int) -> list[str]:
    found = everything()
    Path(f"images/kept.{number}").write_text("kept")
    Path(f"images/kept.{number - 1}").unlink(missing_ok=True)
    return found


def test_what_one_job_keeps_the_next_one_finds(brought: Brought) -> None:
    for number in range(3):
        job = FunctionCall(keep, number).declare(keeps=["images/kept.*"])
        expected = [f"images/kept.{number - 1}"] if number else []
        assert brought.run(job)[0].result() == expected
    assert [path.name for path in (brought.folder / "images").glob("kept.*")] == ["kept.2"]


def write_and_fail(path: str) -> None:
    Path(path).write_text("half")
    raise RuntimeError(f"{Path(path).absolute()} cannot be made better")


def test_a_job_that_fails_changes_nothing(brought: Brought) -> None:
    (brought.folder / "data" / "precious").write_text("precious")
    (outcome,) = brought.run(FunctionCall(write_and_fail, "data/precious").declare(changes=["data/precious"]))
    assert outcome.failure is not None
    assert "cannot be made better" in outcome.failure.message
    assert (brought.folder / "data" / "precious").read_text() == "precious"


def die_once(path: str) -> str:
    # Of each process of a worker there is one.
    if not Path("../../died").exists():
        Path("../../died").touch()
        Path(path).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return Path(path).read_text()


def test_a_worker_that_dies_is_replaced_and_the_job_runs_again_with_its_files(brought: Brought) -> None:
    (brought.folder / "data" / "precious").write_text("precious")
    (outcome,) = brought.run(
        FunctionCall(die_once, "data/precious").declare(changes=["data/precious"], name="dies once")
    )
    assert outcome.result() == "precious"
    assert [job for job, _ in brought.lost] == ["dies once"] * len(outcome.losses) != []
    wait_until(lambda: len(brought.backend.exec_everywhere(FunctionCall(everything))) == 2, 60, "both are there")


def sleep(seconds: float) -> None:
    # In the worker's own folder.
    Path("../../started").touch()
    time.sleep(seconds)


def test_jobs_are_cancelled_on_their_way_and_while_they_run(brought: Brought) -> None:
    (brought.folder / "data" / "large").write_bytes(os.urandom(20 * 2**20))
    queue = TaskQueue(brought.backend)
    for _ in range(4):
        queue.add(FunctionCall(sleep, 600).declare(reads=["data/large"]))
    wait_until(lambda: len(list(brought.place.glob("*/started"))) == 2, 60, "two of them run")
    assert brought.backend.running(queue._tickets[0])
    queue.cancel()
    kinds = [outcome.failure and outcome.failure.kind for outcome in queue.get_results()]
    assert kinds == ["cancelled"] * 4
    wait_until(lambda: len(brought.backend.exec_everywhere(FunctionCall(everything))) == 2, 60, "both are there")


def test_what_cannot_be_read_and_what_vanished_from_the_store_is_told(brought: Brought) -> None:
    os.mkfifo(brought.folder / "data" / "pipe")
    (brought.folder / "data" / "vanished").write_text(os.urandom(8).hex())
    job = FunctionCall(everything).declare(reads=["data/vanished"])
    (outcome, unreadable) = brought.run(job, FunctionCall(everything).declare(reads=["data/pipe"]))
    assert outcome.ok
    assert unreadable.failure is not None and "neither a file, a folder nor a link" in unreadable.failure.message
    # One worker has it, and the other one finds that it has gone.
    place = brought.backend._known.places[digest_of(brought.folder / "data" / "vanished")]
    brought.store.rm_file(f"{brought.bucket}/{brought.backend._store.name}/{place.pack}")
    outcomes = brought.backend.exec_everywhere(job)
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    assert [failure.kind for failure in failures] == ["data"]
    assert "has no file to be given" in failures[0].message
    (brought.folder / "data" / "pipe").unlink()


def test_what_another_cluster_of_the_session_uses_is_left_alone(brought: Brought, swift: Swift) -> None:
    brought.backend._store.put(b"in use")
    inside = set(brought.store.ls(brought.bucket, refresh=True))
    store = own_store(brought.bucket, swift.options)
    Bringing(brought.backend, store, brought.folder, brought.folder / "logs")
    assert inside and inside <= set(brought.store.ls(brought.bucket, refresh=True))
    assert brought.backend._note.exists()


def test_a_store_that_cannot_be_used_is_told_before_anything_runs(brought: Brought, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    store = own_store(f"file://{tmp_path}/missing", {})
    with pytest.raises(ClusterError, match="is no folder"):
        Bringing(brought.backend, store, tmp_path, tmp_path / "logs")
    assert list((tmp_path / "logs").iterdir()) == []


@pytest.mark.cluster
def test_the_demo_gives_the_same_pixels_and_leaves_nothing(
    tmp_path: Path, swift: Swift, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every job of the standard stages says all that it reads: its worker sees nothing else."""
    here, there = tmp_path / "here", tmp_path / "there"
    ran = surgeline("run", RECIPE, "--workdir", here, "--set", "backend=serial")
    assert ran.returncode == 0, ran.stdout + ran.stderr

    def open_dask(backends: Backends, name: str) -> Bringing:
        workers = SeparateWorkers(load(environment={}, home=tmp_path), there, tmp_path / "workers", [there])
        return Bringing(workers, own_store(bucket, swift.options), there, there / "logs")

    monkeypatch.setattr(Backends, "_open_dask", open_dask)
    configuration = load(overrides=["backend=dask"], environment={}, home=tmp_path)
    with Session(recipes.load(str(RECIPE)), there, configuration) as session:
        session.run()
    names = sorted(path.name for path in (here / "products").glob("*.fits"))
    assert len(names) == 4
    for name in names:
        one, other = (fits.getdata(workdir / "products" / name) for workdir in (here, there))
        assert np.array_equal(one, other, equal_nan=True), name
    made = {
        str(path.relative_to(here))
        for kind in ("calibration", "data", "images", "products", "pictures")
        for path in (here / kind).iterdir()
    }
    assert all((there / name).exists() for name in made)
    assert not swift.files().exists(bucket)
    assert list((there / "logs").glob("surgeline-data-*")) == []
