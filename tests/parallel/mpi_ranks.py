"""What ranks run that tests start by mpirun: `mpi_ranks.py SCENARIO FOLDER VIS`; results go to FOLDER/results.json.

Servers serve; the client runs one of the functions below on a backend and notes what it saw.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surgeline.parallel.mpiserver import serve_if_server

BIG = 300_000_000


class Untold(Exception):
    """Does not survive pickling: it is made with two arguments, and keeps one."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(one)


class Task:
    """A task of a pipeline framework, as far as a job sees."""

    class Inputs:
        def __init__(self, context: dict[str, int], by: int) -> None:
            self.value = context["value"] * by

    def __init__(self, inputs: Task.Inputs) -> None:
        self.inputs = inputs

    def execute(self) -> int:
        return self.inputs.value


def same(value: Any) -> Any:
    return value


def turned(content: bytes) -> bytes:
    return content[::-1]


def misbehave(how: str) -> Any:
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise ValueError("on purpose")
    if how == "raise unpicklable":
        raise Untold(1, 2)
    if how == "return unpicklable":
        return threading.Lock()
    if how == "print":
        print("x" * 5_000_000)
        os.write(2, b"y" * 1_000_000)
    if how == "move":
        os.chdir("/")
    return str(Path.cwd())


def started_by_job() -> str:
    """What a program sees that a job starts, and that uses MPI."""
    told = "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"
    return subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60).stdout.strip()


def leave_behind() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid


class Bomb:
    """Does not survive the way back."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, (os.getpid(),)


def explode(process: int) -> None:
    if os.getpid() != process:
        raise RuntimeError("on the way")


def bomb() -> Bomb:
    return Bomb()


def die_as(worker: str) -> str:
    from surgeline.work.surroundings import current

    if current().worker == worker:
        die()
    return "lived"


def asked(size: int) -> list[int]:
    """The size of an answer, and how many of its bytes are right."""
    from surgeline.work.surroundings import FactQuery, current

    [(number, text)] = current().facts(FactQuery("large", size, "Observation"))
    return [number, len(text), text.count("x")]


def answer(query: Any) -> list[tuple[int, str]]:
    if query.context == "nowhere":
        raise OSError("the store is gone")
    if query.context == "large":
        return [(query.version, "x" * query.version)]
    return [(1, query.context)]


def who() -> tuple[int, str]:
    return os.getpid(), os.environ.get("SURGELINE_SET_UP", "")


def set_up(text: str) -> int:
    os.environ["SURGELINE_SET_UP"] = text
    return os.getpid()


def wait_for(theirs: str, mine: str) -> str:
    """Says that it runs, and waits until the other does."""
    Path(mine).touch()
    deadline = time.monotonic() + 60
    while not Path(theirs).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(theirs)
        time.sleep(0.01)
    return os.environ.get("OMPI_COMM_WORLD_RANK", "none")


def flag_and_die(vis: str, marker: str) -> str:
    """The first time it is called its process is killed while CASA works."""
    from casatasks import flagdata

    if not Path(marker).exists():
        Path(marker).touch()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
        while True:
            flagdata(vis=vis, mode="tfcrop", action="calculate")
    return str(flagdata(vis=vis, mode="summary")["total"])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ask_session(context: str = "the session") -> list[Any]:
    from surgeline.work.surroundings import FactQuery, current

    return current().facts(FactQuery(context, 3, "Observation"))


def open_another(backend: str) -> str:
    from surgeline.config import load
    from surgeline.errors import ClusterError
    from surgeline.parallel.backend import open_backend

    try:
        opened = open_backend(load(overrides=[f"backend={backend}", "dask.n_workers=2"]))
    except ClusterError as error:
        return str(error)
    opened.close()
    return "it was opened"


def told(outcomes: list[Any]) -> list[dict[str, Any]]:
    """Outcomes as JSON holds them, without what they are not asked for here."""
    kept = ("job", "value", "failure", "worker", "process", "losses", "commands")
    found = []
    for outcome in outcomes:
        texts = {name: value for name, value in asdict(outcome).items() if name in kept}
        found.append(json.loads(json.dumps(texts, default=str)))
    return found


def contained(folder: Path, vis: str) -> dict[str, Any]:
    """All that jobs may do without harm to a server."""
    from surgeline.config import load
    from surgeline.errors import ClusterError
    from surgeline.parallel.backend import open_backend
    from surgeline.work.jobs import FunctionCall
    from surgeline.work.taskqueue import TaskQueue

    seen: dict[str, Any] = {}
    backend = open_backend(load(overrides=["mpi.retries=1"]), folder=folder, ask=answer)
    seen["name"], seen["workers"] = backend.name, backend.workers
    queue = TaskQueue(backend)
    queue.map(same, range(500))
    seen["order"] = [outcome.value for outcome in queue.get_results()] == list(range(500))
    content = hashlib.sha256(b"seed").digest() * (BIG // 32)
    queue.add_functioncall(turned, content)
    seen["large"] = queue.get_results()[0].value == content[::-1]
    del content
    seen["left"] = [path.name for path in (folder / "logs" / "mpi").iterdir()]
    for how in ("exit", "raise", "raise unpicklable", "return unpicklable", "print", "move", "stay"):
        queue.add_functioncall(misbehave, how)
    seen["misbehaved"] = told(queue.get_results())
    queue.add_pipelinetask(Task, {"by": 3}, {"value": 14})
    queue.add_jobrequest("listobs", {"vis": vis, "listfile": "listobs.txt"})
    queue.add_functioncall(ask_session)
    seen["kinds"] = told(queue.get_results())
    queue.add_functioncall(ask_session, "nowhere")
    queue.map(asked, [10, *range(100_000, 100_020), 5_000_000])
    seen["answers"] = told(queue.get_results())
    queue.map(lambda function: function(), [started_by_job, leave_behind, bomb])
    seen["started"] = told(queue.get_results())
    seen["large everywhere"] = [
        len(outcome.value) for outcome in backend.exec_everywhere(FunctionCall(same, b"x" * 160_000_000))
    ]
    seen["set up"] = told(backend.exec_everywhere(FunctionCall(set_up, "ready")))
    queue.map(lambda _: who(), range(4))
    seen["who"] = [outcome.value for outcome in queue.get_results()]
    queue.map(open_another, ["dask", "mpi", "auto"])
    seen["others"] = [outcome.value for outcome in queue.get_results()]
    for turn in range(100):
        # Some end while they are cancelled.
        hurried = TaskQueue(backend)
        hurried.map(time.sleep, [0.002] * 6)
        time.sleep(0.0005 * (turn % 20))
        hurried.cancel()
        hurried.get_results()
    nested = TaskQueue(backend)
    nested.add(FunctionCall(wait_for, str(folder / "never"), str(folder / "runs nested")).declare(mpi=True))
    nested.cancel()
    seen["nested cancelled"] = told(nested.get_results())
    stuck = TaskQueue(backend)
    stuck.map(wait_for, [str(folder / "go on")] * 3, [str(folder / f"runs {number}") for number in range(3)])
    while not all((folder / f"runs {number}").exists() for number in range(seen["workers"])):
        time.sleep(0.01)
    stuck.cancel()
    seen["cancelled"] = told(stuck.get_results())
    (folder / "go on").touch()
    queue.add_functioncall(same, "after")
    seen["after"] = queue.get_results()[0].value
    backend.close()
    try:
        queue.add_functioncall(same, 1)
    except ClusterError as error:
        seen["closed"] = str(error)
    seen["left at the end"] = (folder / "logs" / "mpi").exists()
    return seen


def losing(folder: Path, vis: str) -> dict[str, Any]:
    """Servers that die: one in the midst of a CASA task, then all."""
    from surgeline.config import load
    from surgeline.parallel.backend import open_backend
    from surgeline.work.taskqueue import TaskQueue

    seen: dict[str, Any] = {}
    lost: list[str] = []
    backend = open_backend(
        load(overrides=["mpi.retries=1"]), folder=folder, lost=lambda job, loss: lost.append(f"{job}: {loss.how}")
    )
    queue = TaskQueue(backend)
    queue.add_functioncall(flag_and_die, vis, str(folder / "died"))
    queue.map(same, range(20))
    seen["one"] = told(queue.get_results())
    seen["lost"] = list(lost)
    arguments = {"vis": vis, "imagename": "later", "imsize": 64, "cell": "20arcsec", "parallel": True}
    queue.add_jobrequest("tclean", arguments)
    seen["image"] = told(queue.get_results())
    queue.add_functioncall(die)
    queue.add_functioncall(same, 1)
    seen["all"] = told(queue.get_results())
    queue.add_functioncall(same, 2)
    seen["none left"] = told(queue.get_results())
    backend.close()
    return seen


def beside(folder: Path, vis: str) -> dict[str, Any]:
    """Dask's workers and MPI's servers in one session, both busy at once."""
    from surgeline.config import load
    from surgeline.parallel.backend import Backends
    from surgeline.work.jobs import FunctionCall, JobRequest
    from surgeline.work.taskqueue import TaskQueue

    seen: dict[str, Any] = {}
    configuration = load(overrides=["mpi.dask_beside=true", "dask.n_workers=2"])
    with Backends(configuration, folder, folder / "logs") as backends:
        default, servers = backends.get(), backends.get(asked="mpi")
        seen["names"] = [default.name, servers.name]
        with TaskQueue(default) as workers, TaskQueue(servers) as ranks:
            workers.add_functioncall(wait_for, str(folder / "rank"), str(folder / "worker"))
            ranks.add_functioncall(wait_for, str(folder / "worker"), str(folder / "rank"))
            seen["at once"] = [told(workers.get_results())[0], told(ranks.get_results())[0]]
            arguments = {"vis": vis, "imagename": "beside", "imsize": 64, "cell": "20arcsec", "parallel": True}
            workers.add(JobRequest("tclean", arguments))
            seen["image"] = told(workers.get_results())
            workers.map(open_another, ["dask", "mpi"])
            seen["others"] = [outcome.value for outcome in workers.get_results()]
            workers.add_functioncall(die)
            workers.add_functioncall(same, 5)
            workers.add_functioncall(wait_for, str(folder), str(folder / "rank"))
            seen["replaced"] = told(workers.get_results())
        seen["everywhere"] = told(default.exec_everywhere(FunctionCall(who)))
    return seen


def everywhere(folder: Path, vis: str) -> dict[str, Any]:
    """A server that dies in a job for all of them, and cannot say how, since its folder was removed."""
    from surgeline.config import load
    from surgeline.parallel.backend import open_backend
    from surgeline.work.jobs import FunctionCall
    from surgeline.work.taskqueue import TaskQueue

    backend = open_backend(load(), folder=folder)
    shutil.rmtree(folder / "logs" / "mpi")
    seen = {"died": told(backend.exec_everywhere(FunctionCall(die_as, "server-2")))}
    queue = TaskQueue(backend)
    queue.map(same, range(20))
    seen["after"] = told(queue.get_results())
    return seen


def unclosed(folder: Path, vis: str) -> dict[str, Any]:
    """A script that closes nothing."""
    from surgeline.config import load
    from surgeline.parallel.backend import open_backend

    return {"name": open_backend(load(), folder=folder).name}


def hanging(folder: Path, vis: str) -> dict[str, Any]:
    """A server that is stopped, and gives no sign of life."""
    from surgeline.config import load
    from surgeline.parallel.backend import open_backend
    from surgeline.work.taskqueue import TaskQueue

    backend = open_backend(load(overrides=["mpi.server_timeout=10"]), folder=folder)
    queue = TaskQueue(backend)
    queue.add_functioncall(stop_once, str(folder / "stopped"))
    seen = {"stopped": told(queue.get_results())}
    backend.close()
    return seen


def stop_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
        # The signal may be taken by another thread, and this one would go on until that one has run.
        threading.Event().wait()
    return "went on"


def waiting(folder: Path, vis: str) -> dict[str, Any]:
    """Servers in the midst of jobs, for something to happen to the session."""
    from surgeline.config import load
    from surgeline.parallel.backend import open_backend
    from surgeline.work.taskqueue import TaskQueue

    backend = open_backend(load(), folder=folder)
    queue = TaskQueue(backend)
    queue.map(wait_for, [str(folder / "never")] * 2, [str(folder / f"runs {number}") for number in range(2)])
    return {"waited": told(queue.get_results())}


def main() -> None:
    serve_if_server()
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    folder = Path(sys.argv[2])
    scenarios = {
        function.__name__: function
        for function in (contained, losing, beside, everywhere, unclosed, hanging, waiting)
    }
    seen = scenarios[sys.argv[1]](folder, sys.argv[3])
    partial = folder / "results.partial"
    partial.write_text(json.dumps(seen))
    partial.rename(folder / "results.json")


if __name__ == "__main__":
    main()
