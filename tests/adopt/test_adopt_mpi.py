"""Surgeline in the place of the CASA Pipeline's parallel layer, in a real MPI session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from surgeline import adopt, open_backend
from surgeline.config import load
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import command, find_launcher

pytestmark = pytest.mark.mpi
PROGRAM = Path(__file__).with_name("mpi_client.py")
MPIRUN = os.environ.get("SURGELINE_TEST_MPIRUN") or str(Path(sys.executable).with_name("mpirun"))


@pytest.fixture(scope="module")
def session(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What the client of a session with two servers saw, and its folder."""
    from surgeline.simulate import Simulation, simulate

    folder = tmp_path_factory.mktemp("adopted")
    vis = folder / "simulated.ms"
    simulate(vis, Simulation(antennas=8, channels=8, target_scans=1, seed=4))
    ran = subprocess.run(
        command(
            find_launcher(MPIRUN),
            3,
            [sys.executable, str(PROGRAM), str(folder), str(vis)],
            {},
            root=os.geteuid() == 0,
        ),
        env={**clean_environment(), "SURGELINE__MPI__MPIRUN": MPIRUN, "PYTHONPATH": str(PROGRAM.parent / "standin")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    results = folder / "results.json"
    assert results.exists(), ran.stdout + ran.stderr
    return folder, json.loads(results.read_text())


def test_the_client_knows_its_servers(session: tuple[Path, dict[str, Any]]) -> None:
    _, seen = session
    assert seen["client"] == [True, True, [1, 2]]
    assert seen["ready"] == [True, False, None, [1, 2]]
    assert seen["automatic"] == [True, True]
    assert seen["a server"] == [True, True, False, False]


def test_jobs_run_on_servers_and_come_back_as_callers_expect(session: tuple[Path, dict[str, Any]]) -> None:
    folder, seen = session
    good = [found for found in seen["calibrated"] if len(found) == 4]
    assert [found[0] for found in good] == ["h_calibrate.a.ms", "h_calibrate.b.ms", "h_calibrate.d.ms"]
    assert not any(top for _, top, *_ in good)
    assert len({process for *_, process, _ in good} - {seen["process"]}) == 2
    assert {found[3] for found in good} == {str(folder)}
    kind, why = seen["calibrated"][2]
    assert kind == "PipelineException"
    assert "no scan of a calibrator in bad.ms" in why
    assert "on server-" in why
    assert seen["saved"] == 1
    assert seen["plots"] == ["a.png of a", "b.png of b"]
    assert seen["self-calibrated"] == [["one", 0, "one"], ["two", 1, "two"]]
    assert [line.partition(",")[0] for line in seen["commands"]] == [
        f"gaincal(vis='{name}'" for name in ("a.ms", "b.ms", "d.ms", "one", "two")
    ]


def test_lines_of_python_reach_all_servers(session: tuple[Path, dict[str, Any]]) -> None:
    folder, seen = session
    assert seen["environments"] == ["stand-in"] * 3
    assert seen["configured"] == [True, True]
    where, there, level, process = seen["told"]
    assert where[-1] == there == str(folder / "elsewhere")
    assert level == "debug"
    assert process != seen["process"]
    successful, traceback, number = seen["lines"]
    assert not successful
    assert "ZeroDivisionError" in traceback
    assert number == "int"


def test_jobs_run_in_the_folder_of_the_session_after_parallel_imaging_elsewhere(
    session: tuple[Path, dict[str, Any]],
) -> None:
    folder, seen = session
    assert seen["folders"] == [str(folder)] * 2


def test_parallel_imaging_outside_of_an_mpi_session_begins_one(
    session: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PROGRAM.parent / "standin")
    monkeypatch.chdir(tmp_path)
    overrides = ["backend=dask", "dask.n_workers=2", f"mpi.mpirun={MPIRUN}"]
    with closing(open_backend(load(overrides=overrides, environment={}, home=tmp_path), folder=tmp_path)) as backend:
        adopt.install(backend)
        try:
            from pipeline.infrastructure import casa_tasks, exceptions

            vis = str(session[0] / "simulated.ms")
            image = {"vis": vis, "imagename": "parallel", "imsize": 64, "cell": "8arcsec", "parallel": True}
            casa_tasks.tclean(**image, niter=0).execute()
            with pytest.raises(exceptions.PipelineException, match="nowhere"):
                casa_tasks.tclean(**{**image, "vis": "nowhere.ms"}, niter=0).execute()
        finally:
            adopt.uninstall()
    assert (tmp_path / "parallel.residual").exists()
    assert [path.name for path in (tmp_path / "logs").glob("*server-2.log")]


def test_parallel_imaging_has_a_session_of_its_own(session: tuple[Path, dict[str, Any]]) -> None:
    folder, seen = session
    made = {path.name for path in (folder / "elsewhere").iterdir()}
    assert {"parallel.residual", "alone.residual"} <= made
    logs = {path.name: path.read_text() for path in (folder / "logs").glob("casa-*.log")}
    assert {name for name, text in logs.items() if "imagename='parallel'" in text} == {"casa-nested-client.log"}
    assert {name for name, text in logs.items() if "imagename='alone'" in text} == {"casa-session.log"}
    assert seen["tclean is CASA's again"]
