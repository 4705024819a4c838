"""The Triton engine where its own ways of working could show: tiles, planes, parts, positions and many turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from directsum import SPEED_OF_LIGHT, DirectSum, relative_error
from surgeline.imaging.gpu import gridding_kernels
from surgeline.imaging.gpu.devices import the_device
from surgeline.imaging.gpu.geometry import Geometry
from surgeline.imaging.gpu.tiles import Tiles
from surgeline.imaging.gpu.tritongridder import TritonGridder
from surgeline.imaging.gpu.uvwgrid import UvwGrid

EPSILON = 1e-5
COVERED = 0.08


def geometry_of(case: DirectSum, **how: Any) -> Geometry:
    asked: dict[str, Any] = {
        "center": case.center,
        "w_term": case.w_term,
        "divide_by_n": False,
        "double": False,
        "threads": 1,
    }
    return Geometry.checked(case.uvw, case.frequency, case.npix, case.cell, EPSILON, **asked | how)


def check(case: DirectSum, random: np.random.Generator) -> None:
    """Both ways against direct sums."""
    gridder = case.gridder("triton", EPSILON)
    # Sources that together are nothing would make any error large.
    vis, sky = case.visibilities(random), abs(case.sky(random))
    assert case.error_of_image(gridder.vis2dirty(vis), vis) <= EPSILON
    assert case.error_of_model(gridder.dirty2vis(sky), sky) <= EPSILON


def test_every_visibility_is_in_the_tile_where_its_window_begins(random: np.random.Generator) -> None:
    case = DirectSum.observed(random, 0.95, rows=300)
    grid = UvwGrid.of(geometry_of(case))
    device = the_device()
    tiles = Tiles.of(device, grid, case.uvw, case.frequency)
    order, first, count = (device.host(one).astype(int) for one in (tiles.order, tiles.first, tiles.count))
    mirrored = order < 0
    number = np.where(mirrored, ~order, order)
    assert sorted(number) == list(range(case.uvw.shape[0] * 3))
    assert (mirrored == (case.uvw[number // 3, 2] < 0)).all()
    # The pieces follow each other without a gap, and no tile has two of them that one would hold.
    assert (first == np.concatenate([[0], np.cumsum(count)[:-1]])).all()
    tile = device.host(tiles.tile).astype(int)
    assert (np.diff(tile) > 0).all()
    # Wherever a visibility is in its tile, its window reaches no cell beyond it.
    place = device.host(tiles.place) / gridding_kernels.CELL.value
    half = grid.window.support / 2
    for axis, cells in enumerate(
        (gridding_kernels.ACROSS.value, gridding_kernels.ACROSS.value, gridding_kernels.DEEP.value)
    ):
        assert place[axis].min() >= half - 1 - 1e-6
        assert place[axis].max() <= cells - half + 1e-6
    assert tiles.layers[-1] == len(tile)


def test_a_tile_with_very_many_visibilities_is_shared_by_programs(random: np.random.Generator) -> None:
    check(DirectSum.observed(random, 0.002, rows=720), random)


def test_windows_beyond_the_edge_of_the_uv_plane_come_back_on_its_other_side(random: np.random.Generator) -> None:
    case = DirectSum.observed(random, 1, rows=8, channels=1, npix=(32, 32))
    # Nyquist's frequency is at 1; what is beyond it is aliased, as it is in a direct sum.
    edge = SPEED_OF_LIGHT / (2 * np.array(case.cell) * 0.95e9)
    case.uvw[:, :2] = random.choice([-1, 1], (8, 2)) * edge * random.uniform(0.95, 1.1, (8, 2))
    case.uvw[4:, 1] = 0
    check(case, random)


def test_positions_are_as_exact_as_a_large_image_needs(random: np.random.Generator) -> None:
    case = DirectSum.observed(random, 1, rows=12, channels=1, npix=(8192, 16), cell=(2e-6, 2e-6), w_term=False)
    case.uvw[:, 0] = np.abs(case.uvw[:, 0]) % 500 + 0.7 * SPEED_OF_LIGHT / (2 * 2e-6 * 0.95e9)
    case.uvw[:, 1] *= 0.01
    check(case, random)


def test_w_may_turn_phases_very_often(random: np.random.Generator) -> None:
    case = DirectSum.observed(random, COVERED, rows=20, npix=(32, 32), center=(0.3, 0.2))
    # Thousands of turns from one side of the image to the other, and little between the visibilities.
    case.uvw[:, 2] = np.sign(case.uvw[:, 2]) * 3e4
    case.frequency[:] = 1e9 + np.arange(3) * 2e4
    check(case, random)


def test_visibilities_that_do_not_fit_memory_are_worked_on_in_parts(random: np.random.Generator) -> None:
    case = DirectSum.observed(random, COVERED / 2, rows=24, npix=(32, 32))
    geometry = replace(geometry_of(case), epsilon=1e-2)
    whole, parted = TritonGridder(geometry), TritonGridder(geometry, memory=10_000)
    assert (len(whole._parts), len(parted._parts)) == (1, 2)
    assert list(parted._batches()) == [(number, 1) for number in range(whole._grid.planes)]
    assert list(whole._batches()) == [(0, whole._grid.planes)]
    vis, sky = case.visibilities(random), case.sky(random)
    weights = random.uniform(0.5, 2, vis.shape).astype(np.float32)
    mask = random.uniform(size=vis.shape) < 0.8
    assert relative_error(parted.vis2dirty(vis, weights, mask), whole.vis2dirty(vis, weights, mask)) < 1e-6
    assert relative_error(parted.dirty2vis(sky, mask), whole.dirty2vis(sky, mask)) < 1e-6
    assert relative_error(parted.psf(weights), whole.psf(weights)) < 1e-6
    assert relative_error(parted.residual(vis, sky, weights), whole.residual(vis, sky, weights)) < 1e-6
