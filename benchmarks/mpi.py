"""What MPI costs and gains: jobs through its servers, starting a nested session, and an image in parallel.

Runs alone, too: `python benchmarks/mpi.py`, or with some of the parts `calls`, `start` and `image`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import report
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import command, find_launcher
from surgeline.work.casaprocess import thread_environment

PROGRAMS = Path(__file__).with_name("mpi_programs.py")
SERVERS = 2
CALLS, SINGLE, ROUNDS = 500, 20, 5
# casampi as it comes answers five calls a second, or two one after the other.
PLAIN_CALLS, PLAIN_SINGLE, PLAIN_ROUNDS = 20, 4, 3
STARTS = 3
GIGABYTES, PIXELS = 1.0, 1024
# After each time that the model is extended; there is one before.
MAJOR_CYCLES = 1


def run(program: str, folder: Path, ranks: int = 0, **arguments: Any) -> dict[str, Any]:
    """What a program of mpi_programs.py says, and when it was started and had ended; each rank has one thread."""
    folder.mkdir()
    line = [sys.executable, str(PROGRAMS), program, json.dumps(arguments)]
    environment = {**clean_environment(), **thread_environment(1)}
    if ranks:
        line = command(find_launcher(), ranks, line, environment, root=os.geteuid() == 0)
    # A file, because a rank that outlived mpirun would keep a pipe open.
    with (folder / "output").open("wb") as output:
        started = time.time()
        code = subprocess.run(
            line, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ).returncode
        stopped = time.time()
    if code:
        raise SystemExit(f"{program} failed:\n{(folder / 'output').read_text(errors='replace')[-3000:]}")
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return {**results, "started": started, "stopped": stopped}


def calls_figures(folder: Path, calls: int = CALLS) -> dict[str, float]:
    """No-ops through casampi alone and through TaskQueue, many at once and one after the other."""
    ranks = SERVERS + 1
    plain = run("plain_calls", folder / "plain", ranks, calls=PLAIN_CALLS, single=PLAIN_SINGLE, rounds=PLAIN_ROUNDS)
    session = run("session_calls", folder / "session", ranks, calls=calls, single=SINGLE, rounds=ROUNDS)
    dask = run("dask_calls", folder / "dask", calls=calls, single=SINGLE, rounds=ROUNDS)
    figures: dict[str, float] = {}
    for how, of_plain, of_others in (("at once", "many", ""), ("singly", "single", " single")):
        as_it_comes = statistics.median(plain[of_plain])
        raw, queue = session[f"raw{of_others}"], session[f"queue{of_others}"]
        by_dask = statistics.median(dask[f"queue{of_others}"])
        figures |= {
            f"calls a second {how}, casampi as it comes": as_it_comes,
            f"calls a second {how}, casampi at our pace": statistics.median(raw),
            f"calls a second {how}, TaskQueue on MPI servers": statistics.median(queue),
            f"calls a second {how}, TaskQueue on Dask workers": by_dask,
            f"{how}: TaskQueue on MPI servers over casampi as it comes": statistics.median(queue) / as_it_comes,
            f"{how}: TaskQueue on MPI servers over casampi at our pace": statistics.median(
                ours / theirs for ours, theirs in zip(queue, raw, strict=True)
            ),
            f"{how}: TaskQueue on MPI servers over Dask workers": statistics.median(queue) / by_dask,
        }
    return figures | {
        "mpirun to first call, casampi as it comes, s": plain["first"] - plain["started"],
        "mpirun to first call, MPI session, s": session["first"] - session["started"],
    }


def start_figures(folder: Path) -> dict[str, float]:
    """Starting a nested session, and using it again."""
    runs = [run("nested_calls", folder / f"start{number}") for number in range(STARTS)]
    first, second = (statistics.median(seen[which] for seen in runs) for which in ("first", "second"))
    return {
        "nested session, first call, its start included, s": first,
        "nested session, second call, ms": 1e3 * second,
        "nested session, second call over first": statistics.median(seen["second"] / seen["first"] for seen in runs),
    }


def image_figures(
    folder: Path, gigabytes: float = GIGABYTES, pixels: int = PIXELS, major_cycles: int = MAJOR_CYCLES
) -> dict[str, float]:
    """One image of the continuum: serially, by casampi as it comes, in an MPI session, nested in a Dask worker."""
    vis = folder / "observation.ms"
    size = run("simulated", folder / "simulated", vis=str(vis), gigabytes=gigabytes)["bytes"]
    serial: dict[str, Any] = {
        "vis": str(vis),
        "imagename": "image",
        "field": "TARGET",
        "datacolumn": "data",
        "imsize": pixels,
        # The same field of view for every number of pixels.
        "cell": f"{10 * PIXELS / pixels:g}arcsec",
        "weighting": "briggs",
        "niter": 1000 * major_cycles,
        "cycleniter": 1000,
        "nmajor": major_cycles,
    }
    parallel = {**serial, "parallel": True}
    on_dask = ["backend=dask", f"dask.n_workers={SERVERS}"]
    ranks = SERVERS + 1
    seen = {
        "serial": run("image", folder / "serial", arguments=serial, overrides=["backend=serial"]),
        "plain mpirun": run("plain_image", folder / "plain mpirun", ranks, arguments=parallel),
        "MPI session": run("image", folder / "MPI session", ranks, arguments=parallel, overrides=["backend=mpi"]),
        "nested": run("image", folder / "nested", arguments=parallel, overrides=on_dask),
    }
    gone_through = seen["serial"]["major cycles"]
    assert all(ran["major cycles"] == gone_through for ran in seen.values()), seen
    pairs = [
        ("plain mpirun", "serial"),
        ("nested", "serial"),
        ("nested", "plain mpirun"),
        ("MPI session", "plain mpirun"),
    ]
    paths = [[str(folder / name / "image.image") for name in pair] for pair in pairs]
    differences = run("compared", folder / "compared", pairs=paths)["differences"]
    figures = {"image: its data, GB": size / 1e9, "image: its major cycles": gone_through}
    for name, ran in seen.items():
        figures |= {
            f"image, {name}: in all, s": ran["stopped"] - ran["started"],
            f"image, {name}: until tclean begins, s": ran["began"] - ran["started"],
            f"image, {name}: tclean, s": ran["ended"] - ran["began"],
            f"image, {name}: after tclean, s": ran["stopped"] - ran["ended"],
        }
    for name in [name for name in seen if name != "serial"]:
        for what in ("in all", "tclean"):
            figure = figures[f"image, {name}: {what}, s"] / figures[f"image, serial: {what}, s"]
            figures[f"image, {name} over serial, {what}"] = figure
    for (one, other), difference in zip(pairs, differences, strict=True):
        figures[f"image, {one} from {other}, largest difference over peak"] = difference
    return figures


def mpi_figures(folder: Path) -> dict[str, float]:
    """Every figure of MPI."""
    return calls_figures(folder) | start_figures(folder) | image_figures(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="What MPI costs and gains.")
    parser.add_argument("parts", nargs="*", help="some of: calls, start, image; all unless given")
    parser.add_argument("--calls", type=int, default=CALLS, help="how many no-ops at once")
    parser.add_argument("--gigabytes", type=float, default=GIGABYTES, help="size of the data of the image")
    parser.add_argument("--pixels", type=int, default=PIXELS, help="width of the image")
    parser.add_argument("--major-cycles", type=int, default=MAJOR_CYCLES, help="major cycles after the first")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as scratch:
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "calls": lambda: calls_figures(Path(scratch), asked.calls),
            "start": lambda: start_figures(Path(scratch)),
            "image": lambda: image_figures(Path(scratch), asked.gigabytes, asked.pixels, asked.major_cycles),
        }
        if unknown := set(asked.parts) - parts.keys():
            parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(parts)}")
        figures: dict[str, float] = {}
        for part in asked.parts or parts:
            figures |= parts[part]()
    report(figures, "mpi")


if __name__ == "__main__":
    main()
