"""What mpi.py measures, each in processes of its own: `mpi_programs.py PROGRAM ARGUMENTS`.

The arguments are a JSON object; what a program returns is written to results.json in the current directory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from surgeline import FunctionCall, TaskQueue, open_backend
from surgeline.config import load
from surgeline.parallel.mpiserver import serve_if_server
from surgeline.work.casaprocess import CasaProcess

# So many calls come before those that are timed.
WARM_UP = 20
DEFINE_NO_OP = "def no_op(number):\n    return number"


def no_op(number: int) -> int:
    """The least that a job can do."""
    return number


def queued(backend: Any, calls: int) -> float:
    """Many calls at once through TaskQueue; calls a second."""
    with TaskQueue(backend) as queue:
        began = time.perf_counter()
        queue.map(no_op, range(calls))
        assert [outcome.value for outcome in queue.get_results()] == list(range(calls))
        return calls / (time.perf_counter() - began)


def queued_singly(backend: Any, calls: int) -> float:
    """One call after the other through TaskQueue; calls a second."""
    with TaskQueue(backend) as queue:
        began = time.perf_counter()
        for number in range(calls):
            queue.add_functioncall(no_op, number)
            assert queue.get_results()[0].value == number
        return calls / (time.perf_counter() - began)


def pushed(client: Any, calls: int) -> float:
    """Many calls at once through casampi alone; calls a second."""
    began = time.perf_counter()
    numbers = [client.push_command_request(f"no_op({number})", block=False)[0] for number in range(calls)]
    assert [answer["ret"] for answer in client.get_command_response(numbers, block=True)] == list(range(calls))
    return calls / (time.perf_counter() - began)


def pushed_singly(client: Any, calls: int) -> float:
    """One call after the other through casampi alone; calls a second."""
    began = time.perf_counter()
    for number in range(calls):
        assert client.push_command_request(f"no_op({number})", block=True)[0]["ret"] == number
    return calls / (time.perf_counter() - began)


def start_plain_casampi() -> None:
    """What a script does that uses casampi as it comes; servers never leave this."""
    # Of Surgeline it has only this: where CASA finds its data without a network, and the number of threads.
    CasaProcess(Path.cwd(), Path("casa.log").resolve()).prepare()
    import casampi.private.start_mpi  # noqa: F401


def plain_calls(calls: int, single: int, rounds: int) -> dict[str, Any]:
    """In a script of casampi's as it comes."""
    start_plain_casampi()
    from casampi.MPICommandClient import MPICommandClient
    from casampi.MPIEnvironment import MPIEnvironment

    client = MPICommandClient()
    client.set_log_mode("unified")
    client.start_services()
    client.push_command_request(DEFINE_NO_OP, block=True, target_server=MPIEnvironment.mpi_server_rank_list())
    first = time.time()
    return {
        "first": first,
        "many": [pushed(client, calls) for _ in range(rounds)],
        "single": [pushed_singly(client, single) for _ in range(rounds)],
    }


def session_calls(calls: int, single: int, rounds: int) -> dict[str, Any]:
    """In an MPI session of ours: TaskQueue, and casampi alone at the same pace, in turns."""
    backend: Any = open_backend(load(overrides=["backend=mpi"]))
    queued_singly(backend, 1)
    first = time.time()
    client = backend._servers._commands
    client.push_command_request(DEFINE_NO_OP, block=True, target_server=sorted(backend._servers.living))
    seen: dict[str, list[float]] = {"raw": [], "queue": [], "raw single": [], "queue single": []}
    pushed(client, WARM_UP)
    queued(backend, WARM_UP)
    for _ in range(rounds):
        seen["raw"].append(pushed(client, calls))
        seen["queue"].append(queued(backend, calls))
        seen["raw single"].append(pushed_singly(client, single))
        seen["queue single"].append(queued_singly(backend, single))
    backend.close()
    return {"first": first, **seen}


def dask_calls(calls: int, single: int, rounds: int) -> dict[str, Any]:
    """On two Dask workers."""
    backend = open_backend(load(overrides=["backend=dask", "dask.n_workers=2"]))
    queued(backend, WARM_UP)
    seen = {
        "queue": [queued(backend, calls) for _ in range(rounds)],
        "queue single": [queued_singly(backend, single) for _ in range(rounds)],
    }
    backend.close()
    return seen


def nested_calls() -> dict[str, Any]:
    """Two no-ops in a nested session, one after the other, from a process that has not begun anything."""
    seconds = []
    began = time.perf_counter()
    backend = open_backend(load(overrides=["backend=serial", "mpi.servers=2"]))
    with TaskQueue(backend) as queue:
        for number in range(2):
            queue.add(FunctionCall(no_op, number).declare(mpi=True))
            assert queue.get_results()[0].value == number
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
    backend.close()
    return {"first": seconds[0], "second": seconds[1]}


def simulated(vis: str, gigabytes: float) -> dict[str, Any]:
    """Simulate a long look at a field whose calibration is perfect, with about so much data."""
    CasaProcess(Path.cwd(), Path("casa.log").resolve()).prepare()
    from surgeline.simulate import Simulation, simulate

    def of_channels(channels: int) -> Simulation:
        return Simulation(
            antennas=27,
            channels=channels,
            channel_width_hz=5e5,
            integration_seconds=20,
            target_scan_seconds=1800,
            target_scans=6,
            gain_amplitude_scatter=0,
            gain_phase_scatter_deg=0,
            bandpass_scatter=0,
            line=False,
        )

    simulation = of_channels(max(1, round(1e9 * gigabytes / of_channels(1).data_bytes)))
    simulate(Path(vis), simulation)
    return {"bytes": simulation.data_bytes}


def plain_image(arguments: dict[str, Any]) -> dict[str, Any]:
    """By casampi as it comes; it ends its servers itself when this process ends."""
    start_plain_casampi()
    from casatasks import tclean

    began = time.time()
    made = tclean(**arguments)
    return {"began": began, "ended": time.time(), "major cycles": made["nmajordone"]}


def image(arguments: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """By TaskQueue on a backend."""
    backend = open_backend(load(overrides=overrides))
    with TaskQueue(backend) as queue:
        queue.add_jobrequest("tclean", arguments)
        [outcome] = queue.get_results()
    backend.close()
    made = outcome.result()
    return {
        "began": outcome.started,
        "ended": outcome.ended,
        "major cycles": made["nmajordone"],
        "where": outcome.worker,
    }


def compared(pairs: list[list[str]]) -> dict[str, Any]:
    """The largest difference of the first image of each pair from the second, relative to the second's peak."""
    CasaProcess(Path.cwd(), Path("casa.log").resolve()).prepare()
    import numpy as np
    from casatools import image as image_tool

    def pixels(path: str) -> Any:
        with closing(image_tool()) as tool:
            tool.open(path)
            return tool.getchunk()

    differences = []
    for one, other in pairs:
        reference = pixels(other)
        differences.append(float(np.abs(pixels(one) - reference).max() / np.abs(reference).max()))
    return {"differences": differences}


PROGRAMS: tuple[Callable[..., dict[str, Any]], ...] = (
    plain_calls,
    session_calls,
    dask_calls,
    nested_calls,
    simulated,
    plain_image,
    image,
    compared,
)


def main() -> None:
    program = next(program for program in PROGRAMS if program.__name__ == sys.argv[1])
    # Scripts of plain casampi know nothing of our servers.
    if program not in (plain_calls, plain_image):
        serve_if_server()
    results = program(**json.loads(sys.argv[2]))
    Path("results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
