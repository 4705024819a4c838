"""What imaging.py starts: each program images in one way, and says in results.json how long imaging itself took."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpi_programs import start_plain_casampi
from surgeline.work.casaprocess import CasaProcess


def _prepare() -> None:
    CasaProcess(Path.cwd(), Path("casa.log").resolve()).prepare()


def simulated(vis: str, gigabytes: float, channels: int) -> dict[str, Any]:
    """Simulate an array of 27 antennas that looks at a field in six scans, with about so much data."""
    _prepare()
    from surgeline.simulate import Simulation, simulate

    def of_scans(seconds: float) -> Simulation:
        return Simulation(
            antennas=27,
            channels=channels,
            channel_width_hz=5e5,
            integration_seconds=5,
            target_scan_seconds=seconds,
            target_scans=6,
            gain_amplitude_scatter=0,
            gain_phase_scatter_deg=0,
            bandpass_scatter=0,
        )

    simulation = of_scans(round(100 * 1e9 * gigabytes / of_scans(1000).data_bytes) * 10)
    simulate(Path(vis), simulation)
    return {"bytes": simulation.data_bytes}


def by_tclean(arguments: dict[str, Any]) -> dict[str, Any]:
    """By tclean, in this process alone."""
    _prepare()
    from casatasks import tclean

    began = time.perf_counter()
    made = tclean(**arguments)
    return {"imaging, s": time.perf_counter() - began, "major cycles": made["nmajordone"]}


def by_mpirun(arguments: dict[str, Any]) -> dict[str, Any]:
    """By tclean(parallel=True) and casampi as it comes."""
    start_plain_casampi()
    from casatasks import tclean

    began = time.perf_counter()
    made = tclean(**arguments)
    # A cube's record is one of each server.
    cycles = made["nmajordone"] if "nmajordone" in made else max(one["nmajordone"] for one in made.values())
    return {"imaging, s": time.perf_counter() - began, "major cycles": cycles}


def by_pclean(arguments: dict[str, Any], workers: int) -> dict[str, Any]:
    """By casa-pclean on its own Dask workers."""
    _prepare()
    from pclean import pclean

    began = time.perf_counter()
    # It wants texts and lists where tclean takes numbers, too.
    told = {name: str(value) if name in ("start", "width") else value for name, value in arguments.items()}
    told["imsize"] = [arguments["imsize"]] * 2
    # It counts the major cycle that makes the dirty image.
    told["nmajor"] = arguments["nmajor"] + 1
    made = pclean(**told, parallel=True, nworkers=workers)
    cycles = made.get("nmajordone", 0) if isinstance(made, dict) else 0
    return {"imaging, s": time.perf_counter() - began, "major cycles": cycles}


def by_this(arguments: dict[str, Any], way: str, workers: int) -> dict[str, Any]:
    """By surgeline.imaging.clean; imaging is counted from when workers are there."""
    from surgeline import open_backend
    from surgeline.config import load
    from surgeline.imaging import clean

    backend = open_backend(load(overrides=("backend=dask", "dask.cluster=local", f"dask.n_workers={workers}")))
    began = time.perf_counter()
    made = clean(**arguments, parallel=way, backend=backend)
    seconds = time.perf_counter() - began
    backend.close()
    return {"imaging, s": seconds, "major cycles": made["nmajordone"]}


def joined(pixels: int, channels: int, parts: int) -> dict[str, Any]:
    """Join parts of a cube, all images of which are there."""
    _prepare()
    from casatools import image

    from surgeline.imaging.cubeplanes import join_parts, trimmed_name

    each = channels // parts
    Path("image.parts").mkdir()
    for number in range(parts):
        tool = image()
        tool.fromshape(trimmed_name(f"image.parts/{number:03d}", "image"), [pixels, pixels, 1, each])
        coordinates = tool.coordsys()
        coordinates.setreferencepixel(-float(number * each), "spectral")
        tool.setcoordsys(coordinates.torecord())
        tool.done()
    began = time.perf_counter()
    join_parts([f"image.parts/{number:03d}" for number in range(parts)], "image")
    return {"seconds": time.perf_counter() - began}


PROGRAMS: tuple[Callable[..., dict[str, Any]], ...] = (simulated, by_tclean, by_mpirun, by_pclean, by_this, joined)


def main() -> None:
    program = next(program for program in PROGRAMS if program.__name__ == sys.argv[1])
    results = program(**json.loads(sys.argv[2]))
    Path("results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
