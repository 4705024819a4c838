"""What every gridder keeps to, measured against direct sums in double precision; Triton's by its interpreter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from directsum import SPEED_OF_LIGHT, DirectSum, relative_error
from surgeline.errors import BadInput
from surgeline.imaging.gpu.devices import GpuError
from surgeline.imaging.gpu.gridder import Engine, Gridder


@dataclass(frozen=True)
class Way:
    """An engine and a precision, and how many cells around the centre an observation may cover."""

    engine: Engine
    double: bool
    # Of the uv plane. A tile takes the interpreter some 30 milliseconds.
    covered: float
    # Errors that are asked for.
    epsilons: tuple[float, ...]
    # The relative error of sums of its numbers.
    rounding: float

    @property
    def least(self) -> float:
        return min(self.epsilons)

    @property
    def complex(self) -> type:
        return np.complex128 if self.double else np.complex64

    @property
    def real(self) -> type:
        return np.float64 if self.double else np.float32


WAYS = {
    "ducc0 in single precision": Way("ducc0", False, 0.9, (1e-3, 1e-4, 1e-5, 2e-6), 1e-6),
    "ducc0 in double precision": Way("ducc0", True, 0.9, (1e-3, 1e-5, 1e-8, 1e-12), 1e-12),
    "triton": Way("triton", False, 0.08, (1e-2, 1e-3, 1e-4, 1e-5), 1e-6),
}
GEOMETRIES: dict[str, dict[str, Any]] = {
    "at the phase centre": {},
    "elsewhere": {"center": (0.05, -0.1)},
    "higher than wide": {"npix": (32, 80)},
    "without w": {"w_term": False},
    "divided by n": {"center": (-0.1, 0.05), "divide_by_n": True},
    "one channel": {"channels": 1},
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def planned(case: DirectSum, way: Way, epsilon: float | None = None) -> Gridder:
    """With the least error that this way is tried with, if no other is asked for."""
    return case.gridder(way.engine, epsilon or way.least, way.double)


@pytest.mark.parametrize("step", range(4))
def test_the_error_is_no_larger_than_asked_for(way: Way, step: int, random: np.random.Generator) -> None:
    epsilon = way.epsilons[step]
    case = DirectSum.observed(random, way.covered)
    gridder = planned(case, way, epsilon)
    vis, sky = case.visibilities(random, way.complex), case.sky(random, way.real)
    image, model = gridder.vis2dirty(vis), gridder.dirty2vis(sky)
    assert (image.shape, image.dtype, model.shape, model.dtype) == (case.npix, way.real, vis.shape, way.complex)
    assert case.error_of_image(image, vis) <= epsilon
    assert case.error_of_model(model, sky) <= epsilon


@pytest.mark.parametrize("how", GEOMETRIES.values(), ids=GEOMETRIES)
def test_images_may_lie_and_be_shaped_as_they_like(
    way: Way, how: dict[str, Any], random: np.random.Generator
) -> None:
    case = DirectSum.observed(random, way.covered, **how)
    gridder = planned(case, way)
    vis, sky = case.visibilities(random, way.complex), case.sky(random, way.real)
    assert case.error_of_image(gridder.vis2dirty(vis), vis) <= way.least
    assert case.error_of_model(gridder.dirty2vis(sky), sky) <= way.least


def test_one_way_is_the_transpose_of_the_other(way: Way, random: np.random.Generator) -> None:
    case = DirectSum.observed(random, way.covered, center=(0.02, 0.03))
    gridder = planned(case, way)
    vis, sky = case.visibilities(random, way.complex), random.normal(size=case.npix).astype(way.real)
    image = gridder.vis2dirty(vis).astype(float)
    model = gridder.dirty2vis(sky).astype(complex)
    scale = np.linalg.norm(image) * np.linalg.norm(sky)
    assert abs(np.vdot(model, vis).real - np.vdot(sky, image)) <= way.rounding * scale


def test_sums_of_visibilities_make_sums_of_images(way: Way, random: np.random.Generator) -> None:
    case = DirectSum.observed(random, way.covered)
    gridder = planned(case, way)
    first, second = case.visibilities(random, way.complex), case.visibilities(random, way.complex)
    together = gridder.vis2dirty(3 * first - second)
    apart = 3.0 * gridder.vis2dirty(first) - gridder.vis2dirty(second)
    assert relative_error(together, apart) <= 2 * way.rounding
    first, second = case.sky(random, way.real), case.sky(random, way.real)
    model = gridder.dirty2vis(3 * first - second)
    assert relative_error(model, 3.0 * gridder.dirty2vis(first) - gridder.dirty2vis(second)) <= 2 * way.rounding


@pytest.mark.parametrize(
    "how", [GEOMETRIES["at the phase centre"], GEOMETRIES["divided by n"]], ids=["middle", "off"]
)
def test_the_psf_has_its_peak_at_the_centre_and_it_is_the_sum_of_the_weights(
    way: Way, how: dict[str, Any], random: np.random.Generator
) -> None:
    case = DirectSum.observed(random, way.covered, **how)
    weights = random.uniform(0.5, 2, (len(case.uvw), len(case.frequency))).astype(way.real)
    weights[3] = 0
    psf = planned(case, way).psf(weights) / weights.sum(dtype=float)
    middle = case.npix[0] // 2, case.npix[1] // 2
    assert psf[middle] == pytest.approx(1, abs=1e-5)
    assert psf.max() <= 1 + 1e-5


@pytest.mark.parametrize("where", [(32, 24), (0, 0), (63, 47), (50, 7)], ids=["centre", "first", "last", "between"])
def test_a_source_is_where_it_is_and_as_bright(way: Way, where: tuple[int, int], random: np.random.Generator) -> None:
    case = DirectSum.observed(random, way.covered, center=(0.01, -0.02))
    l, m = (case.center[axis] + (where[axis] - case.npix[axis] // 2) * case.cell[axis] for axis in (0, 1))  # noqa: E741
    waves = case.frequency / SPEED_OF_LIGHT
    path = case.uvw @ [l, m, -(np.sqrt(1 - l**2 - m**2) - 1)]
    gridder = planned(case, way)
    image = gridder.vis2dirty(np.exp(-2j * np.pi * np.outer(path, waves)).astype(way.complex))
    assert np.unravel_index(image.argmax(), image.shape) == where
    assert image[where] == pytest.approx(len(path) * len(waves), rel=1e-5)
    sky = np.zeros(case.npix, way.real)
    sky[where] = 2.5
    assert relative_error(gridder.dirty2vis(sky), 2.5 * np.exp(-2j * np.pi * np.outer(path, waves))) <= 1e-5


@pytest.mark.parametrize("sign", [-1, 1])
def test_w_of_one_sign_makes_no_difference_to_the_error(way: Way, sign: int, random: np.random.Generator) -> None:
    case = DirectSum.observed(random, way.covered)
    case.uvw[:, 2] = sign * (40 + abs(case.uvw[:, 2]))
    vis = case.visibilities(random, way.complex)
    assert case.error_of_image(planned(case, way).vis2dirty(vis), vis) <= min(way.epsilons)


def test_what_is_flagged_or_has_no_weight_contributes_nothing_whatever_it_is(
    way: Way, random: np.random.Generator
) -> None:
    case = DirectSum.observed(random, way.covered)
    gridder = planned(case, way)
    vis, sky = case.visibilities(random, way.complex), case.sky(random, way.real)
    weights = random.uniform(0.5, 2, vis.shape).astype(way.real)
    mask = random.uniform(size=vis.shape) < 0.8
    weights[random.uniform(size=vis.shape) < 0.2] = 0
    used = np.where(mask, weights, 0)
    weighted = vis * used
    vis[~mask] = complex(np.nan, np.inf)
    vis[weights == 0] = np.nan
    weights[~mask] = np.nan
    assert case.error_of_image(gridder.vis2dirty(vis, weights, mask), weighted) <= way.least
    assert case.error_of_image(gridder.vis2dirty(vis, used), weighted) <= way.least
    assert gridder.psf(weights, mask).max() == pytest.approx(used.sum(dtype=float), rel=1e-5)
    model = gridder.dirty2vis(sky, mask)
    assert (model[~mask] == 0).all()
    everywhere = case.dirty2vis(sky, np.arange(len(case.uvw)))
    assert relative_error(model[mask], everywhere[mask]) <= 2 * way.least
    residual = gridder.residual(vis, sky, weights, mask)
    left = np.where(used > 0, vis - everywhere, 0) * used
    assert case.error_of_image(residual, left) <= 2 * way.least


def test_a_mask_alone_is_a_weight_of_one(way: Way, random: np.random.Generator) -> None:
    case = DirectSum.observed(random, way.covered)
    vis = case.visibilities(random, way.complex)
    mask = random.uniform(size=vis.shape) < 0.5
    gridder = planned(case, way)
    # Marks of any kind are true where they are not zero.
    image = gridder.vis2dirty(np.where(mask, vis, np.nan), mask=256 * mask)
    assert case.error_of_image(image, vis * mask) <= way.least
    assert not gridder.vis2dirty(vis, mask=np.zeros_like(mask)).any()


def test_a_model_that_is_what_was_seen_leaves_nothing(way: Way, random: np.random.Generator) -> None:
    case = DirectSum.observed(random, way.covered)
    gridder = planned(case, way)
    sky = case.sky(random, way.real)
    vis = case.dirty2vis(sky, np.arange(len(case.uvw))).astype(way.complex)
    assert abs(gridder.residual(vis, sky)).max() <= 2 * way.least * abs(gridder.vis2dirty(vis)).max()


@pytest.mark.parametrize(("rows", "channels"), [(0, 3), (2, 0)])
def test_no_visibilities_make_an_image_of_zeros(
    way: Way, rows: int, channels: int, random: np.random.Generator
) -> None:
    case = DirectSum.observed(random, way.covered, rows, channels)
    gridder = planned(case, way)
    nothing = np.zeros((rows, channels), way.complex)
    sky = case.sky(random, way.real)
    for image in (gridder.vis2dirty(nothing), gridder.psf(), gridder.residual(nothing, sky)):
        assert (image.shape, image.dtype, image.any()) == (case.npix, way.real, False)
    model = gridder.dirty2vis(sky)
    assert (model.shape, model.dtype) == (nothing.shape, way.complex)


def test_the_engines_agree(random: np.random.Generator) -> None:
    ways = [WAYS["ducc0 in double precision"], WAYS["triton"]]
    case = DirectSum.observed(random, WAYS["triton"].covered)
    vis = case.visibilities(random)
    images = [planned(case, way, 1e-5).vis2dirty(vis) for way in ways]
    assert relative_error(images[1], images[0]) <= 2e-5


def test_without_a_gpu_ducc0_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgeline.imaging.gpu.devices._what_is_missing", lambda: "torch finds none on this computer")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    gridder = Gridder.plan(np.zeros((1, 3)), [1e9], 32, 1e-3, 1e-5)
    assert type(gridder).__name__ == "DuccGridder"
    with pytest.raises(GpuError, match=r"No GPU can be used: torch finds none on this computer\.\n.*ducc0"):
        Gridder.plan(np.zeros((1, 3)), [1e9], 32, 1e-3, 1e-5, "triton")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "coordinates of another shape": ({"uvw": np.zeros((4, 2))}, r"shape \(4, 2\)"),
    "coordinates that are none": ({"uvw": [[0, 0, 0], [0, np.nan, 0]]}, "row 1 are not finite"),
    "frequencies of another shape": ({"frequency": [[1e9]]}, r"shape \(1, 1\)"),
    "a frequency of zero": ({"frequency": [0.0]}, "not a positive number"),
    "an odd number of pixels": ({"npix": 33}, "33 × 33 pixels"),
    "no pixels": ({"npix": (32, 0)}, "32 × 0 pixels"),
    "three sides": ({"npix": (32, 32, 32)}, "number for each axis"),
    "pixels without a size": ({"cell": 0.0}, "0.0 × 0.0 radians"),
    "pixels of a negative size": ({"cell": (1e-3, -1e-3)}, "-0.001 radians"),
    "an image beyond the horizon": ({"cell": 0.05}, "below the horizon"),
    "a centre beyond the horizon": ({"center": (1.0, 0.0)}, "below the horizon"),
    "a centre that is none": ({"center": (np.nan, 0.0)}, "centre cannot be"),
    "an error that is too small": ({"epsilon": 1e-7}, "single precision"),
    "an error too small for double precision": ({"epsilon": 1e-14, "double": True}, "double precision"),
    "an error that is none": ({"epsilon": 0.0}, "error of 0"),
    "an engine that is none": ({"engine": "tritone"}, r"no engine 'tritone'[^$]*'triton'"),
    "no threads": ({"threads": 0}, "0 threads"),
    "an error too small for triton": ({"epsilon": 5e-6, "engine": "triton"}, r"triton cannot keep[^$]*ducc0"),
    "double precision by triton": ({"double": True, "engine": "triton"}, r"single precision alone[^$]*ducc0"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_imaged_is_refused(arguments: dict[str, Any], message: str) -> None:
    asked = {"uvw": np.ones((4, 3)), "frequency": [1e9], "npix": 32, "cell": 1e-3, "epsilon": 1e-5, "engine": "ducc0"}
    with pytest.raises(BadInput, match=message):
        Gridder.plan(**asked | arguments)


@pytest.mark.parametrize("what", ["visibilities", "weights", "masks", "pixels"])
def test_arrays_of_another_shape_are_refused(way: Way, what: str, random: np.random.Generator) -> None:
    case = DirectSum.observed(random, way.covered, rows=4, channels=2)
    gridder = planned(case, replace(way, covered=0.01))
    right, wrong, sky = np.zeros((4, 2)), np.zeros((2, 4)), np.zeros(case.npix)
    calls = {
        "visibilities": [lambda: gridder.vis2dirty(wrong), lambda: gridder.residual(wrong, sky)],
        "weights": [lambda: gridder.vis2dirty(right, wrong), lambda: gridder.psf(wrong)],
        "masks": [lambda: gridder.vis2dirty(right, mask=wrong), lambda: gridder.dirty2vis(sky, wrong)],
        "pixels": [lambda: gridder.dirty2vis(sky.T), lambda: gridder.residual(right, sky.T)],
    }
    for call in calls[what]:
        with pytest.raises(BadInput, match=f"The {what} have the shape"):
            call()
