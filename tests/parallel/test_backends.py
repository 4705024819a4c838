from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from surgeline import FunctionCall, JobRequest, Outcome, TaskQueue, open_backend
from surgeline.config import load
from surgeline.errors import ClusterError
from surgeline.parallel.daskhelpers import DaskBackend
from surgeline.parallel.dispatch import Bundle
from surgeline.work.outcome import Loss
from surgeline.work.taskqueue import Backend

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

RETRIES = 1


@dataclass
class Opened:
    """A backend with what a user sees of it."""

    backend: Backend
    folder: Path
    losses: list[tuple[str, Loss]] = field(default_factory=list)

    def queue(self, **options: Any) -> TaskQueue:
        return TaskQueue(self.backend, **options)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Outcome:
        with self.queue() as queue:
            queue.add_functioncall(function, *arguments)
            (outcome,) = queue.get_results()
        return outcome


def opened(folder: Path, *overrides: str) -> Opened:
    found = Opened.__new__(Opened)
    found.folder, found.losses = folder, []
    found.backend = open_backend(
        load(overrides=overrides, environment={}, home=folder),
        folder=folder,
        lost=lambda job, loss: found.losses.append((job, loss)),
    )
    return found


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    found = opened(tmp_path_factory.mktemp("serial"), "backend=serial")
    yield found
    found.backend.close()


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    found = opened(
        tmp_path_factory.mktemp("dask"),
        "backend=dask",
        "dask.n_workers=2",
        f"dask.retries={RETRIES}",
        "worker.memory=1GB",
    )
    yield found
    found.backend.close()


@pytest.fixture(params=["serial", "dask"])
def either(request: pytest.FixtureRequest) -> Opened:
    found: Opened = request.getfixturevalue(request.param)
    return found


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not so: {what}"
        time.sleep(0.02)


def wait_for_file(path: Path) -> str:
    wait_until(path.exists, 60, f"{path} exists")
    return path.name


def double(number: int) -> int:
    return 2 * number


def divide(one: float, other: float) -> float:
    return one / other


def meet(mine: Path, other: Path) -> int:
    """Ends only when its counterpart runs at the same time."""
    mine.touch()
    wait_until(other.exists, 60, f"{other} exists")
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        die()
    return "survived"


def note_process(marker: Path) -> str:
    marker.write_text(str(os.getpid()))
    return "noted"


def announce_and_hang(marker: Path) -> None:
    marker.touch()
    time.sleep(300)


def import_visibilities(name: str) -> JobRequest:
    found = find_spec("casadata")
    assert found is not None and found.submodule_search_locations
    demo = Path(found.submodule_search_locations[0]) / "__data__" / "demo" / "3C273XC1.fits"
    return JobRequest("importuvfits", {"fitsfile": demo, "vis": name})


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


# What holds for every backend.


def test_results_come_in_the_order_added_whichever_ends_first(either: Opened) -> None:
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    durations = [0.3, 0.0, 0.1, 0.0, 0.05]
    with either.queue() as queue:
        queue.map(nap, durations)
        assert [outcome.value for outcome in queue.get_results()] == durations


def test_every_outcome_comes_once_as_completed(either: Opened) -> None:
    with either.queue() as queue:
        queue.map(double, range(50))
        values = [outcome.value for outcome in queue.as_completed()]
    assert sorted(values) == [2 * number for number in range(50)]


def test_duplicates_are_dropped_when_asked(either: Opened) -> None:
    with either.queue(unique=True) as queue:
        assert [queue.add_functioncall(double, number) for number in (1, 1, 2)] == [True, False, True]
        assert [outcome.value for outcome in queue.get_results()] == [2, 4]


def test_an_outcome_says_where_and_how_the_job_ran(either: Opened) -> None:
    outcome = either.run(double, 21)
    assert outcome.result() == 42
    assert (outcome.job, outcome.call, outcome.host) == ("double", "double(21)", socket.gethostname())
    assert outcome.worker.startswith("session" if either.backend.name == "serial" else "worker-")
    assert (outcome.process == os.getpid()) == (either.backend.name == "serial")
    assert 0 < outcome.peak_memory < 10**9
    assert outcome.started <= outcome.ended


def test_a_job_that_raises_tells_its_traceback_and_costs_no_others_result(either: Opened) -> None:
    with either.queue() as queue:
        queue.map(divide, [1, 2, 3, 4], [1, 0, 3, 0])
        outcomes = queue.get_results()
    assert [outcome.value for outcome in outcomes] == [1, None, 1, None]
    failure = outcomes[1].failure
    assert failure is not None
    assert failure.message == "ZeroDivisionError: division by zero"
    assert "return one / other" in failure.traceback
    assert outcomes[1].call == "divide(2, 0)"


def test_sys_exit_in_a_job_ends_the_job_and_not_its_worker(either: Opened) -> None:
    before = either.run(os.getpid).value
    outcome = either.run(sys.exit, 3)
    assert outcome.failure is not None
    assert outcome.failure.kind == "exit"
    assert "sys.exit(3)" in outcome.failure.message
    assert outcome.losses == ()
    if either.backend.name == "serial":
        assert either.run(os.getpid).value == before


def test_lambdas_local_functions_and_their_surroundings_can_be_jobs(either: Opened) -> None:
    factor = 3

    def local(number: int) -> int:
        return factor * double(number)

    assert either.run(lambda: factor + 1).result() == 4
    assert either.run(local, 2).result() == 12


def test_a_job_runs_in_the_fixed_working_folder_whatever_the_one_before_did(either: Opened) -> None:
    def wander() -> None:
        os.chdir("/")

    with either.queue() as queue:
        for _ in range(4):
            queue.add_functioncall(wander)
        queue.get_results()
        for _ in range(4):
            queue.add_functioncall(os.getcwd)
        assert {outcome.value for outcome in queue.get_results()} == {str(either.folder)}


def test_jobs_that_are_near_each_other_have_the_same_worker_whatever_comes_between(dask: Opened) -> None:
    found: dict[str, set[int]] = {"first": set(), "second": set()}
    for _ in range(20):
        with dask.queue() as queue:
            for name in found:
                queue.add(FunctionCall(os.getpid).declare(name=f"{name} part", near=name))
            for name, outcome in zip(found, queue.get_results(), strict=True):
                found[name].add(outcome.result())
        # As soon as its outcome is there, the next two are sent: its worker is not free a moment too late.
        dask.run(os.getpid)
    assert len(found["first"]) == len(found["second"]) == 1


def test_a_large_value_and_large_arguments_arrive_whole(either: Opened) -> None:
    data = os.urandom(4_000_000)
    assert either.run(bytes.__add__, data, b"!").result() == data + b"!"


def test_jobs_may_print_megabytes(either: Opened, capfd: pytest.CaptureFixture[str]) -> None:
    def chatter() -> int:
        for _ in range(50):
            print("x" * 100_000)
            os.write(2, b"y" * 100_000)
        return 50

    with either.queue() as queue:
        for _ in range(2):
            queue.add_functioncall(chatter)
        assert [outcome.value for outcome in queue.get_results()] == [50, 50]
    if either.backend.name == "dask":
        # What workers print does not garble the session's display: it is in their own logs.
        assert capfd.readouterr() == ("", "")
        sizes = [path.stat().st_size for path in (either.folder / "logs").glob("worker-*.out")]
        assert sum(sizes) >= 20_000_000


def test_a_casa_tasks_commands_and_log_are_in_its_outcome_and_in_no_others(either: Opened) -> None:
    with either.queue() as queue:
        queue.add(import_visibilities("commands.ms"))
        (made,) = queue.get_results()
        queue.add_jobrequest("listobs", {"vis": "commands.ms", "listfile": "commands.txt"})
        (listed,) = queue.get_results()
    made.result()
    assert (either.folder / "commands.ms" / "table.dat").is_file()
    assert len(made.commands) == len(listed.commands) == 1
    assert made.commands[0].startswith("importuvfits( fitsfile=")
    assert listed.commands[0].startswith("listobs( vis='commands.ms'")
    assert any("Begin Task: importuvfits" in line for line in made.log)
    assert any("End Task: listobs" in line for line in listed.log)
    assert not any("importuvfits" in line for line in listed.log)
    assert "3C273" in (either.folder / "commands.txt").read_text()


def test_a_casa_task_that_fails_is_a_failure_that_names_the_cause(either: Opened) -> None:
    with either.queue() as queue:
        queue.add_jobrequest("listobs", {"vis": "missing.ms"})
        queue.add_functioncall(double, 1)
        outcome, other = queue.get_results()
    assert outcome.failure is not None
    assert "missing.ms" in outcome.failure.message
    assert outcome.call == "listobs(vis='missing.ms')"
    assert other.ok


def test_a_task_that_leaves_no_file_has_failed_even_if_it_says_nothing(either: Opened) -> None:
    with either.queue() as queue:
        queue.add(FunctionCall(double, 1).declare(writes=["never.ms"]))
        (outcome,) = queue.get_results()
    assert outcome.failure is not None
    assert "never.ms" in outcome.failure.message


def test_casa_logs_in_the_log_folder_and_nowhere_else(either: Opened) -> None:
    def log_something() -> str:
        from casatasks import casalog

        casalog.post("here", "WARN")
        return str(casalog.logfile())

    outcome = either.run(log_something)
    log = Path(outcome.result())
    assert log.parent == either.folder / "logs"
    assert "\there" in log.read_text()
    assert any("here" in line for line in outcome.log)
    assert list(either.folder.glob("*.log")) == []
    assert list(Path.cwd().glob("casa-*.log")) == []


def test_a_job_can_be_run_once_on_every_worker(either: Opened) -> None:
    outcomes = either.backend.exec_everywhere(FunctionCall(os.getpid))
    assert len({outcome.result() for outcome in outcomes}) == either.backend.workers
    assert len({outcome.worker for outcome in outcomes}) == either.backend.workers
    (failed, *_) = either.backend.exec_everywhere(FunctionCall(divide, 1, 0))
    assert failed.failure is not None
    assert failed.failure.message == "ZeroDivisionError: division by zero"


def test_jobs_that_wait_can_be_cancelled(either: Opened, tmp_path: Path) -> None:
    with either.queue() as queue:
        for number in range(2):
            queue.add_functioncall(wait_for_file, tmp_path / f"go-{number}")
        queue.map(double, range(10))
        queue.cancel()
        # The first two may go on where a backend cannot stop what runs.
        for number in range(2):
            (tmp_path / f"go-{number}").touch()
        outcomes = queue.get_results()
    kinds = [outcome.failure.kind if outcome.failure else "" for outcome in outcomes]
    assert kinds[2:] == ["cancelled"] * 10
    assert either.run(double, 4).result() == 8


def test_a_closed_backend_says_so(tmp_path: Path) -> None:
    closed = opened(tmp_path, "backend=serial")
    closed.backend.close()
    with pytest.raises(ClusterError, match="double"):
        closed.run(double, 1)


def test_auto_takes_the_serial_backend_for_one_worker(tmp_path: Path) -> None:
    one = opened(tmp_path, "dask.n_workers=1")
    try:
        assert (one.backend.name, one.backend.workers) == ("serial", 1)
        assert one.run(double, 4).result() == 8
    finally:
        one.backend.close()


# What holds where jobs travel.


def test_two_workers_work_at_once(dask: Opened, tmp_path: Path) -> None:
    assert (dask.backend.name, dask.backend.workers) == ("dask", 2)
    with dask.queue() as queue:
        queue.add_functioncall(meet, tmp_path / "one", tmp_path / "other")
        queue.add_functioncall(meet, tmp_path / "other", tmp_path / "one")
        one, other = (outcome.result() for outcome in queue.get_results())
    assert one != other
    assert os.getpid() not in (one, other)


def test_jobs_that_are_not_urgent_let_others_go_first(dask: Opened, tmp_path: Path) -> None:
    with dask.queue(urgent=False) as leisure, dask.queue() as urgent:
        for _ in range(2):
            urgent.add_functioncall(wait_for_file, tmp_path / "go")
        leisure.add_functioncall(double, 1)
        urgent.map(double, range(6))
        (tmp_path / "go").touch()
        works = urgent.get_results()[2:]
        (plot,) = leisure.get_results()
    # When it is sent off, every other has been, and only the last of them can be still at work.
    assert sum(work.ended <= plot.started for work in works) >= 4


def test_a_value_that_cannot_travel_is_a_failure_of_its_job_alone(dask: Opened) -> None:
    class Fragile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (int, ("no number",))

    with dask.queue() as queue:
        queue.add_functioncall(threading.Lock)
        queue.add_functioncall(double, 1)
        queue.add_functioncall(Fragile)
        queue.add_functioncall(double, 2)
        unpicklable, one, broken, two = queue.get_results()
    assert (one.value, two.value) == (2, 4)
    for outcome, told in ((unpicklable, "lock"), (broken, "no number")):
        assert outcome.failure is not None
        assert outcome.failure.kind == "unpicklable"
        assert told in outcome.failure.message
    assert broken.job == "Fragile"


def test_an_argument_that_cannot_travel_is_told_where_the_job_is_added(dask: Opened) -> None:
    with dask.queue() as queue:
        with pytest.raises(ClusterError) as caught:
            queue.add_functioncall(print, threading.Lock())
        queue.add_functioncall(double, 1)
        assert [outcome.value for outcome in queue.get_results()] == [2]
    assert "print" in str(caught.value)
    assert "pickle" in str(caught.value)


def test_an_argument_that_breaks_on_its_way_is_a_failure_of_its_job_alone(dask: Opened) -> None:
    class Fragile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (int, ("no number",))

    with dask.queue() as queue:
        # Short ones travel together once it is known that they are short.
        queue.map(double, range(100))
        queue.get_results()
        for number in range(30):
            queue.add_functioncall(double, Fragile() if number == 15 else number)
        outcomes = queue.get_results()
    assert [outcome.value for outcome in outcomes] == [None if n == 15 else 2 * n for n in range(30)]
    failure = outcomes[15].failure
    assert failure is not None
    assert failure.kind == "unpicklable"
    assert "no number" in failure.message
    assert outcomes[15].job == "double"


def test_a_running_job_can_be_cancelled_and_its_worker_is_replaced(dask: Opened, tmp_path: Path) -> None:
    with dask.queue() as queue:
        for name in ("one", "other"):
            queue.add_functioncall(announce_and_hang, tmp_path / name)
        queue.map(double, range(5))
        for name in ("one", "other"):
            wait_for_file(tmp_path / name)
        started = time.monotonic()
        queue.cancel()
        outcomes = queue.get_results()
    assert time.monotonic() - started < 20
    assert {outcome.failure.kind for outcome in outcomes if outcome.failure} == {"cancelled"}
    assert not any(outcome.ok for outcome in outcomes)
    with dask.queue() as queue:
        queue.add_functioncall(meet, tmp_path / "three", tmp_path / "four")
        queue.add_functioncall(meet, tmp_path / "four", tmp_path / "three")
        assert all(outcome.ok for outcome in queue.get_results())


def test_an_exception_that_leaves_the_queue_stops_what_runs(dask: Opened, tmp_path: Path) -> None:
    def leave_with_an_error() -> None:
        with dask.queue() as queue:
            queue.add_functioncall(announce_and_hang, tmp_path / "running")
            wait_for_file(tmp_path / "running")
            raise RuntimeError("the user's own")

    started = time.monotonic()
    with pytest.raises(RuntimeError, match="the user's own"):
        leave_with_an_error()
    assert time.monotonic() - started < 20
    assert dask.run(double, 4).result() == 8


def test_cancelling_one_queue_costs_no_job_of_another(dask: Opened, tmp_path: Path) -> None:
    def short(number: int) -> int:
        if number < 0:
            announce_and_hang(tmp_path / "hanging")
        return number

    tickets: list[str] = []
    with dask.queue() as learning:
        learning.map(short, range(100))
        learning.get_results()
    with dask.queue(added=lambda ticket, job: tickets.append(ticket)) as cancelled, dask.queue() as kept:
        # With both workers held, what is added waits, and what is short then goes in bundles.
        for _ in range(2):
            kept.add_functioncall(wait_for_file, tmp_path / "go")
        cancelled.add_functioncall(short, -1)
        kept.map(short, range(20))
        (tmp_path / "go").touch()
        wait_for_file(tmp_path / "hanging")
        assert dask.backend.running(tickets[0])
        cancelled.cancel()
        (stopped,) = cancelled.get_results()
        outcomes = kept.get_results()
    assert stopped.failure is not None
    assert stopped.failure.kind == "cancelled"
    assert [outcome.value for outcome in outcomes] == ["go", "go", *range(20)]


def test_a_job_whose_worker_is_killed_once_is_run_again(dask: Opened, tmp_path: Path) -> None:
    already = len(dask.losses)

    def make() -> str:
        made = tmp_path / "made"
        assert not made.exists(), "what the first attempt left is in the way"
        made.touch()
        return die_once(tmp_path / "marker")

    with dask.queue() as queue:
        queue.add(FunctionCall(make).declare(name="make it", writes=[str(tmp_path / "made")]))
        (outcome,) = queue.get_results()
    assert outcome.result() == "survived"
    (loss,) = outcome.losses
    assert "SIGKILL" in loss.how
    assert loss.when <= outcome.started
    # It is told while it happens, too.
    assert dask.losses[already:] == [("make it", loss)]


def test_a_job_that_kills_every_worker_fails_and_the_innocent_are_unharmed(dask: Opened, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def kill() -> None:
        die_once(marker)
        os._exit(7)

    def work(number: int) -> int:
        time.sleep(0.3)
        return number

    with dask.queue() as queue:
        queue.add(FunctionCall(kill).declare(name="the killer"))
        queue.map(work, range(8))
        killer, *innocent = queue.get_results()
    assert killer.failure is not None
    assert (killer.job, killer.failure.kind) == ("the killer", "worker died")
    assert "exit code 7" in killer.failure.message
    assert len(killer.losses) == RETRIES + 1
    assert "signal 9 (SIGKILL)" in killer.losses[0].how
    # A worker's death is blamed on the job that it ran, and on no other.
    assert [(outcome.value, outcome.losses) for outcome in innocent] == [(number, ()) for number in range(8)]


def test_how_a_worker_died_is_told_of_one_that_dies_before_its_nanny_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How often a nanny looks whether the process that it started is there: each job dies in between.
    monkeypatch.setattr("distributed.nanny.WorkerProcess._init_msg_interval", 1.0)
    found = opened(tmp_path, "backend=dask", "dask.n_workers=1", "dask.retries=2")
    try:
        outcome = found.run(os._exit, 7)
    finally:
        found.backend.close()
    assert outcome.failure is not None
    assert [loss.how for loss in outcome.losses] == ["its process ended with exit code 7"] * 3


def test_short_jobs_that_die_together_are_told_apart(dask: Opened) -> None:
    def short(number: int) -> int:
        if number == 25:
            die()
        return number

    with dask.queue() as queue:
        queue.map(short, range(100, 200))
        queue.get_results()
        queue.map(short, range(50))
        outcomes = queue.get_results()
    assert [outcome.value for outcome in outcomes] == [None if number == 25 else number for number in range(50)]
    assert outcomes[25].failure is not None
    assert outcomes[25].failure.kind == "worker died"


def test_a_job_that_needs_too_much_memory_is_told_as_such(dask: Opened) -> None:
    def grow() -> int:
        import numpy as np

        held = []
        # Slowly enough for it to be noticed, and not without end.
        while len(held) < 60:
            held.append(np.ones(5_000_000))
            time.sleep(0.03)
        return len(held)

    with dask.queue() as queue:
        queue.add_functioncall(grow)
        queue.add_functioncall(double, 1)
        outcome, other = queue.get_results()
    assert outcome.failure is not None
    assert outcome.failure.kind == "out of memory"
    assert "1.00 GB" in outcome.failure.message
    assert outcome.job == "grow"
    assert other.ok


def test_workers_are_replaced_however_often_they_die(dask: Opened, tmp_path: Path) -> None:
    import dask as library

    # Dask gives a worker up that is away for this long; a replacement that loads CASA takes longer.
    with library.config.set({"distributed.deploy.lost-worker-timeout": "50ms"}), dask.queue() as queue:
        for number in range(2):
            queue.add_functioncall(die_once, tmp_path / f"marker-{number}")
        assert [outcome.value for outcome in queue.get_results()] == ["survived"] * 2
        queue.add_functioncall(meet, tmp_path / "one", tmp_path / "other")
        queue.add_functioncall(meet, tmp_path / "other", tmp_path / "one")
        assert all(outcome.ok for outcome in queue.get_results())


def test_closing_with_jobs_at_work_ends_them_and_leaves_no_process(dask: Opened, tmp_path: Path) -> None:
    # When all workers of the other cluster have run this, none of them is still to come.
    dask.backend.exec_everywhere(FunctionCall(os.getpid))
    before = set(workers_of(psutil.Process()))
    found = opened(tmp_path, "backend=dask", "dask.n_workers=2")
    mine = set(workers_of(psutil.Process())) - before
    assert len(mine) == 2
    outcomes: list[Outcome] = []
    queue = found.queue(done=lambda ticket, job, outcome: outcomes.append(outcome))
    queue.add_functioncall(announce_and_hang, tmp_path / "running")
    queue.map(double, range(5))
    wait_for_file(tmp_path / "running")
    found.backend.close()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in mine)
    assert set(workers_of(psutil.Process())) <= before
    hanging = queue.get_results()[0]
    assert hanging.failure is not None
    assert hanging.failure.kind == "cancelled"
    with pytest.raises(ClusterError, match="double"):
        queue.add_functioncall(double, 1)
    # Once more does no harm.
    found.backend.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "running"]


SESSION = """
import os, time
from pathlib import Path
from surgeline import TaskQueue, open_backend
from surgeline.config import load

def hang():
    Path(f"worker.{os.getpid()}").touch()
    time.sleep(300)

if __name__ == "__main__":
    queue = TaskQueue(open_backend(load(overrides=["backend=dask", "dask.n_workers=2"])))
    queue.add_functioncall(hang)
    queue.add_functioncall(hang)
    queue.get_results()
"""


def test_a_session_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    (tmp_path / "session.py").write_text(SESSION)
    session = subprocess.Popen([sys.executable, "session.py"], cwd=tmp_path)
    try:
        wait_until(lambda: len(list(tmp_path.glob("worker.*"))) == 2, 60, "both workers work")
        workers = [int(path.suffix[1:]) for path in tmp_path.glob("worker.*")]
        assert all(psutil.pid_exists(worker) for worker in workers)
    finally:
        session.kill()
        session.wait()
    wait_until(lambda: not any(map(psutil.pid_exists, workers)), 20, "the workers have ended")


def test_a_cluster_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        # An address for documentation, which no machine has.
        opened(tmp_path, "backend=dask", "dask.n_workers=1", "dask.host=192.0.2.1")
    assert "'local'" in str(caught.value)
    assert "dask.host" in str(caught.value)


def test_workers_on_which_casa_does_not_start_say_why_and_are_not_left_behind(tmp_path: Path) -> None:
    before = set(workers_of(psutil.Process()))
    with pytest.raises(ClusterError) as caught:
        opened(tmp_path, "backend=dask", "dask.n_workers=1", "casaconfig={datapath: [], measurespath: /nowhere}")
    assert "casaconfig" in str(caught.value)
    assert set(workers_of(psutil.Process())) <= before


def test_a_cluster_that_is_not_in_reach_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ClusterError, match=r"(?s)Kubernetes does not answer.*KUBECONFIG"):
        opened(tmp_path, "clusters.pods={type: kubernetes, image: casa}", "dask.cluster=pods")


def test_a_result_that_is_lost_with_its_worker_before_it_is_fetched_is_computed_again(
    dask: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(dask.backend, DaskBackend)
    gather, marker, killed = dask.backend._gather, tmp_path / "process", []

    def too_late(bundle: Bundle) -> Any:
        if not killed:
            killed.append(int(marker.read_text()))
            os.kill(killed[0], signal.SIGKILL)
            wait_until(lambda: bool(dask.backend._departed.intersection(bundle.place)), 30, "the worker is gone")
        return gather(bundle)

    monkeypatch.setattr(dask.backend, "_gather", too_late)
    outcome = dask.run(note_process, marker)
    assert outcome.result() == "noted" and int(marker.read_text()) != killed[0]
    (loss,) = outcome.losses
    assert "SIGKILL" in loss.how
