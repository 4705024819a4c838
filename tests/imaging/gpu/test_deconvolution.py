"""Cleans on a GPU find what radler and a plain clean find; Triton's interpreter stands in for a GPU."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgeline.errors import BadInput
from surgeline.imaging.gpu.deconvolution import (
    ALGORITHMS,
    ENGINES,
    Algorithm,
    DeconvolutionEngine,
    Deconvolved,
    deconvolve,
)
from surgeline.imaging.gpu.devices import there_is_a_gpu

Image = NDArray[np.float32]
NOISE = 0.003
SCALES = (0, 4, 8, 12)


def psf_of(shape: tuple[int, int], random: np.random.Generator) -> Image:
    """A PSF of baselines at random, whose sidelobes fade towards its edges."""
    u, v = random.normal(scale=0.08, size=(2, 300))
    x, y = (np.arange(size) - size // 2 for size in shape)
    waves = np.exp(2j * np.pi * np.outer(x, u)) @ np.exp(2j * np.pi * np.outer(v, y))
    fading = np.exp(-50 * ((x / shape[0])[:, None] ** 2 + (y / shape[1]) ** 2))
    return np.asarray(waves.real / len(u) * fading, np.float32)


def through(psf: Image, model: NDArray[Any]) -> NDArray[np.float64]:
    """A model as the PSF shows it, pixel by pixel; the PSF is zero beyond its edges."""
    rows, columns = psf.shape
    seen = np.zeros((2 * rows, 2 * columns))
    for row, column in np.argwhere(model):
        seen[row : row + rows, column : column + columns] += model[row, column] * psf.astype(np.float64)
    return seen[rows // 2 : rows // 2 + rows, columns // 2 : columns // 2 + columns]


def sky_of(shape: tuple[int, int], random: np.random.Generator, extended: float = 0.0) -> Image:
    """Sources anywhere, negative ones too, one of them in a corner; and an extended one with so much flux."""
    sky = np.zeros(shape)
    for _ in range(4):
        sky[random.integers(shape[0]), random.integers(shape[1])] += random.choice([-1, 1]) * random.uniform(0.5, 1)
    sky[-1, 0] += 0.8
    if extended:
        x, y = (np.arange(size) - random.uniform(0.4, 0.6) * size for size in shape)
        blob = np.exp(-(x[:, None] ** 2 + y**2) / (2 * 3.0**2))
        sky += extended * blob / blob.sum()
    return sky.astype(np.float32)


def observed(psf: Image, sky: Image, random: np.random.Generator) -> Image:
    return (through(psf, sky) + random.normal(scale=NOISE, size=sky.shape)).astype(np.float32)


def cleaned(image: Image, psf: Image, algorithm: Algorithm, engine: DeconvolutionEngine, **how: Any) -> Deconvolved:
    if algorithm == "multiscale":
        how = {"scales": SCALES, **how}
    return deconvolve(image, psf, np.zeros_like(image), algorithm=algorithm, engine=engine, **how)


def plain_hogbom(
    image: Image, psf: Image, gain: float, threshold: float, iterations: int, mask: NDArray[np.bool_]
) -> tuple[Image, Image, int]:
    """Högbom's clean, one line for each of its steps."""
    left, model = image.copy(), np.zeros_like(image)
    rows, columns = image.shape
    for done in range(iterations):
        peak = np.where(mask, np.abs(left), 0)
        row, column = np.unravel_index(np.argmax(peak), image.shape)
        if peak[row, column] <= np.float32(threshold):
            return left, model, done
        component = np.float32(gain) * left[row, column]
        model[row, column] += component
        first = rows // 2 - row, columns // 2 - column
        beam = np.pad(psf, ((rows, rows), (columns, columns)))
        left -= component * beam[first[0] + rows : first[0] + 2 * rows, first[1] + columns : first[1] + 2 * columns]
    return left, model, iterations


@pytest.mark.parametrize("shape", [(48, 48), (81, 64), (40, 75)])
@pytest.mark.parametrize("masked", [False, True])
def test_hogbom_finds_component_by_component_what_a_plain_one_finds(
    shape: tuple[int, int], masked: bool, random: np.random.Generator
) -> None:
    psf = psf_of(shape, random)
    image = observed(psf, sky_of(shape, random, extended=2), random)
    mask = random.random(shape) < 0.3 if masked else np.ones(shape, bool)
    left, model, done = plain_hogbom(image, psf, 0.2, 0.3, 25, mask)
    found = cleaned(
        image, psf, "hogbom", "gpu", gain=0.2, threshold=0.3, iterations=25, mask=mask if masked else None
    )
    assert found.iterations == done > 5
    np.testing.assert_allclose(found.model, model, rtol=1e-6)
    np.testing.assert_allclose(found.residual, left, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_gpu_finds_what_radler_finds_and_no_more_is_left(
    algorithm: Algorithm, masked: bool, random: np.random.Generator
) -> None:
    shape = (64, 72)
    psf = psf_of(shape, random)
    image = observed(psf, sky_of(shape, random, extended=10), random)
    mask = np.ones(shape, bool)
    if masked:
        mask = random.random(shape) < 0.7
    how: dict[str, Any] = {"gain": 0.2, "threshold": 0.1, "iterations": 30, "mask": mask if masked else None}
    radler, gpu = (cleaned(image, psf, algorithm, engine, **how) for engine in ("radler", "gpu"))
    assert (gpu.iterations, gpu.stopped) == (radler.iterations, radler.stopped)
    assert gpu.iterations > 5
    np.testing.assert_allclose(gpu.model, radler.model, atol=2e-5)
    np.testing.assert_allclose(gpu.residual, radler.residual, atol=2e-5)
    assert gpu.residual.std() == pytest.approx(radler.residual.std(), rel=1e-4)
    for found in (radler, gpu):
        np.testing.assert_allclose(found.residual, image - through(psf, found.model), atol=1e-5)
        if algorithm != "multiscale":
            assert not found.model[~mask].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_point_sources_keep_their_places_and_fluxes(engine: DeconvolutionEngine, random: np.random.Generator) -> None:
    shape = (64, 64)
    psf = psf_of(shape, random)
    sky = np.zeros(shape, np.float32)
    places = [(12, 40), (50, 20), (0, 63)]
    fluxes = [1.0, -0.7, 0.8]
    for place, flux in zip(places, fluxes, strict=True):
        sky[place] = flux
    found = cleaned(observed(psf, sky, random), psf, "clark", engine, gain=0.5, threshold=0.1, iterations=60)
    assert found.stopped == "threshold"
    for (row, column), flux in zip(places, fluxes, strict=True):
        around = found.model[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        assert around.sum() == pytest.approx(flux, abs=0.15)
    assert np.abs(found.residual).max() <= 0.1 + 1e-5


def test_multiscale_finds_what_is_extended_as_such(random: np.random.Generator) -> None:
    shape = (64, 64)
    psf = psf_of(shape, random)
    sky = sky_of(shape, random, extended=20)
    image = observed(psf, sky, random)
    smooth = cleaned(image, psf, "multiscale", "radler", threshold=6 * NOISE, iterations=2000)
    assert smooth.stopped == "threshold"
    assert smooth.model.sum() == pytest.approx(sky.sum(), rel=0.1)
    # With points alone it is a heap of them.
    points = cleaned(image, psf, "clark", "radler", threshold=6 * NOISE, iterations=2000)
    astray = [np.abs(found.model - sky).sum() for found in (smooth, points)]
    assert astray[0] < 0.5 * astray[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_clark_cleans_what_becomes_bright_on_the_way(engine: DeconvolutionEngine) -> None:
    psf = np.zeros((32, 32), np.float32)
    psf[16, 16], psf[16, 20], psf[16, 12] = 1, 0.3, 0.3
    sky = np.zeros_like(psf)
    # The first one's sidelobe hides the second one.
    sky[10, 10], sky[10, 14] = 1, -0.3
    image = through(psf, sky).astype(np.float32)
    assert abs(image[10, 14]) < 0.01
    found = cleaned(image, psf, "clark", engine, gain=0.5, threshold=0.02, iterations=100)
    assert found.stopped == "threshold"
    assert np.abs(found.residual).max() <= 0.021
    assert found.model[10, 14] == pytest.approx(-0.3, abs=0.05)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_stops_at_the_threshold_after_so_many_iterations_and_where_it_diverges(
    algorithm: Algorithm, engine: DeconvolutionEngine, random: np.random.Generator
) -> None:
    shape = (48, 48)
    psf = psf_of(shape, random)
    sky = np.zeros(shape, np.float32)
    sky[20, 30] = 1
    image = observed(psf, sky, random)
    found = cleaned(image, psf, algorithm, engine, gain=0.5, threshold=0.2, iterations=50)
    assert (found.stopped, found.iterations < 15) == ("threshold", True)
    assert 0.05 < np.abs(found.residual).max() <= 0.2
    found = cleaned(image, psf, algorithm, engine, gain=0.5, threshold=0.001, iterations=3)
    assert (found.stopped, found.iterations) == ("iterations", 3)
    found = cleaned(image, psf, algorithm, engine, iterations=0)
    assert (found.stopped, found.iterations) == ("iterations", 0)
    # A PSF of other data: its sidelobe makes more than its peak takes.
    wrong = psf.copy()
    wrong[24:30, 28:34] = -3
    found = cleaned(image, wrong, algorithm, engine, gain=0.9, threshold=0.001, iterations=200)
    assert (found.stopped, found.iterations < 30) == ("diverged", True)
    assert np.isfinite(found.residual).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_comes_of_an_empty_image_or_an_empty_mask(
    algorithm: Algorithm, engine: DeconvolutionEngine, random: np.random.Generator
) -> None:
    psf = psf_of((32, 32), random)
    empty = np.zeros((32, 32), np.float32)
    known = empty.copy()
    known[3, 4] = 2
    how: dict[str, Any] = {"scales": SCALES} if algorithm == "multiscale" else {}
    found = deconvolve(empty, psf, known, algorithm=algorithm, engine=engine, iterations=10, **how)
    assert (found.stopped, found.iterations) == ("threshold", 0)
    np.testing.assert_array_equal(found.model, known)
    image = observed(psf, known, random)
    found = cleaned(image, psf, algorithm, engine, iterations=10, mask=np.zeros((32, 32), bool))
    assert (found.stopped, found.iterations) == ("threshold", 0)
    np.testing.assert_array_equal(found.residual, image)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_components_are_added_to_the_model_and_what_was_given_stays_as_it_was(
    algorithm: Algorithm, engine: DeconvolutionEngine, random: np.random.Generator
) -> None:
    psf = psf_of((32, 32), random)
    sky = np.zeros((32, 32), np.float32)
    sky[14, 18] = 1
    image = observed(psf, sky, random)
    known = random.normal(size=sky.shape).astype(np.float32)
    given = [array.copy() for array in (image, psf, known)]
    how: dict[str, Any] = {"scales": (0, 6), "engine": engine} if algorithm == "multiscale" else {"engine": engine}
    found = deconvolve(image, psf, known, algorithm=algorithm, iterations=4, **how)
    for array, before in zip((image, psf, known), given, strict=True):
        np.testing.assert_array_equal(array, before)
    np.testing.assert_allclose(found.residual, image - through(psf, found.model - known), atol=1e-5)
    # Arrays in another order, of another type, mean the same.
    again = deconvolve(
        np.asfortranarray(image), psf.astype(">f8"), known.tolist(), algorithm=algorithm, iterations=4, **how
    )
    np.testing.assert_array_equal(again.model, found.model)


@pytest.mark.parametrize("engine", ENGINES)
def test_multiscale_finds_a_point_in_a_corner_where_no_scale_reaches(
    engine: DeconvolutionEngine, random: np.random.Generator
) -> None:
    psf = psf_of((48, 48), random)
    sky = np.zeros((48, 48), np.float32)
    sky[0, 47] = 1
    found = cleaned(observed(psf, sky, random), psf, "multiscale", engine, gain=0.5, iterations=3, threshold=0.1)
    assert found.model[0, 47] > 0.8


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_of_equal_peaks_the_first_one_is_taken(algorithm: Algorithm, engine: DeconvolutionEngine) -> None:
    psf, image = np.zeros((2, 80, 64), np.float32)
    psf[40, 32] = 1
    image[70, 9], image[20, 50], image[20, 51] = -1, 1, -1
    how: dict[str, Any] = {"scales": (0,)} if algorithm == "multiscale" else {}
    found = cleaned(image, psf, algorithm, engine, gain=0.5, iterations=1, **how)
    assert np.argwhere(found.model).tolist() == [[20, 50]]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"algorithm": "hogbon"}, "hogbom"),
    ({"engine": "cuda"}, "gpu"),
    ({"gain": 0.0}, "gain"),
    ({"gain": 1.5}, "gain"),
    ({"gain": float("nan")}, "gain"),
    ({"threshold": -1.0}, "threshold"),
    ({"threshold": float("inf")}, "threshold"),
    ({"iterations": -1}, "iterations"),
    ({"scales": (0, 4)}, "multiscale"),
    ({"algorithm": "multiscale"}, "scales"),
    ({"algorithm": "multiscale", "scales": (0, -3)}, "-3"),
    ({"algorithm": "multiscale", "scales": (0, float("nan"))}, "nan"),
    ({"algorithm": "multiscale", "scales": (0, 40)}, "40"),
    ({"algorithm": "multiscale", "scales": (0, 4), "scale_bias": 0.0}, "bias"),
    ({"mask": np.ones((32, 30), bool)}, "mask"),
    ({"residual": np.full((32, 32), np.nan)}, "1024 pixels of the residual"),
    ({"psf": np.full((32, 32), np.inf)}, "PSF"),
    ({"model": np.full((32, 32), np.nan)}, "model"),
    ({"residual": np.zeros((32, 32, 1))}, "two axes"),
    ({"residual": np.zeros((0, 0))}, "two axes"),
    ({"residual": [["a"]]}, "residual"),
    ({"model": np.zeros((32, 30))}, "(32, 30)"),
    ({"psf": np.zeros((32, 32))}, "sum of the weights"),
]


@pytest.mark.parametrize(("wrong", "told"), BAD, ids=[f"{number}-{told}" for number, (_, told) in enumerate(BAD)])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_deconvolved_is_told_before_any_work(
    wrong: dict[str, Any], told: str, engine: str, random: np.random.Generator
) -> None:
    psf = psf_of((32, 32), random)
    right: dict[str, Any] = {"residual": psf, "psf": psf, "model": np.zeros_like(psf)}
    with pytest.raises(BadInput) as error:
        deconvolve(**{**right, "algorithm": "hogbom", "iterations": 1, "engine": engine, **wrong})
    assert told in str(error.value)


def test_a_scale_that_the_psf_does_not_show_is_told() -> None:
    # No short baselines: the peak stands in a wide hollow, and all that is wide is lost.
    psf = np.asarray(-0.01 * np.exp(-((np.hypot(*(np.indices((48, 48)) - 24)) / 15) ** 2)), np.float32)
    psf[24, 24] = 1
    with pytest.raises(BadInput, match=r"scale of 30 pixels.*\n.*short baselines"):
        deconvolve(psf, psf, 0 * psf, algorithm="multiscale", scales=(0, 30), iterations=1)


def test_an_odd_number_of_pixels_is_for_a_gpu_alone(random: np.random.Generator) -> None:
    psf = psf_of((33, 32), random)
    with pytest.raises(BadInput, match=r"even.*33 × 32(.|\n)*'gpu'"):
        cleaned(psf, psf, "hogbom", "radler", iterations=1)
    for algorithm in ALGORITHMS:
        found = cleaned(psf, psf, algorithm, "gpu", iterations=3)
        np.testing.assert_allclose(found.residual, psf - through(psf, found.model), atol=1e-5)


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from surgeline.imaging.gpu import clean_kernels

types = dict.fromkeys(["values", "psf", "component", "tile_peak", "model", "first_peak"], "*fp32")
types |= dict.fromkeys(["positions", "component_position", "ended", "tile_place", "done"], "*i32")
types |= dict.fromkeys(["gain", "threshold", "divergence"], "fp32")
types |= dict.fromkeys(["LISTED", "TILE", "TILES"], "constexpr") | {"usable": "*u8"}
for kernel in (clean_kernels.subtract_and_find, clean_kernels.take_component):
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    for listed in (False, True):
        constants = {"LISTED": listed, "TILE": 4096, "TILES": 16384}
        constants = {name: value for name, value in constants.items() if name in signature}
        source = ASTSource(kernel, signature, constexprs=constants)
        assert compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8}).asm["cubin"]
"""


def test_kernels_compile_for_a_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=300)


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_real_gpu_finds_what_radler_finds_in_large_images_and_keeps_its_arrays(
    algorithm: Algorithm, random: np.random.Generator
) -> None:
    if not there_is_a_gpu():
        pytest.skip("there is no GPU here")
    import torch

    shape = (1024, 1200)
    psf = psf_of(shape, random)
    image = observed(psf, sky_of(shape, random, extended=10), random)
    how: dict[str, Any] = {"gain": 0.1, "threshold": 0.02, "iterations": 500}
    radler = cleaned(image, psf, algorithm, "radler", **how)
    there = [torch.as_tensor(array, device="cuda") for array in (image, psf, np.zeros_like(image))]
    scales = SCALES if algorithm == "multiscale" else ()
    gpu = deconvolve(*there, algorithm=algorithm, engine="gpu", scales=scales, **how)
    assert gpu.model.is_cuda
    assert gpu.residual.is_cuda
    assert (gpu.iterations, gpu.stopped) == (radler.iterations, radler.stopped)
    np.testing.assert_allclose(gpu.model.cpu().numpy(), radler.model, atol=1e-4)
    np.testing.assert_allclose(gpu.residual.cpu().numpy(), radler.residual, atol=1e-4)
