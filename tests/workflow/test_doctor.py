from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from parallel.mpiruns import each_mpirun
from support import surgeline
from surgeline.config import load
from surgeline.parallel import mpiworld
from surgeline.workflow import doctor
from surgeline.workflow.doctor import Finding, examine


def findings(workdir: Path, *overrides: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(workdir, load(workdir, overrides))}


def stand_in(folder: Path, starts: str) -> str:
    """A program that says that it is Open MPI's mpirun, and starts programs in a way of its own."""
    path = folder / "mpirun"
    path.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && { echo "mpirun (Open MPI) 4.1.4"; exit; }\n'
        # Its own options end where the program's absolute path stands.
        'while [ "${1#/}" = "$1" ]; do shift; done\n' + starts
    )
    path.chmod(0o755)
    return f"mpi.mpirun={path}"


@each_mpirun
def test_ranks_of_one_mpi_know_of_each_other(tmp_path: Path, mpirun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As within another MPI job, whose traces must not count.
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    monkeypatch.setenv("PMIX_RANK", "0")
    found = findings(tmp_path, f"mpi.mpirun={mpirun}")
    assert found["mpirun"].well
    assert found["mpirun"].found.endswith(mpirun)
    assert found["casampi"].found.startswith("casampi 0.")
    assert found["MPI"].well, found["MPI"]
    assert found["MPI"].found.startswith("two ranks know of each other; mpi4py loads Open MPI v")
    assert "/libmpi.so" in found["MPI"].found


def test_ranks_that_are_alone_in_their_worlds_mean_two_different_mpis(tmp_path: Path) -> None:
    answer = surgeline("doctor", "--workdir", tmp_path, "--set", stand_in(tmp_path, '"$@" & "$@"; wait\n'))
    assert answer.returncode == 1
    told = answer.stdout[answer.stdout.index("BAD  MPI") :]
    assert "of two ranks, each should see 2, and they see 1 and 1" in told
    assert "mpirun and mpi4py are of different MPIs; mpi4py loads Open MPI v" in told
    assert "MPI4PY_LIBMPI" in told
    assert "mpi.mpirun" in told


def test_a_library_that_cannot_be_loaded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPI4PY_LIBMPI", "/no/such/libmpi.so")
    found = findings(tmp_path)["MPI"]
    assert not found.well
    assert found.found == "no rank of a job of two came up: RuntimeError: cannot load MPI library"


def test_a_job_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpiworld, "_JOB_SECONDS", 0.2)
    found = findings(tmp_path, stand_in(tmp_path, "exec sleep 600\n"))["MPI"]
    assert not found.well
    assert found.found == "no rank of a job of two came up: it had not ended after 0.2 s"


def test_a_missing_mpirun_is_told_with_the_way_to_get_one(tmp_path: Path) -> None:
    found = findings(tmp_path, "mpi.mpirun=/no/such/mpirun")
    assert not found["mpirun"].well
    assert found["mpirun"].found == "mpi.mpirun: /no/such/mpirun is no program"
    assert "MPI" not in found


def test_mpi_is_not_missed_by_who_did_not_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(doctor, "version", version)
    found = findings(tmp_path)["MPI"]
    assert found.well
    assert found.found == (
        "not installed; pip install 'surgeline[mpi]' for `surgeline mpirun` and tclean(parallel=True)"
    )
