from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import cloudpickle
import pytest

from surgeline import FunctionCall, Outcome
from surgeline.errors import DataError, JobFailed
from surgeline.work.execution import execute, execute_pickled
from surgeline.work.surroundings import Surroundings


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, text: str = "done") -> None:
    Path(path).write_text(text)


def divide(one: int, other: int) -> float:
    return one / other


def raised(error: BaseException) -> Outcome:
    def fail() -> None:
        raise error

    return execute(FunctionCall(fail), Surroundings("worker-0"))


def test_an_outcome_says_what_running_the_job_took() -> None:
    def work() -> int:
        # Memory that was touched, and processor time that was used.
        data = bytearray(os.urandom(1) * 150_000_000)
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return len(data)

    before = time.time()
    outcome = execute(FunctionCall(work).declare(name="hard work"), Surroundings("worker-7"))
    assert outcome.ok
    assert outcome.result() == 150_000_000
    assert (outcome.job, outcome.call) == ("hard work", "work()")
    assert (outcome.worker, outcome.host, outcome.process) == ("worker-7", socket.gethostname(), os.getpid())
    assert before <= outcome.started <= outcome.ended - 0.2 <= time.time()
    assert 0.2 <= outcome.cpu_seconds < 5
    small = execute(FunctionCall(divide, 1, 2), Surroundings("worker-7"))
    # The peak is the job's own and not what the process ever used.
    assert outcome.peak_memory - small.peak_memory > 100_000_000


def test_an_exception_is_told_with_its_traceback() -> None:
    outcome = execute(FunctionCall(divide, 1, 0), Surroundings("worker-0"))
    assert not outcome.ok
    assert outcome.failure is not None
    assert outcome.failure.kind == "exception"
    assert outcome.failure.message == "ZeroDivisionError: division by zero"
    assert "in divide" in outcome.failure.traceback
    with pytest.raises(JobFailed) as caught:
        outcome.result()
    message = str(caught.value)
    for told in ("divide failed on worker-0", "division by zero", "divide(1, 0)", "return one / other"):
        assert told in message


def test_an_error_of_surgelines_own_keeps_its_way_out() -> None:
    outcome = raised(DataError("my.ms is empty", "observe again"))
    assert outcome.failure is not None
    assert outcome.failure.message == "my.ms is empty\n  observe again"


@pytest.mark.parametrize(
    ("stop", "kind"), [(SystemExit(3), "exit"), (KeyboardInterrupt(), "exception"), (GeneratorExit(), "exception")]
)
def test_what_would_end_a_process_ends_only_the_job(stop: BaseException, kind: str) -> None:
    outcome = raised(stop)
    assert outcome.failure is not None
    assert outcome.failure.kind == kind


def test_a_file_that_was_promised_and_not_written_is_a_failure() -> None:
    job = FunctionCall(write, "one").declare(writes=["one", "two"])
    outcome = execute(job, Surroundings("worker-0"))
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.message) == ("reported", "it ended without writing two")
    assert outcome.value is None
    assert execute(FunctionCall(write, "two").declare(writes=["one", "two"]), Surroundings("worker-0")).ok


def test_a_job_that_changes_the_directory_changes_it_for_itself_only(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()

    def wander() -> str:
        Path("here").touch()
        os.chdir("elsewhere")
        return str(Path.cwd())

    outcome = execute(FunctionCall(wander).declare(writes=["here"]), Surroundings("worker-0"))
    assert outcome.result() == str(tmp_path / "elsewhere")
    assert Path.cwd() == tmp_path

    def wander_and_fail() -> None:
        os.chdir("elsewhere")
        raise ValueError

    assert not execute(FunctionCall(wander_and_fail), Surroundings("worker-0")).ok
    assert Path.cwd() == tmp_path


def test_what_an_interrupted_attempt_left_is_removed_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "half").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")

    def make(path: str) -> list[str]:
        Path(path).mkdir(exist_ok=True)
        return [found.name for found in Path(path).iterdir()]

    job = FunctionCall(make, "table").declare(writes=["table"])
    assert execute(job, Surroundings("worker-0")).value == ["half"]
    assert execute(job.declare(overwrite=True), Surroundings("worker-0")).value == []
    assert execute(FunctionCall(make, "link").declare(writes=["link"], overwrite=True), Surroundings("worker-0")).ok
    assert (tmp_path / "kept").is_dir()
    assert not (tmp_path / "link").is_symlink()


def test_a_job_waits_for_a_table_that_another_process_has_locked(tmp_path: Path) -> None:
    (tmp_path / "my.ms").mkdir()
    lock = tmp_path / "my.ms" / "table.lock"
    lock.write_bytes(bytes(300))
    # Held until a moment after the job has begun to wait for it.
    hold = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX, 1, 0, 0); "
        "print(flush=True); sys.stdin.readline(); time.sleep(0.3)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()

        def lock_it() -> None:
            with lock.open("r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, 0)

        assert execute(FunctionCall(lock_it).declare(changes=["my.ms"]), Surroundings("worker-0")).ok


def test_a_value_that_cannot_be_pickled_is_a_failure_of_its_job_alone() -> None:
    def open_file() -> Any:
        return Path("file").open("w")

    outcome: Outcome = cloudpickle.loads(
        execute_pickled(cloudpickle.dumps(FunctionCall(open_file)), Surroundings("worker-0"))
    )
    assert outcome.failure is not None
    assert outcome.failure.kind == "unpicklable"
    assert "TextIOWrapper" in outcome.failure.message
    assert outcome.job == "open_file"


def test_a_job_that_cannot_be_unpickled_is_a_failure_and_not_an_exception() -> None:
    class Fragile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (int, ("no number",))

    pickled = cloudpickle.dumps(FunctionCall(len, Fragile()))
    outcome: Outcome = cloudpickle.loads(execute_pickled(pickled, Surroundings("worker-0")))
    assert outcome.failure is not None
    assert outcome.failure.kind == "unpicklable"
    assert "no number" in outcome.failure.message


def test_a_value_may_be_anything_that_pickles_itself() -> None:
    class Odd:
        def __reduce__(self) -> tuple[Any, ...]:
            return (str, ("odd",))

        def copy(self) -> Self:
            return self

    outcome: Outcome = cloudpickle.loads(
        execute_pickled(cloudpickle.dumps(FunctionCall(Odd)), Surroundings("worker-0"))
    )
    assert outcome.result() == "odd"


def test_a_casa_task_that_only_logs_its_failure_is_told_with_casas_own_words() -> None:
    # In a process of its own: CASA's log belongs to a process.
    code = """
from pathlib import Path
from surgeline.work.casaprocess import CasaProcess
from surgeline.work.execution import execute
from surgeline.work.surroundings import Surroundings
CasaProcess(Path.cwd(), Path("logs/casa.log")).prepare()
from surgeline.work.surroundings import Surroundings
from surgeline import FunctionCall
def complain(text):
    from casatasks import casalog
    casalog.post(text, "SEVERE")
first = execute(FunctionCall(complain, "an older complaint").declare(writes=["one"]), Surroundings("worker-0"))
second = execute(FunctionCall(len, []).declare(writes=["two"]), Surroundings("worker-0"))
print(first.failure.message)
print(second.failure.message)
print(len(first.log), len(second.log))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, counts = answer.stdout.splitlines()[-3:]
    assert first.startswith("it ended without writing one")
    assert "an older complaint" in first
    # What an earlier job complained of is no cause of this one's failure.
    assert second == "it ended without writing two"
    assert counts == "1 0"
    assert [path.name for path in Path.cwd().iterdir()] == ["logs"]
