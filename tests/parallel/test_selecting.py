"""Workers that share no files with the session are brought the rows that their jobs read, by a real object store."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest

from separate_workers import bringing
from services.s3 import Swift
from support import wait_until
from surgeline import FunctionCall, JobRequest, Outcome, TaskQueue
from surgeline.parallel import selecting
from surgeline.parallel.bringing import Bringing
from surgeline.parallel.selecting import Holdings, SelectedRows
from surgeline.work.fingerprint import fingerprint
from surgeline.work.jobs import Job
from surgeline.work.selection import Selection

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

VIS = "data/simulated.ms"


@pytest.fixture(scope="module")
def observed(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three fields in two spectral windows."""
    from surgeline.simulate import Simulation, simulate

    path = tmp_path_factory.mktemp("rows") / "simulated.ms"
    # So many that the rows of a field fill tiles.
    simulate(path, Simulation(antennas=16, channels=64, spectral_windows=2, target_scans=1, seed=4))
    return path


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, swift: Swift) -> Iterator[Bringing]:
    base = tmp_path_factory.mktemp("brought")
    TOLD.clear()
    with bringing(
        base / "session", base / "workers", "s3://observations/rows", options=swift.options, tell=TOLD.append
    ) as found:
        yield found


@pytest.fixture
def here(backend: Bringing, observed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The session's folder, with an MS that is large enough for its rows to be selected."""
    monkeypatch.setattr(selecting, "SMALLEST", 2**20)
    # As if no worker had seen it before.
    monkeypatch.setattr(backend, "_holdings", Holdings())
    monkeypatch.setattr(backend, "_rows", SelectedRows(backend._folder, backend._leave, backend._tell))
    folder = backend._folder
    shutil.copytree(observed, folder / VIS)
    TOLD.clear()
    yield folder
    assert list(folder.glob(".*")) == []
    for name in ("data", "calibration"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()


@pytest.fixture
def elsewhere(casa: Path, observed: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with the same MS, in which jobs run without any backend."""
    shutil.copytree(observed, tmp_path / VIS)
    (tmp_path / "calibration").mkdir()
    with chdir(tmp_path):
        yield tmp_path


TOLD: list[str] = []


def run(backend: Bringing, *jobs: Job) -> list[Outcome]:
    with TaskQueue(backend) as queue:
        for job in jobs:
            queue.add(job)
        return queue.get_results()


def moved(backend: Bringing) -> int:
    return backend.traffic.sent + backend.traffic_of_workers.fetched


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def gaincal(field: str, **others: Any) -> JobRequest:
    arguments = {"refant": "ea01", "minblperant": 3, "solint": "int", **others}
    return JobRequest(
        "gaincal", {"vis": VIS, "caltable": f"calibration/{field}.G", "field": field, "spw": "1:4~60", **arguments}
    )


def gains(caltable: Path) -> list[Any]:
    from casatools import table

    with closing(table()) as tool:
        tool.open(str(caltable))
        return [tool.getcol(name) for name in ("CPARAM", "FLAG", "TIME", "FIELD_ID", "SPECTRAL_WINDOW_ID", "SNR")]


def assert_same_gains(field: str, here: Path, elsewhere: Path) -> None:
    mine, others = (gains(folder / "calibration" / f"{field}.G") for folder in (here, elsewhere))
    assert mine[0].size > 0 and all(map(np.array_equal, mine, others))


def test_two_jobs_of_two_fields_are_brought_their_rows_and_give_the_same(
    backend: Bringing, here: Path, elsewhere: Path
) -> None:
    before = moved(backend)
    outcomes = run(backend, gaincal("0"), gaincal("1"))
    values = [outcome.result() for outcome in outcomes]
    # To the store and from it; of the whole it would be once to the store, and to each worker.
    assert moved(backend) - before < size(here / VIS)
    for field, value in zip("01", values, strict=True):
        assert repr(value) == repr(gaincal(field).run())
        assert_same_gains(field, here, elsewhere)
    # They are recorded to have read what they read where all files are shared.
    assert {outcome.inputs for outcome in outcomes} == {(replace(fingerprint(here / VIS), path=VIS),)}
    # The same rows are sent once.
    sent = backend.traffic.sent
    run(backend, gaincal("0", solint="inf"))[0].result()
    assert backend.traffic.sent == sent
    assert TOLD == []


def flag(vis: str) -> None:
    from casatasks import flagdata

    flagdata(vis, antenna="ea03", flagbackup=False)


def test_rows_of_an_ms_that_was_changed_are_copied_again(backend: Bringing, here: Path, elsewhere: Path) -> None:
    run(backend, gaincal("0"))[0].result()
    shutil.rmtree(here / "calibration" / "0.G")
    before = fingerprint(here / VIS)
    for outcome in run(backend, FunctionCall(flag, VIS).declare(changes=[VIS])):
        outcome.result()
    assert fingerprint(here / VIS).digest != before.digest
    sent = backend.traffic.sent
    run(backend, gaincal("0"))[0].result()
    assert TOLD == []
    # Of the rows only the flags are new.
    assert 0 < backend.traffic.sent - sent < 0.1 * size(here / VIS)
    flag(VIS)
    gaincal("0").run()
    assert_same_gains("0", here, elsewhere)


def image(stem: str, vis: str = VIS) -> None:
    from casatasks import tclean

    cube: dict[str, Any] = {"specmode": "cube", "outframe": "LSRK", "nchan": 3, "start": 20, "weighting": "briggs"}
    tclean(vis, imagename=stem, field="1", spw="1", imsize=32, cell="20arcsec", niter=20, **cube)


def pixels(path: Path) -> Any:
    from casatools import image as image_tool

    with closing(image_tool()) as tool:
        tool.open(str(path))
        return tool.getchunk()


def test_a_cube_of_the_rows_has_the_pixels_of_one_of_the_whole(
    backend: Bringing, here: Path, elsewhere: Path
) -> None:
    job = FunctionCall(image, "images/cube").declare(
        reads=[VIS], selects={VIS: Selection("1", "1")}, writes=["images/cube.image"]
    )
    run(backend, job)[0].result()
    (elsewhere / "images").mkdir()
    image("images/cube")
    mine, others = (pixels(folder / "images" / "cube.image") for folder in (here, elsewhere))
    assert np.ptp(mine) > 0 and np.array_equal(mine, others)


def failure_of(work: Callable[[], Any]) -> str:
    with pytest.raises(Exception) as found:
        work()
    return str(found.value)


def test_a_selection_of_nothing_fails_as_it_does_elsewhere(backend: Bringing, here: Path, elsewhere: Path) -> None:
    (outcome,) = run(backend, gaincal("nowhere"))
    assert outcome.failure is not None
    assert outcome.failure.message == f"RuntimeError: {failure_of(gaincal('nowhere').run)}"
    assert TOLD == []


def test_a_job_that_reads_others_than_it_said_is_told_by_casa(backend: Bringing, here: Path) -> None:
    (outcome,) = run(backend, gaincal("1").declare(selects={VIS: Selection("0")}))
    assert outcome.failure is not None
    assert "zero rows" in outcome.failure.message or "no data" in outcome.failure.message.lower()


def count_rows(vis: str) -> int:
    from casatools import table

    with closing(table()) as tool:
        tool.open(vis)
        return int(tool.nrows())


def test_what_is_changed_or_small_is_brought_whole(
    backend: Bringing, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selects = {VIS: Selection("0")}
    job = FunctionCall(count_rows, VIS)
    few, changed = run(
        backend, job.declare(reads=[VIS], selects=selects), job.declare(changes=[VIS], selects=selects)
    )
    assert few.result() < changed.result() == count_rows(str(here / VIS))
    monkeypatch.setattr(selecting, "SMALLEST", 2**30)
    small = job.declare(reads=[VIS], selects={VIS: Selection("1")})
    assert run(backend, small)[0].result() == changed.result()


def test_what_most_workers_have_is_brought_whole(backend: Bringing, here: Path) -> None:
    job = FunctionCall(count_rows, VIS).declare(reads=[VIS])
    backend.exec_everywhere(job)
    (outcome,) = run(backend, job.declare(selects={VIS: Selection("0")}))
    assert outcome.result() == count_rows(str(here / VIS))
    assert TOLD == []


def test_all_is_sent_where_rows_cannot_be_copied_and_that_is_told(
    backend: Bringing, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selecting.sys, "executable", shutil.which("false"))
    job = FunctionCall(count_rows, VIS).declare(reads=[VIS], selects={VIS: Selection("1", "0")})
    assert run(backend, job)[0].result() == count_rows(str(here / VIS))
    assert len(TOLD) == 1 and VIS in TOLD[0] and "exit code 1" in TOLD[0]


def test_a_job_is_cancelled_while_its_rows_are_copied(
    backend: Bringing, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copies").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/began\nexec sleep 600\n")
    (tmp_path / "copies").chmod(0o755)
    monkeypatch.setattr(selecting.sys, "executable", str(tmp_path / "copies"))
    queue = TaskQueue(backend)
    queue.add(FunctionCall(count_rows, VIS).declare(reads=[VIS], selects={VIS: Selection("0", "0")}))
    began = tmp_path / "began"
    wait_until(lambda: began.exists() and began.read_text().strip() != "", 30, "it copies")
    queue.cancel()
    (outcome,) = queue.get_results()
    assert outcome.failure is not None and outcome.failure.kind == "cancelled"
    assert not psutil.pid_exists(int(began.read_text()))


def test_an_ms_in_parts_is_brought_whole(backend: Bringing, here: Path, casa: Path) -> None:
    from casatasks import partition

    with chdir(here):
        partition(VIS, outputvis="data/parts.ms", separationaxis="scan")
    job = FunctionCall(count_rows, "data/parts.ms")
    (outcome,) = run(backend, job.declare(reads=["data/parts.ms"], selects={"data/parts.ms": Selection("0")}))
    assert outcome.result() == count_rows(str(here / VIS))
