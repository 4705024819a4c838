"""What gridding and degridding with the w-term cost: the Triton engine on a GPU, ducc0 on all cores, and cufinufft.

Visibilities a second of two configurations of the VLA, with 64 channels from 1 to 2 GHz: C with 2048² pixels, A with
8192². The GPU's rates count sorting, gridding, transforms and screens; copying to the GPU is told apart. Errors are
measured against direct sums in double precision. Without a GPU ducc0 runs alone. Run it from the project's folder:
`python -m benchmarks.gpu`, with `--visibilities 1e6` for a quick one, and `--configurations C`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parent))
from report import report
from surgeline.imaging.gpu.devices import GpuError, the_device, there_is_a_gpu
from surgeline.imaging.gpu.geometry import SPEED_OF_LIGHT
from surgeline.imaging.gpu.gridder import Gridder

VISIBILITIES, CHANNELS = 1e8, 64
# What has to be kept; engines are asked for it.
EPSILON = 1e-5
ROUNDS = 3
# Rows whose visibilities are compared, and those that an image is compared with where no GPU sums directly.
_CHECKED_ROWS, _SUMMED_ROWS = 200, 5000
_ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class Configuration:
    """Where the antennas of the VLA stand, and the image that is made."""

    # How far the last antenna of an arm is from the centre, in metres.
    arm: float
    npix: int
    arcseconds: float


CONFIGURATIONS = {"C": Configuration(1_950.0, 2048, 2.5), "A": Configuration(21_000.0, 8192, 0.25)}


def coordinates(configuration: Configuration, rows: int) -> NDArray[np.float64]:
    """u, v and w of so many rows in six hours around the transit of a source at 30 degrees."""
    latitude, declination = np.radians([34.08, 30.0])
    distance = configuration.arm * (np.arange(1, 10) / 9) ** 1.716
    azimuth = np.radians([355.0, 115.0, 236.0])
    east = np.outer(np.sin(azimuth), distance).ravel()
    north = np.outer(np.cos(azimuth), distance).ravel()
    first, second = np.triu_indices(27, 1)
    x = -np.sin(latitude) * (north[first] - north[second])
    y = east[first] - east[second]
    z = np.cos(latitude) * (north[first] - north[second])
    hour = np.linspace(-np.pi / 4, np.pi / 4, -(-rows // len(x)))[:, None]
    towards = np.cos(hour) * x - np.sin(hour) * y
    u = np.sin(hour) * x + np.cos(hour) * y
    v = -np.sin(declination) * towards + np.cos(declination) * z
    w = np.cos(declination) * towards + np.sin(declination) * z
    return np.stack([u, v, w], axis=-1).reshape(-1, 3)[:rows]


class Case:
    """Visibilities of a configuration, pixels and rows to compare, and their exact values."""

    def __init__(self, configuration: Configuration, visibilities: int, random: np.random.Generator) -> None:
        rows = max(visibilities // CHANNELS, _CHECKED_ROWS)
        self.uvw = coordinates(configuration, rows)
        self.frequency = np.linspace(1e9, 2e9, CHANNELS)
        self.npix, self.cell = configuration.npix, np.radians(configuration.arcseconds / 3600)
        shape = rows, CHANNELS
        self.vis = random.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]
        self.weights = random.uniform(0.5, 2, shape).astype(np.float32)
        last = self.npix - 1
        corners = [(0, 0), (0, last), (last, 0), (last, last)]
        self.pixels = np.concatenate([corners, random.integers(0, self.npix, (32, 2))])
        self.sky = np.zeros((self.npix, self.npix), np.float32)
        self.sky[tuple(self.pixels.T)] = random.normal(size=len(self.pixels))
        self.some = np.linspace(0, rows - 1, _CHECKED_ROWS).astype(int)

    def plan(self, engine: Any, threads: int = 1) -> Gridder:
        """A gridder for it."""
        return Gridder.plan(self.uvw, self.frequency, self.npix, self.cell, EPSILON, engine, threads=threads)

    def phases(self, xp: Any, uvw: Any, directions: Any, waves: Any) -> Any:
        """In turns: (pixels, rows × channels)."""
        path = directions @ xp.permute_dims(uvw, (1, 0))
        return xp.reshape(path[:, :, None] * waves, (directions.shape[0], -1))

    def directions(self) -> NDArray[np.float64]:
        """l, m and 1 − n of the pixels."""
        l, m = ((self.pixels - self.npix // 2) * self.cell).T  # noqa: E741
        return np.stack([l, m, (l**2 + m**2) / (1 + np.sqrt(1 - l**2 - m**2))], axis=1)

    def error_of_image(
        self, image: NDArray[Any], xp: Any, put: Callable[[Any], Any], rows: NDArray[np.int64]
    ) -> float:
        """The relative error of an image of some rows."""
        waves, directions = put(self.frequency / SPEED_OF_LIGHT), put(self.directions())
        exact = 0.0
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[first : first + _ROWS_AT_ONCE]
            values = put((self.vis[part] * self.weights[part]).astype(np.complex128).ravel())
            phases = 2 * np.pi * self.phases(xp, put(self.uvw[part]), directions, waves)
            exact = exact + xp.cos(phases) @ xp.real(values) - xp.sin(phases) @ xp.imag(values)
        exact = np.array([float(value) for value in exact])
        return float(np.linalg.norm(image[tuple(self.pixels.T)] - exact) / np.linalg.norm(exact))

    def error_of_model(self, model: NDArray[Any]) -> float:
        """The relative error of the visibilities of the sky in some rows."""
        phases = self.phases(_namespace(), self.uvw[self.some], self.directions(), self.frequency / SPEED_OF_LIGHT)
        exact = self.sky[tuple(self.pixels.T)].astype(float) @ np.exp(-2j * np.pi * phases)
        return float(np.linalg.norm(model.ravel() - exact) / np.linalg.norm(exact))


def _namespace() -> Any:
    import array_api_compat.numpy

    return array_api_compat.numpy


def timed(action: Callable[[], Any], wait: Callable[[], Any] = lambda: None) -> tuple[float, Any]:
    """How long something takes, until what it began on a GPU has ended; and what it gives."""
    wait()
    began = time.perf_counter()
    result = action()
    wait()
    return time.perf_counter() - began, result


def by_ducc0(case: Case) -> Iterator[tuple[str, float]]:
    """ducc0 on all cores."""
    cores = len(os.sched_getaffinity(0))
    gridder, count = case.plan("ducc0", cores), case.vis.size
    rows = np.linspace(0, len(case.uvw) - 1, min(_SUMMED_ROWS, len(case.uvw))).astype(int)
    mask = np.zeros(case.vis.shape, bool)
    mask[rows] = True
    checked = gridder.vis2dirty(case.vis, case.weights, mask)
    yield "error of an image", case.error_of_image(checked, _namespace(), np.asarray, rows)
    seconds, _ = timed(lambda: gridder.vis2dirty(case.vis, case.weights))
    yield f"gridded by {cores} cores, Mvis/s", count / seconds / 1e6
    seconds, model = timed(lambda: gridder.dirty2vis(case.sky))
    yield f"degridded by {cores} cores, Mvis/s", count / seconds / 1e6
    yield "error of visibilities", case.error_of_model(model[case.some])


def by_triton(case: Case) -> Iterator[tuple[str, float]]:
    """The Triton engine on the GPU."""
    import torch

    device, wait = the_device(), torch.cuda.synchronize
    count = case.vis.size
    # Kernels are compiled once for all times.
    small = Gridder.plan(case.uvw[:1000], case.frequency, case.npix, case.cell, EPSILON, "triton")
    small.dirty2vis(case.sky), small.vis2dirty(case.vis[:1000], case.weights[:1000])
    del small
    planning, gridder = timed(lambda: case.plan("triton"), wait)
    copying, (vis, weights, sky) = timed(
        lambda: tuple(device.array(one) for one in (case.vis, case.weights, case.sky)), wait
    )
    yield "copied to the GPU, s", copying
    yield "sorted, s", planning
    gridder.vis2dirty(vis, weights)
    image = device.host(gridder.vis2dirty(vis, weights))
    yield "error of an image", case.error_of_image(image, device.xp, device.array, np.arange(len(case.uvw)))
    model = device.host(gridder.dirty2vis(sky)[device.array(case.some), :])
    yield "error of visibilities", case.error_of_model(model)
    actions = {"gridded": lambda: gridder.vis2dirty(vis, weights), "degridded": lambda: gridder.dirty2vis(sky)}
    for what, action in actions.items():
        seconds = statistics.median(timed(action, wait)[0] for _ in range(ROUNDS))
        yield f"{what}, s", seconds
        yield f"{what} once sorted, Mvis/s", count / seconds / 1e6
        yield f"sorted and {what}, Mvis/s", count / (planning + seconds) / 1e6
    yield "most memory of the GPU, GB", torch.cuda.max_memory_allocated() / 1e9


def by_cufinufft(case: Case) -> Iterator[tuple[str, float]]:
    """cufinufft in complex128, from u, v and w to l, m and n − 1 of every pixel."""
    import torch
    from cufinufft import nufft3d3

    device, wait = the_device(), torch.cuda.synchronize
    waves = case.frequency / SPEED_OF_LIGHT
    uvw = [device.array(np.outer(case.uvw[:, axis], 2 * np.pi * waves).ravel()) for axis in range(3)]
    offsets = device.array((np.arange(case.npix) - case.npix // 2) * case.cell)
    l, m = (one.ravel().contiguous() for one in torch.meshgrid(offsets, offsets, indexing="ij"))  # noqa: E741
    less = (l**2 + m**2) / (1 + torch.sqrt(1 - l**2 - m**2))
    vis = device.array((case.vis * case.weights).astype(np.complex128).ravel())
    sky = device.array(case.sky.astype(np.complex128).ravel())
    there, back = (*uvw, vis, l, m, less), (l, m, less, sky, *uvw)
    nufft3d3(*there, eps=EPSILON, isign=1)
    seconds, image = timed(lambda: nufft3d3(*there, eps=EPSILON, isign=1), wait)
    yield "gridded, Mvis/s", case.vis.size / seconds / 1e6
    found = device.host(torch.real(image)).reshape(case.npix, case.npix)
    yield "error of an image", case.error_of_image(found, device.xp, device.array, np.arange(len(case.uvw)))
    del image
    seconds, model = timed(lambda: nufft3d3(*back, eps=EPSILON, isign=-1), wait)
    yield "degridded, Mvis/s", case.vis.size / seconds / 1e6
    some = device.host(model).reshape(case.vis.shape)[case.some]
    yield "error of visibilities", case.error_of_model(some)


def gpu_figures(visibilities: int, configurations: list[str], random: np.random.Generator) -> dict[str, float]:
    """All that can be measured on this machine."""
    ways = {"ducc0": by_ducc0}
    if there_is_a_gpu():
        ways["Triton"] = by_triton
        if find_spec("cufinufft") is not None:
            ways["cufinufft"] = by_cufinufft
    figures: dict[str, float] = {}
    for name in configurations:
        case = Case(CONFIGURATIONS[name], visibilities, random)
        figures[f"{name}: visibilities, M"] = case.vis.size / 1e6
        for way, measure in ways.items():
            try:
                for figure, value in measure(case):
                    print(f"{name}, {way}: {figure}: {value:.3g}", flush=True)
                    figures[f"{name}, {way}: {figure}"] = value
            except (GpuError, MemoryError, RuntimeError) as error:
                print(f"{name}, {way}: not measured: {error}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visibilities", type=float, default=VISIBILITIES, help="of each configuration")
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    asked = parser.parse_args()
    if not there_is_a_gpu():
        print("No GPU can be used here: ducc0 runs alone.")
    seed = np.random.SeedSequence().entropy
    print(f"numpy.random.default_rng({seed})")
    report(gpu_figures(int(asked.visibilities), asked.configurations, np.random.default_rng(seed)), "gpu")


if __name__ == "__main__":
    main()
