"""What imaging in parallel gains: a cube and a continuum by tclean, plain mpirun, casa-pclean and this.

Wall time, processor time, the peak memory of the largest process and of all together, and the bytes that went to and
from files; how long joining takes; how time and memory grow. Runs alone, too: `python benchmarks/imaging.py`, or with
some of the parts `continuum`, `cube`, `join` and `growth`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import casadata
import psutil

from mpi import run
from report import report
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import command, find_launcher
from surgeline.work.casaprocess import thread_environment

PROGRAMS = Path(__file__).with_name("imaging_programs.py")
WORKERS = 2
GIGABYTES, PIXELS, CHANNELS = 1.0, 512, 64
ROUNDS = 1
JOINED_CHANNELS = 1000
MEASURED = (
    "in all, s",
    "imaging, s",
    "processor, s",
    "largest process, GB",
    "all processes, GB",
    "read, GB",
    "written, GB",
)
_LOOK_SECONDS = 0.05
PCLEAN = "casa-pclean"


class Watch:
    """The memory of a process and all that it starts, looked at again and again: as long as the block lasts."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.largest = self.together = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            sizes = []
            for one in [self._process, *self._children()]:
                try:
                    sizes.append(one.memory_info().rss)
                except psutil.Error:
                    continue
            if sizes:
                self.largest, self.together = max(self.largest, *sizes), max(self.together, sum(sizes))

    def _children(self) -> list[psutil.Process]:
        try:
            return self._process.children(recursive=True)
        except psutil.Error:
            return []


def measured(program: str, folder: Path, ranks: int = 0, path: str = "", **arguments: Any) -> dict[str, Any]:
    """What a program of imaging_programs.py says, and what it took; each process has one thread."""
    folder.mkdir()
    line = [sys.executable, str(PROGRAMS), program, json.dumps(arguments)]
    environment = {**clean_environment(), **thread_environment(1)}
    if path:
        # Its workers configure CASA by the user's own file.
        environment |= {"PYTHONPATH": path, "HOME": str(folder)}
        (folder / ".casa").mkdir()
        settings = (
            f"measurespath = {casadata.datapath!r}",
            "measures_auto_update = False",
            "data_auto_update = False",
        )
        (folder / ".casa" / "config.py").write_text("\n".join(settings))
    if ranks:
        line = command(find_launcher(), ranks, line, environment, root=os.geteuid() == 0)
    with (folder / "output").open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            line, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        with Watch(process.pid) as watch:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # Of one that has ended and is still known, the system has added up what it and all that it started took.
        took = psutil.Process(process.pid)
        moved, processor = took.io_counters(), sum(took.cpu_times()[:4])
        code = process.wait()
        seconds = time.perf_counter() - began
    if code:
        raise SystemExit(f"{program} failed:\n{(folder / 'output').read_text(errors='replace')[-3000:]}")
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return {
        **results,
        "in all, s": seconds,
        "processor, s": processor,
        "largest process, GB": watch.largest / 1e9,
        "all processes, GB": watch.together / 1e9,
        "read, GB": moved.read_chars / 1e9,
        "written, GB": moved.write_chars / 1e9,
    }


def pclean_path(folder: Path) -> str:
    """Where casa-pclean is importable from; empty where it cannot be had."""
    target = folder / "casa-pclean"
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), PCLEAN]
    ran = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return "" if ran.returncode else str(target)


def compared_ways(folder: Path, what: str, arguments: dict[str, Any], way: str) -> dict[str, float]:
    """One image in the four ways, in turns."""
    # casa-pclean cleans nothing without a mask.
    last = arguments["imsize"] - 1
    arguments = {**arguments, "mask": f"box[[0pix,0pix],[{last}pix,{last}pix]]"}
    parallel = {**arguments, "parallel": True}
    path = pclean_path(folder) if not (folder / "casa-pclean").is_dir() else str(folder / "casa-pclean")
    ways: dict[str, Callable[[Path], dict[str, Any]]] = {
        "tclean": lambda there: measured("by_tclean", there, arguments=arguments),
        "plain mpirun": lambda there: measured("by_mpirun", there, WORKERS + 1, arguments=parallel),
        "this": lambda there: measured("by_this", there, arguments=arguments, way=way, workers=WORKERS),
    }
    if path:
        ways["casa-pclean"] = lambda there: measured(
            "by_pclean", there, path=path, arguments=arguments, workers=WORKERS
        )
    took: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for turn in range(ROUNDS):
        for name, go in ways.items():
            there = folder / f"{what} {name} {turn}"
            took[name].append(go(there))
    figures: dict[str, float] = {}
    for name, rounds in took.items():
        for figure in MEASURED:
            if figure in rounds[0]:
                figures[f"{what}, {name}: {figure}"] = statistics.median(one[figure] for one in rounds)
        figures[f"{what}, {name}: major cycles"] = rounds[0]["major cycles"]
    ours = figures[f"{what}, this: in all, s"]
    for name in ways:
        if name != "this":
            figures[f"{what}, this over {name}, in all"] = ours / figures[f"{what}, {name}: in all, s"]
    alone, ours = figures[f"{what}, tclean: imaging, s"], figures[f"{what}, this: imaging, s"]
    slower = statistics.median(seconds_at_once(folder, arguments) for _ in range(ROUNDS)) / alone
    figures[f"{what}, {WORKERS} tcleans at once over one alone"] = slower
    figures[f"{what}, this: parallel efficiency over tclean on {WORKERS} workers"] = alone / ours / WORKERS
    figures[f"{what}, this: the same over tclean beside others of its kind"] = alone * slower / ours / WORKERS
    pairs = [
        [str(folder / f"{what} {name} 0" / "image.image"), str(folder / f"{what} tclean 0" / "image.image")]
        for name in ways
        if name != "tclean" and (folder / f"{what} {name} 0" / "image.image").is_dir()
    ]
    differences = run("compared", folder / f"{what} compared", pairs=pairs)["differences"]
    for (one, _), difference in zip(pairs, differences, strict=True):
        name = Path(one).parent.name.removeprefix(f"{what} ").removesuffix(" 0")
        figures[f"{what}, {name} from tclean, largest difference over peak"] = difference
    for turn in range(ROUNDS):
        for name in ways:
            shutil.rmtree(folder / f"{what} {name} {turn}")
    return figures


def seconds_at_once(folder: Path, arguments: dict[str, Any]) -> float:
    """How long tclean takes where as many run as there are workers: what cores share slows all of them down."""
    places = [folder / f"at once {number}" for number in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(lambda there: measured("by_tclean", there, arguments=arguments), places))
    for there in places:
        shutil.rmtree(there)
    return statistics.mean(float(one["imaging, s"]) for one in found)


def observation(folder: Path, gigabytes: float, channels: int = CHANNELS) -> str:
    """A simulated observation of about so much data; made once."""
    vis = folder / f"{gigabytes:g} GB in {channels}.ms"
    if not vis.is_dir():
        there = folder / f"simulated {gigabytes:g} in {channels}"
        measured("simulated", there, vis=str(vis), gigabytes=gigabytes, channels=channels)
    return str(vis)


def continuum_figures(folder: Path, gigabytes: float, pixels: int) -> dict[str, float]:
    """A continuum: half a dozen major cycles."""
    arguments = {
        "vis": observation(folder, gigabytes),
        "imagename": "image",
        "field": "TARGET",
        "datacolumn": "data",
        "imsize": pixels,
        "cell": f"{10 * 1024 / pixels:g}arcsec",
        "weighting": "briggs",
        "niter": 2000,
        "cycleniter": 500,
        "nmajor": 3,
    }
    return compared_ways(folder, "continuum", arguments, "rows")


def cube_figures(folder: Path, gigabytes: float, pixels: int, channels: int = CHANNELS) -> dict[str, float]:
    """A cube of all channels but those at the edges."""
    arguments = {
        "vis": observation(folder, gigabytes, channels),
        "imagename": "image",
        "field": "TARGET",
        "datacolumn": "data",
        "specmode": "cube",
        "nchan": channels - 4,
        "start": 2,
        "width": 1,
        "imsize": pixels,
        "cell": f"{10 * 1024 / pixels:g}arcsec",
        "weighting": "briggs",
        "niter": 20 * channels,
        "cycleniter": 10,
        "nmajor": 2,
    }
    return compared_ways(folder, "cube", arguments, "channels")


def join_figures(folder: Path) -> dict[str, float]:
    """Joining a cube of a thousand channels, cut into a hundred parts, at two image sizes."""
    figures: dict[str, float] = {}
    for pixels in (64, 512):
        found = measured("joined", folder / f"joined {pixels}", pixels=pixels, channels=JOINED_CHANNELS, parts=100)
        figures[f"join of {JOINED_CHANNELS} channels of {pixels}² in 100 parts, s"] = found["seconds"]
        shutil.rmtree(folder / f"joined {pixels}")
    return figures


def growth_figures(folder: Path, gigabytes: float) -> dict[str, float]:
    """How a dirty cube's time and memory grow with channels, pixels and rows, each alone; least squares of three."""
    import numpy as np

    vis = observation(folder, gigabytes)
    base = {"channels": 8, "pixels": 256, "scans": 2}
    takes: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for name, values in {"channels": (8, 16, 32), "pixels": (256, 512, 1024), "scans": (1, 2, 4)}.items():
        for value in values:
            asked = {**base, name: value}
            there = folder / f"growth {name} {value}"
            arguments = {
                "vis": vis,
                "imagename": "image",
                "field": "TARGET",
                "datacolumn": "data",
                "specmode": "cube",
                "nchan": asked["channels"],
                "start": 2,
                "width": 1,
                "scan": ",".join(str(3 + 2 * number) for number in range(asked["scans"])),
                "imsize": asked["pixels"],
                "cell": "10arcsec",
                "niter": 0,
            }
            takes.setdefault(name, []).append((value, measured("by_tclean", there, arguments=arguments)))
            shutil.rmtree(there)
    figures: dict[str, float] = {}
    for name, found in takes.items():
        sizes = np.array([size**2 if name == "pixels" else size for size, _ in found], dtype=float)
        for figure, unit in (("imaging, s", "s"), ("largest process, GB", "GB")):
            slope, constant = np.polyfit(sizes, [took[figure] for _, took in found], 1)
            what = "pixel" if name == "pixels" else name.removesuffix("s")
            figures[f"growth of a dirty cube: {unit} for each {what}"] = float(slope)
            figures[f"growth of a dirty cube with {name}: {unit} for none"] = float(constant)
    return figures


def imaging_figures(folder: Path, gigabytes: float = GIGABYTES, pixels: int = PIXELS) -> dict[str, float]:
    """All parts."""
    return {
        **continuum_figures(folder, gigabytes, pixels),
        **cube_figures(folder, gigabytes, pixels),
        **join_figures(folder),
        **growth_figures(folder, gigabytes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["continuum", "cube", "join", "growth"])
    parser.add_argument("--gigabytes", type=float, default=GIGABYTES)
    parser.add_argument("--pixels", type=int, default=PIXELS)
    parser.add_argument("--channels", type=int, default=CHANNELS, help="of the observation that cubes are made of")
    asked = parser.parse_args()
    parts: dict[str, Callable[[Path], dict[str, float]]] = {
        "continuum": lambda folder: continuum_figures(folder, asked.gigabytes, asked.pixels),
        "cube": lambda folder: cube_figures(folder, asked.gigabytes, asked.pixels, asked.channels),
        "join": join_figures,
        "growth": lambda folder: growth_figures(folder, asked.gigabytes),
    }
    with tempfile.TemporaryDirectory(prefix="surgeline-imaging-") as name:
        figures: dict[str, float] = {}
        for part in asked.parts:
            figures |= parts[part](Path(name))
            report(figures, "imaging")


if __name__ == "__main__":
    main()
