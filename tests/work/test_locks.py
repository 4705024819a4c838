from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from surgeline.errors import DataError
from surgeline.work.locks import lock_holder, wait_until_unlocked

# A process that takes a lock as casacore does, says so, and holds it until its input ends.
HOLD = """
import fcntl, os, sys
kind, first = getattr(fcntl, sys.argv[2]), int(sys.argv[3])
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, kind, 1, first, os.SEEK_SET)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(table: Path, kind: str = "LOCK_EX", first: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(table / "table.lock"), kind, str(first)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "my.ms"
    path.mkdir()
    (path / "table.lock").write_bytes(bytes(300))
    return path


def test_a_free_table_is_free(table: Path) -> None:
    assert lock_holder(table) is None
    wait_until_unlocked(table, 0)


def test_a_folder_without_a_lock_file_is_free(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None


@pytest.mark.parametrize("kind", ["LOCK_EX", "LOCK_SH"])
def test_the_process_that_holds_the_lock_is_named(table: Path, kind: str) -> None:
    with held(table, kind) as process:
        assert lock_holder(table) == process.pid
        with pytest.raises(DataError) as caught:
            wait_until_unlocked(table, 0)
    message = str(caught.value)
    assert str(table) in message
    assert f"process {process.pid}" in message
    assert "python" in message
    assert lock_holder(table) is None


def test_a_table_that_is_only_open_elsewhere_is_free(table: Path) -> None:
    with held(table, first=1):
        assert lock_holder(table) is None


def test_waiting_ends_when_the_lock_is_given_back(table: Path) -> None:
    with held(table) as process:
        assert process.stdin is not None
        process.stdin.close()
        started = time.monotonic()
        wait_until_unlocked(table, 20)
        assert time.monotonic() - started < 10


def test_a_lock_that_casa_itself_holds_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "casa.table"
    code = """
import sys
from pathlib import Path
from surgeline.work.casaprocess import CasaProcess
CasaProcess(Path.cwd(), Path("casa.log")).prepare()
from casatools import table
tool = table()
tool.create(sys.argv[1], {"X": {"valueType": "int"}}, lockoptions={"option": "permanent"})
print("held", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        assert lock_holder(path) == process.pid
        process.stdin.close()
        process.wait()
    assert lock_holder(path) is None
