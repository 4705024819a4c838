from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest

from parallel.mpiruns import each_mpirun
from support import surgeline
from surgeline.errors import BadInput, ClusterError
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import Launcher, command, find_launcher, version_told
from surgeline.parallel.mpiwords import MpirunWords, cause_told
from surgeline.work.allowance import allowance

FOUR = Launcher(Path("/usr/bin/mpirun"), (4, 1, 4))
FIVE = Launcher(Path("/opt/env/bin/mpirun"), (5, 0, 11))
PROGRAM = ["python", "-m", "surgeline.cli", "run", "recipe.yaml"]
FRAME = "-" * 74 + "\n"


@pytest.mark.parametrize("launcher", [FOUR, FIVE], ids=str)
@pytest.mark.parametrize("root", [False, True])
def test_the_command_line_is_a_function_of_what_is_asked(launcher: Launcher, root: bool) -> None:
    memory = "sm" if launcher is FIVE else "vader"
    assert " ".join(command(launcher, 5, PROGRAM, {"HOME": "/home/me"}, root)) == (
        f"{launcher.path} -n 5 --map-by slot:OVERSUBSCRIBE --bind-to none --mca pml ob1 --mca btl self,{memory} "
        f"{'--allow-run-as-root ' if root else ''}python -m surgeline.cli run recipe.yaml"
    )


def test_what_the_session_needs_of_the_environment_goes_to_other_hosts_too() -> None:
    environment = {
        "SURGELINE__DASK__N_WORKERS": "3",
        "OMP_NUM_THREADS": "1",
        "CASASITECONFIG": "/casa",
        "MPI4PY_LIBMPI": "/lib/libmpi.so.40",
        "PYTHONPATH": "/mine",
        "OMPI_MCA_btl": "self",
        "HOME": "/home/me",
    }
    line = command(FOUR, 2, ["true"], environment, root=False)
    assert [name for option, name in pairwise(line) if option == "-x"] == [
        "CASASITECONFIG",
        "MPI4PY_LIBMPI",
        "OMP_NUM_THREADS",
        "PYTHONPATH",
        "SURGELINE__DASK__N_WORKERS",
    ]


@pytest.mark.parametrize("ranks", [1, 0, -3])
def test_a_session_needs_a_server_beside_its_client(ranks: int) -> None:
    with pytest.raises(BadInput, match=f"an MPI job of {ranks} is too small.*\n.*-n 2"):
        command(FIVE, ranks, PROGRAM, {}, root=False)


@each_mpirun
def test_mpirun_understands_the_command_line(mpirun: str) -> None:
    environment = clean_environment(os.environ) | {"SURGELINE__BACKEND": "auto"}
    # Open MPI 4 hangs now and then when many ranks end before all have started.
    program = ["/bin/sh", "-c", "sleep 0.3; echo $OMPI_COMM_WORLD_SIZE $SURGELINE__BACKEND"]
    ranks = (os.cpu_count() or 1) + 1
    line = command(find_launcher(mpirun), ranks, program, environment, root=os.geteuid() == 0)
    answer = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stderr.strip()) == (0, "")
    assert answer.stdout.split("\n") == [f"{ranks} auto"] * ranks + [""]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n", (4, 1, 4)),
        ("mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/\n", (5, 0, 11)),
        ("mpirun (Open MPI) 5.1.0rc2\n", (5, 1, 0)),
        ("HYDRA build details:\n    Version:                                 4.0.2\n", None),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307\n", None),
    ],
)
def test_only_open_mpi_tells_a_version_that_counts(text: str, version: tuple[int, ...] | None) -> None:
    assert version_told(text) == version


def stand_in(folder: Path, says: str = "mpirun (Open MPI) 4.1.4") -> Path:
    """A program that tells a version as mpirun does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mpirun"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_the_mpirun_beside_this_python_comes_before_the_one_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "environment" / "bin" / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.environ['PATH']}")
    on_path = stand_in(tmp_path / "path")
    assert find_launcher() == Launcher(on_path, (4, 1, 4))
    beside = stand_in(tmp_path / "environment" / "bin", "mpirun (Open MPI) 5.0.11")
    assert find_launcher() == Launcher(beside, (5, 0, 11))
    assert str(find_launcher()) == f"Open MPI 5.0.11, {beside}"
    asked = stand_in(tmp_path / "asked", "mpirun (Open MPI) 3.1.6")
    assert find_launcher(str(asked)) == Launcher(asked, (3, 1, 6))


def test_where_there_is_no_mpirun_the_error_says_where_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"there is no mpirun(.|\n)*surgeline\[mpi\](.|\n)*openmpi-bin"):
        find_launcher()
    with pytest.raises(ClusterError, match=r"mpi\.mpirun: /no/such/mpirun is no program"):
        find_launcher("/no/such/mpirun")
    with pytest.raises(ClusterError, match=r"is not Open MPI's mpirun(.|\n)*HYDRA(.|\n)*mpi\.mpirun=PATH"):
        find_launcher(stand_in(tmp_path, "HYDRA build details: Version: 4.0.2"))


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            "prterun noticed that process rank 1 with PID 10398 on node vm exited on\nsignal 9 (Killed).\n",
            "rank 1 on vm was killed by SIGKILL",
        ),
        (
            "Primary job  terminated normally, but 1 process returned\na non-zero exit code. Per user-direction, "
            f"the job has been aborted.\n{FRAME}{FRAME}"
            "mpirun noticed that process rank 12 with PID 0 on node n7 exited on signal 11 (Segmentation fault).\n",
            "rank 12 on n7 was killed by SIGSEGV",
        ),
        (
            "prterun detected that one or more processes exited with non-zero status,\nthus causing the job to be "
            "terminated. The first process to do so was:\n\n   Process name: [prterun-my-host-10403@1,1]\n"
            "   Exit code:    3\n",
            "rank 1 ended with exit code 3",
        ),
        (
            "mpirun detected that one or more processes exited with non-zero status, thus causing\nthe job to be "
            "terminated. The first process to do so was:\n\n  Process name: [[17854,1],2]\n  Exit code:    143\n",
            "rank 2 ended with exit code 143",
        ),
        (
            "mpirun has exited due to process rank 2 with PID 0 on\nnode vm exiting improperly. There are three",
            "rank 2 on vm ended without MPI_Finalize",
        ),
        ("MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n", "rank 1 called MPI_Abort"),
        (
            "ORTE has lost communication with a remote daemon.\n\n  HNP daemon   : [[41255,0],0] on node n1\n"
            "  Remote daemon: [[41255,0],1] on node n2\n\nThis is usually due to",
            "the connection to host n2 was lost",
        ),
        ("There are not enough slots available in the system", None),
    ],
)
def test_the_words_of_open_mpi_4_and_5_tell_which_rank_ended_a_job(words: str, cause: str | None) -> None:
    assert cause_told(f"{FRAME}{words}{FRAME}") == cause


def test_what_ranks_write_passes_whole_and_in_order() -> None:
    lines = b"a\n" + FRAME.encode() + b"".join(b"%d\n" % number for number in range(200)) + b"b\nunfinished"
    for size in (1, 7, 4096):
        heard = BytesIO()
        words = MpirunWords(heard)
        for start in range(0, len(lines), size):
            words.hear(lines[start : start + size])
        words.finish()
        assert heard.getvalue() == lines


def test_what_mpirun_says_of_an_end_is_held_back_and_all_else_is_not() -> None:
    noticed = "mpirun noticed that process rank 1 with PID 0 on node n exited on signal 9 (Killed).\n"
    end = f"{FRAME}{noticed}{FRAME}".encode()
    slots = f"{FRAME}There are not enough slots\navailable in the system:\n\n  true\n{FRAME}".encode()
    heard = BytesIO()
    words = MpirunWords(heard)
    words.hear(b"before\n" + end + b"between\n" + slots + b"after\n")
    words.finish()
    assert heard.getvalue() == b"before\nbetween\n" + slots + b"after\n"
    assert words.cause() == "rank 1 on n was killed by SIGKILL"
    words.show_held_back()
    assert heard.getvalue().endswith(b"after\n" + end)


def test_the_command_line_can_be_shown_without_starting_it(tmp_path: Path) -> None:
    mpirun = stand_in(tmp_path, "mpirun (Open MPI) 4.1.4")
    session = ("run", "calimage", "--vis", "a b.ms", "--set", f"mpi.mpirun={mpirun}")
    shown = surgeline("mpirun", "-n", 3, "--show", "--", *session, OMP_NUM_THREADS="1")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"{mpirun} -n 3 --map-by slot:OVERSUBSCRIBE --bind-to none ")
    assert shown.stdout.endswith(
        f"{sys.executable} -m surgeline.cli run calimage --vis 'a b.ms' --set mpi.mpirun={mpirun}\n"
    )
    assert " -x OMP_NUM_THREADS " in shown.stdout


def test_unless_told_otherwise_there_is_a_server_for_each_core(tmp_path: Path) -> None:
    shown = surgeline("mpirun", "--show", "--", "resume", "--set", f"mpi.mpirun={stand_in(tmp_path)}")
    assert f" -n {allowance().cores + 1} " in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-n", "1", "--", "run", "calimage"), "is too small"),
        (("--", "plan", "calimage"), "'plan calimage' starts none"),
        (("--", "run", "calimage", "--no-such-option"), "--no-such-option"),
        (("--", "run"), "recipe"),
        ((), "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_told_before_anything_starts(arguments: tuple[str, ...], complaint: str) -> None:
    answer = surgeline("mpirun", *arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert complaint in answer.stderr
