"""Speed, as ratios within one run. Prints a table and writes build/bench.json.

(a) no-op function calls a second through TaskQueue against raw `client.submit` on the same local Dask cluster;
(b) the demo with two workers against serial, and against the same casatasks calls in a plain script;
(c) how long `import surgeline` and `surgeline --help` take;
(d) what the context costs: see context.py;
(e) what MPI costs and gains: see mpi.py;
(f) what many workers and jobs cost the session: see scale.py;
(g) what clusters with a queue cost and save, where Slurm is installed: see queues.py;
(h) what moves where workers share no files with the session, as root: see moved.py;
(i) what pods cost, where Kubernetes was built for the tests: see pods.py;
(j) what it costs to be orchestrated by Prefect: see orchestration.py;
(k) what imaging in parallel gains, against tclean, plain mpirun and casa-pclean: see imaging.py;
(l) what the CASA Pipeline gains from this engine, where a copy of it can be imported: see adoption.py.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from adoption import adoption_figures
from context import context_figures
from imaging import imaging_figures
from moved import byte_figures
from mpi import mpi_figures
from orchestration import prefect_figures
from pods import pod_figures
from queues import queue_figures
from report import ROOT, report
from scale import scale_figures
from surgeline import TaskQueue, open_backend
from surgeline.config import load

CALLS = 2000
ROUNDS = 3
DEMO_ROUNDS = 2
COMMAND = [sys.executable, "-m", "surgeline.cli"]
PLAIN = (
    "from pathlib import Path\n"
    "from surgeline.work.casaprocess import CasaProcess\n"
    "CasaProcess(Path.cwd(), Path('casa.log'), threads={threads}).prepare()\n"
)


def no_op(number: int) -> int:
    """The least that a job can do."""
    return number


def dispatch(folder: Path) -> dict[str, float]:
    """Calls a second, raw and through the queue, in turns on one cluster; the median ratio of the rounds."""
    backend: Any = open_backend(load(overrides=["dask.n_workers=2", "backend=dask"]), folder=folder)
    client = backend._client
    ratios, raw, queued = [], [], []
    try:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            client.gather([client.submit(no_op, number, pure=False) for number in range(CALLS)])
            raw.append(CALLS / (time.perf_counter() - began))
            with TaskQueue(backend) as queue:
                began = time.perf_counter()
                queue.map(no_op, range(CALLS))
                assert [outcome.value for outcome in queue.get_results()] == list(range(CALLS))
                queued.append(CALLS / (time.perf_counter() - began))
            ratios.append(queued[-1] / raw[-1])
    finally:
        backend.close()
    return {
        "raw client.submit, calls a second": statistics.median(raw),
        "TaskQueue, calls a second": statistics.median(queued),
        "TaskQueue over raw": statistics.median(ratios),
    }


def seconds(command: list[str], folder: Path | None = None, **environment: str) -> float:
    """The wall time of a command that has to succeed."""
    began = time.perf_counter()
    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    elapsed = time.perf_counter() - began
    if ran.returncode:
        raise SystemExit(f"{command} failed:\n{ran.stdout.decode()[-3000:]}")
    return elapsed


def demo(folder: Path) -> dict[str, float]:
    """Wall times of the demo by two workers, serially, and of its calls in a plain script, in turns."""
    recipe = str(ROOT / "examples" / "ngc5921.yaml")
    cores = psutil.cpu_count() or 1
    times: dict[str, list[float]] = {}
    for turn in range(DEMO_ROUNDS):
        workdirs = {name: folder / f"{name}{turn}" for name in ("parallel", "serial", "plain", "plain-threads")}
        run = [*COMMAND, "run", recipe, "--workdir"]
        for name, extra in (("parallel", ["--set", "dask.n_workers=2"]), ("serial", ["--set", "backend=serial"])):
            times.setdefault(name, []).append(seconds([*run, str(workdirs[name]), *extra]))
        script = (workdirs["parallel"] / "weblog" / "commands.py").read_text()
        for name, threads in (("plain", 1), ("plain-threads", cores)):
            workdirs[name].mkdir()
            (workdirs[name] / "plain.py").write_text(PLAIN.format(threads=threads) + script)
            times.setdefault(name, []).append(seconds([sys.executable, "plain.py"], workdirs[name]))
        for workdir in workdirs.values():
            shutil.rmtree(workdir)

    def ratio(name: str) -> float:
        return statistics.median(one / other for one, other in zip(times["parallel"], times[name], strict=True))

    return {
        "demo with 2 workers, s": statistics.median(times["parallel"]),
        "demo serially, s": statistics.median(times["serial"]),
        "its calls in a plain script, one thread, s": statistics.median(times["plain"]),
        "its calls in a plain script, a thread a core, s": statistics.median(times["plain-threads"]),
        "2 workers over serial": ratio("serial"),
        "2 workers over plain script, one thread": ratio("plain"),
        "2 workers over plain script, a thread a core": ratio("plain-threads"),
    }


def startup() -> dict[str, float]:
    """Medians of five runs each, Python's own start included."""
    importing = [sys.executable, "-c", "import surgeline"]
    return {
        "import surgeline, s": statistics.median(seconds(importing) for _ in range(5)),
        "surgeline --help, s": statistics.median(seconds([*COMMAND, "--help"]) for _ in range(5)),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as scratch:
        folder = Path(scratch)
        figures = startup() | dispatch(folder) | context_figures(folder) | demo(folder) | mpi_figures(folder)
        figures |= scale_figures(folder) | prefect_figures(folder / "prefect")
        (folder / "imaging").mkdir()
        figures |= imaging_figures(folder / "imaging") | adoption_figures(folder / "adoption")
        if shutil.which("sbatch"):
            figures |= queue_figures(folder / "queues")
        else:
            print("Slurm is not installed: figures of clusters with a queue are left out")
        if os.geteuid() == 0:
            figures |= byte_figures(folder / "moved") | pod_figures(folder / "pods")
        else:
            print("figures of workers without a shared folder, and of pods, are left out: only root may make them")
    report(figures, "bench")


if __name__ == "__main__":
    main()
