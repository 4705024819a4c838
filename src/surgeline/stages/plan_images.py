"""Plan images: cell and image size from the baselines and the dish, and what to image for each target."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

from pydantic import Field, PositiveFloat, field_validator

from surgeline.context.records import Dataset, Decision, Fact, ImagePlan, Observation, SpectralWindow
from surgeline.errors import BadInput
from surgeline.imaging.cube import check_arguments
from surgeline.paths import image, safe_name
from surgeline.stages.solving import edge_channels
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage
from surgeline.work.casasignature import signature
from surgeline.work.procedure import Procedure

_LIGHT = 299792458.0
_RADIAN_ARCSEC = 206264.806
# Largest prime factor of the sizes that the FFT is quick for.
_QUICK_FACTORS = (2, 3, 5)


class Parameters(StageParameters):
    """What to image; `cube` and `continuum` hold arguments of tclean that override the heuristics.

    Attributes:
        cubes: image the lines of each target.
        continua: image the continuum of each target and spectral window.
        cells_per_beam: pixels across the synthesised beam.
        threshold_sigma: clean cubes down to so many times the noise of the dirty image, and continua, whose dirty
            image is full of sidelobes, down to so many times that of the residual (tclean's nsigma).
    """

    cubes: bool = True
    continua: bool = True
    cells_per_beam: PositiveFloat = 4.0
    threshold_sigma: PositiveFloat = 4.0
    cube: dict[str, Any] = Field(default_factory=dict)
    continuum: dict[str, Any] = Field(default_factory=dict)

    @field_validator("cube", "continuum")
    @classmethod
    def _arguments_of_tclean(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Wrong names or types are told when the recipe is read, not when imaging begins."""
        try:
            signature("tclean").check(arguments)
        except BadInput as error:
            raise ValueError(f"{error.message}: {error.way_out}") from error
        return arguments


def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Decide; no jobs are needed."""
    facts: list[Fact] = []
    observations = {observation.vis: observation for observation in stage.known(Observation)}
    datasets = {found.path: found for found in stage.known(Dataset)}
    line = [found for found in datasets.values() if found.kind == "line"]
    calibrated = [found for found in datasets.values() if found.kind == "calibrated"]
    if parameters.cubes:
        for found in line:
            observation = observations[datasets[found.parent].parent]
            # uvcontsub keeps the numbers that windows have in the MS that it is given.
            numbered = datasets[found.parent].windows
            facts += _plans(stage, parameters, found, observation, numbered, "cube")
    if parameters.continua:
        for found in calibrated:
            observation = observations[found.parent]
            facts += _plans(stage, parameters, found, observation, found.windows, "continuum")
    decisions: list[Fact] = [
        Decision(
            stage=stage.name,
            what=fact.name,
            value=", ".join(f"{name}={value}" for name, value in fact.arguments.items()),
            reason="; ".join(fact.reasons),
        )
        for fact in facts
        if isinstance(fact, ImagePlan)
    ]
    yield []
    return facts + decisions


def _plans(
    stage: Stage,
    parameters: Parameters,
    found: Dataset,
    observation: Observation,
    numbered: tuple[int, ...],
    kind: str,
) -> list[ImagePlan]:
    """One image of a kind for each spectral window of a dataset, whose windows are numbered in the order told."""
    windows = {window.id: window for window in observation.spectral_windows}
    return [
        _plan(stage, parameters, found, observation, numbered.index(number), windows[number], kind)
        for number in found.windows
    ]


def _plan(
    stage: Stage,
    parameters: Parameters,
    found: Dataset,
    observation: Observation,
    position: int,
    window: SpectralWindow,
    kind: str,
) -> ImagePlan:
    field = observation.field(found.fields[0])
    # Observations are imaged each by itself, so with several of them their names tell images apart.
    several = len(stage.known(Observation)) > 1
    prefix = f"{safe_name(PurePath(observation.vis).stem)}." if several else ""
    name = f"{prefix}{safe_name(field.name)}.spw{window.id}.{kind}"
    geometry, reasons = image_geometry(observation, window, parameters.cells_per_beam)
    arguments: dict[str, Any] = {
        "vis": found.path,
        "imagename": image(name),
        "spw": str(position),
        **geometry,
        "gridder": "standard",
        "weighting": "briggs",
        "robust": 0.5,
        "niter": 1000000,
        "usemask": "pb",
        "pbmask": 0.2,
    }
    if kind == "cube":
        edge = edge_channels(window.channels)
        arguments |= {
            "specmode": "cube",
            "start": edge,
            "nchan": window.channels - 2 * edge,
            "width": 1,
            "deconvolver": "hogbom",
            "perchanweightdensity": False,
        }
        overrides = parameters.cube
    else:
        arguments |= {"specmode": "mfs", "deconvolver": "hogbom"}
        if "threshold" not in parameters.continuum:
            arguments["nsigma"] = parameters.threshold_sigma
        overrides = parameters.continuum
    if "mask" in overrides:
        # A mask of the recipe's own takes the place of the primary beam's.
        del arguments["usemask"], arguments["pbmask"]
    arguments |= overrides
    if kind == "cube":
        if str(arguments["specmode"]) not in ("cube", "cubedata"):
            raise BadInput(f"a cube cannot have specmode={arguments['specmode']!r}", "give cube or cubedata")
        check_arguments(arguments)
    reasons += [f"{key}={value}: the recipe says so" for key, value in overrides.items()]
    return ImagePlan(
        name=name,
        vis=found.path,
        field=field.name,
        spectral_windows=str(window.id),
        kind="cube" if kind == "cube" else "continuum",
        arguments=arguments,
        threshold_sigma=parameters.threshold_sigma if kind == "cube" and "threshold" not in overrides else None,
        reasons=tuple(reasons),
    )


def image_geometry(
    observation: Observation, window: SpectralWindow, cells_per_beam: float
) -> tuple[dict[str, Any], list[str]]:
    """Cell and image size for an array and a frequency.

    The beam is taken as λ/b of the longest baseline b; the image reaches to where the primary beam of the
    smallest dish D, of width 1.2 λ/D at half power, falls to a fifth (a Gaussian's 1.52 widths across).
    """
    wavelength = _LIGHT / (window.reference_frequency + abs(window.bandwidth) / 2.0)
    beam = wavelength / observation.longest_baseline * _RADIAN_ARCSEC
    cell = _two_digits(beam / cells_per_beam)
    dish = min((antenna.diameter for antenna in observation.antennas if antenna.diameter > 0), default=25.0)
    primary = 1.2 * wavelength / dish * _RADIAN_ARCSEC
    size = quick_size(1.52 * primary / cell)
    return {"cell": f"{cell:g}arcsec", "imsize": size}, [
        f"beam {beam:.3g} arcsec from the longest baseline of {observation.longest_baseline:.0f} m",
        f"primary beam {primary / 60:.3g} arcmin from dishes of {dish:g} m",
    ]


def quick_size(pixels: float) -> int:
    """The smallest even number of pixels, no less than those asked, that has only factors of 2, 3 and 5."""
    size = max(2, 2 * math.ceil(pixels / 2.0))
    while True:
        rest = size
        for factor in _QUICK_FACTORS:
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def _two_digits(value: float) -> float:
    """Round down to two significant digits, so that a cell is never larger than asked."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / scale) * scale
