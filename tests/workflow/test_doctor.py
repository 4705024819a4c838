from __future__ import annotations

import fcntl
import json
import sys
from datetime import date, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from parallel.mpiruns import each_mpirun
from support import ordinary_user, surgeline
from surgeline.config import load
from surgeline.parallel import mpiworld
from surgeline.workflow import doctor
from surgeline.workflow.doctor import Finding, examine
from surgeline.workflow.doctorcasa import examine_casa
from surgeline.workflow.doctormachine import examine_folder
from surgeline.workflow.doctorschedulers import examine_schedulers


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
    told = answer.stdout[answer.stdout.index("bad      MPI") :]
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
    def not_installed(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(doctor, "version", not_installed)
    found = findings(tmp_path)["MPI"]
    assert found.well
    assert found.found == (
        "not installed; pip install 'surgeline[mpi]' for `surgeline mpirun` and tclean(parallel=True)"
    )


def test_everything_that_a_session_may_need_is_told_of(tmp_path: Path) -> None:
    found = findings(tmp_path)
    things = (
        "Python", "CASA", "CASA's data", "network", "cores", "memory", "GPU", "open files", "network interface",
        "working folder", "file locks", "disk", "backend", "workers", "Slurm", "HTCondor", "Kubernetes", "Prefect",
        "mpirun", "MPI",
    )  # fmt: skip
    assert [thing for thing in things if thing not in found] == []
    assert found["file locks"].state == "ok" and str(tmp_path) in found["file locks"].found
    # Whatever is not as it should be says what to do.
    assert [one.what for one in found.values() if one.state in ("warning", "bad") and not one.way_out] == []


def test_doctor_tells_machines_too(tmp_path: Path) -> None:
    answer = surgeline("doctor", "--json", "--workdir", tmp_path, "--set", "mpi.mpirun=/no/such/mpirun")
    assert answer.returncode == 1
    told = json.loads(answer.stdout)
    assert not told["well"]
    states = {finding["what"]: finding["state"] for finding in told["findings"]}
    assert states["mpirun"] == "bad" and states["CASA"] == "ok"


def test_old_data_of_casa_are_no_fault_but_told() -> None:
    def of(today: date) -> Finding:
        return next(finding for finding in examine_casa({}, today) if finding.what == "CASA's data")

    released = date(*map(int, version("casadata").split(".")[:3]))
    assert of(released + timedelta(days=30)).state == "ok"
    old = of(released + timedelta(days=800))
    assert old.state == "warning" and old.well
    assert "800 days old" in old.found and old.way_out == "pip install --upgrade casadata"


def test_workers_that_would_ask_the_internet_are_told() -> None:
    found = next(one for one in examine_casa({"measures_auto_update": True}) if one.what == "network")
    assert found.state == "warning" and "measures_auto_update" in found.found


class WithoutLocks:
    """A file system whose locks do not keep anybody out, as some network mounts are."""

    def __getattr__(self, name: str) -> object:
        return getattr(fcntl, name)

    def flock(self, *_: object) -> None:
        """Let everybody in."""

    lockf = flock


def test_locks_that_keep_nobody_out_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", WithoutLocks())
    found = {one.what: one for one in examine_folder(tmp_path)}["file locks"]
    assert found.state == "bad" and "do not keep other processes out" in found.found


def test_schedulers_that_are_there_and_silent_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo = tmp_path / "sinfo"
    sinfo.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    sinfo.chmod(0o755)
    condor = tmp_path / "condor_status"
    condor.write_text("#!/bin/sh\necho schedd.example.org\n")
    condor.chmod(0o755)
    kubeconfig = tmp_path / "kubeconfig"
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "near"}}],
        # Nothing listens there.
        "clusters": [{"name": "near", "cluster": {"server": "https://127.0.0.1:1"}}],
    }
    kubeconfig.write_text(json.dumps(content))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    found = {one.what: one for one in examine_schedulers()}
    assert found["Slurm"].state == "warning" and "Unable to contact slurm controller" in found["Slurm"].found
    assert found["HTCondor"].state == "ok" and "schedd.example.org" in found["HTCondor"].found
    assert (
        found["Kubernetes"].state == "warning" and "https://127.0.0.1:1 does not answer" in found["Kubernetes"].found
    )
    assert found["Prefect"].state == "warning" and "prefect server start" in found["Prefect"].way_out
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    found = {one.what: one for one in examine_schedulers()}
    assert {found[name].state for name in ("Slurm", "HTCondor", "Kubernetes")} == {"not here"}


def test_a_folder_that_cannot_be_written_is_bad(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with ordinary_user():
        found = {one.what: one for one in examine_folder(folder)}["working folder"]
    assert found.state == "bad" and "--workdir" in found.way_out
