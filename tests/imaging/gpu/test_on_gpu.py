"""The Triton engine on a real GPU, with as much data as Triton's interpreter cannot do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from directsum import DirectSum, relative_error
from surgeline.imaging.gpu.arrays import TorchDevice
from surgeline.imaging.gpu.devices import GpuError, the_device
from surgeline.imaging.gpu.geometry import Geometry
from surgeline.imaging.gpu.gridder import Gridder
from surgeline.imaging.gpu.tritongridder import TritonGridder

pytestmark = pytest.mark.gpu

EPSILON = 1e-5


@pytest.fixture(autouse=True)
def device() -> TorchDevice:
    """The GPU that there is: Triton's interpreter, which stands in for it elsewhere, would take hours."""
    found = the_device()
    assert isinstance(found, TorchDevice)
    return found


@pytest.mark.parametrize(
    "how",
    [{}, {"center": (0.005, -0.002)}, {"w_term": False}, {"divide_by_n": True}, {"npix": (256, 8192)}],
    ids=["plain", "off the centre", "without w", "divided by n", "long"],
)
def test_large_images_of_much_data_are_exact(how: dict[str, Any], random: np.random.Generator) -> None:
    asked = {"rows": 5000, "channels": 16, "npix": (4096, 2048), "cell": (5e-6, 7e-6)} | how
    case = DirectSum.observed(random, 0.95, **asked)
    case.uvw[:, 2] *= 300
    gridder = case.gridder("triton", EPSILON)
    vis, sky = case.visibilities(random), case.sky(random)
    assert case.error_of_image(gridder.vis2dirty(vis), vis) <= EPSILON
    assert case.error_of_model(gridder.dirty2vis(sky), sky) <= EPSILON
    image = gridder.psf(np.ones(vis.shape, np.float32))
    assert image[case.npix[0] // 2, case.npix[1] // 2] == pytest.approx(vis.size, rel=1e-5)


def test_half_a_million_visibilities_in_one_tile_are_exact(random: np.random.Generator) -> None:
    case = DirectSum.observed(random, 0.001, rows=10000, channels=50, npix=(256, 256))
    vis = 1 + case.visibilities(random)
    assert case.error_of_image(case.gridder("triton", EPSILON).vis2dirty(vis), vis) <= EPSILON


def test_arrays_of_the_gpu_stay_there(device: TorchDevice, random: np.random.Generator) -> None:
    case = DirectSum.observed(random, 0.5)
    gridder = case.gridder("auto", EPSILON)
    assert isinstance(gridder, TritonGridder)
    vis, sky = case.visibilities(random), case.sky(random)
    weights, mask = random.uniform(size=vis.shape).astype(np.float32), random.uniform(size=vis.shape) < 0.8
    there = [device.array(one) for one in (vis, sky, weights, mask)]
    results = [
        (gridder.vis2dirty(there[0], *there[2:]), gridder.vis2dirty(vis, weights, mask)),
        (gridder.dirty2vis(there[1], there[3]), gridder.dirty2vis(sky, mask)),
        (gridder.psf(*there[2:]), gridder.psf(weights, mask)),
        (gridder.residual(*there), gridder.residual(vis, sky, weights, mask)),
    ]
    for on_gpu, on_host in results:
        assert device.holds(on_gpu)
        assert isinstance(on_host, np.ndarray)
        assert relative_error(device.host(on_gpu), on_host) <= 1e-6


def test_more_data_than_memory_is_streamed(random: np.random.Generator) -> None:
    case = DirectSum.observed(random, 0.9, rows=4000, channels=16, npix=(512, 512))
    case.cell = case.cell[0] / 10, case.cell[1] / 10
    case.uvw *= 10
    arguments: dict[str, Any] = {
        "center": (0.0, 0.0),
        "w_term": True,
        "divide_by_n": False,
        "double": False,
        "threads": 1,
    }
    geometry = Geometry.checked(case.uvw, case.frequency, case.npix, case.cell, EPSILON, **arguments)
    whole, parted = TritonGridder(geometry), TritonGridder(geometry, memory=1_000_000)
    vis, sky = case.visibilities(random), case.sky(random)
    weights = random.uniform(0.5, 2, vis.shape).astype(np.float32)
    assert relative_error(parted.vis2dirty(vis, weights), whole.vis2dirty(vis, weights)) < 1e-6
    assert relative_error(parted.dirty2vis(sky), whole.dirty2vis(sky)) < 1e-6
    assert relative_error(parted.residual(vis, sky, weights), whole.residual(vis, sky, weights)) < 3e-6


def test_an_image_that_does_not_fit_is_told() -> None:
    with pytest.raises(GpuError, match="has not enough memory") as told:
        Gridder.plan(np.ones((1, 3)), [1e9], 1 << 18, 1e-7, EPSILON, "triton")
    assert "ducc0" in told.value.way_out
