"""Plan images: what to image of each target, and cell, size, weighting and depth from the array and the data.

For each target there are cubes of its windows with lines, and continua: of each window, of all together, or both. A
continuum leaves out channels in which lines were found. Where the frequencies of a continuum reach over more than a
tenth of their middle, spectra change within it: it is made with mtmfs and two Taylor terms. Pointings that overlap
are a mosaic, imaged together by CASA's mosaic gridder, or each by itself for stage `combine_pointings` to add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, PositiveFloat, field_validator

from surgeline.context.records import Dataset, Decision, Fact, ImagePlan, Observation, SpectralWindow
from surgeline.errors import BadInput
from surgeline.imaging.cubearguments import check_arguments
from surgeline.paths import image, safe_name
from surgeline.stages.pointings import (
    Mosaic,
    Pointing,
    field_stem,
    find_mosaics,
    pointings_of,
    primary_beam,
    smallest_dish,
)
from surgeline.stages.solving import edge_channels
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.casasignature import signature
from surgeline.work.procedure import Procedure

_LIGHT = 299792458.0
_RADIAN_ARCSEC = 206264.806
# Largest prime factor of the sizes that the FFT is quick for.
_QUICK_FACTORS = (2, 3, 5)
# Continua whose frequencies reach over more than this share of their middle are made with Taylor terms.
_WIDE_BAND = 0.1

Kind = Literal["cube", "continuum"]


class Parameters(StageParameters):
    """What to image; `cube` and `continuum` hold arguments of tclean that override the heuristics.

    Attributes:
        cubes: image the lines of each target.
        continua: image the continuum of each target.
        windows: make a continuum of each spectral window, one of all together, or both. Stage self_calibrate takes
            every continuum as something to be calibrated by itself: where it follows both, its `images` must choose.
        mosaic: image overlapping pointings of a target together by CASA's mosaic gridder (joint), or each by itself,
            on grids with the same cells, for stage combine_pointings (linear).
        pbcor: also make images that are corrected for the primary beam, as tclean's pbcor.
        cells_per_beam: pixels across the synthesised beam.
        threshold_sigma: clean cubes down to so many times the noise of the dirty image, and continua, whose dirty
            image is full of sidelobes, down to so many times that of the residual (tclean's nsigma).
    """

    cubes: bool = True
    continua: bool = True
    windows: Literal["each", "together", "both"] = "each"
    mosaic: Literal["joint", "linear"] = "joint"
    pbcor: bool = False
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


@dataclass(frozen=True)
class _Target:
    """What is imaged together: a pointing, or all of a joint mosaic, all of one observation.

    `numbered` are the windows of each dataset in the order in which its MS numbers them; `continuum` their channels
    without lines, by that number, where they are known.
    """

    name: str
    pointings: tuple[Pointing, ...]
    mosaic: Mosaic | None
    numbered: dict[str, tuple[int, ...]]
    continuum: dict[str, dict[int, str]]

    @property
    def observation(self) -> Observation:
        return self.pointings[0].observation

    @property
    def windows(self) -> list[SpectralWindow]:
        """Those that any of the pointings has data of."""
        seen = {number for pointing in self.pointings for number in pointing.dataset.windows}
        return [window for window in self.observation.spectral_windows if window.id in seen]


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Decide; no jobs are needed."""
    plans: list[ImagePlan] = []
    if parameters.cubes:
        for target in _targets(stage, parameters, "line"):
            plans += [_plan(stage, parameters, target, [window], "cube") for window in target.windows]
    if parameters.continua:
        for target in _targets(stage, parameters, "calibrated"):
            plans += [
                _plan(stage, parameters, target, windows, "continuum")
                for windows in _continua(parameters, target.windows)
            ]
    decisions = [
        Decision(
            stage=stage.name,
            what=plan.name,
            value=", ".join(f"{name}={value}" for name, value in plan.arguments.items()),
            reason="; ".join(plan.reasons),
        )
        for plan in plans
    ]
    yield []
    return [*plans, *decisions]


def _continua(parameters: Parameters, windows: list[SpectralWindow]) -> list[list[SpectralWindow]]:
    """The windows that go into each continuum of a target."""
    each, together = [[window] for window in windows], [windows]
    if parameters.windows == "each" or len(windows) == 1:
        return each
    return together if parameters.windows == "together" else each + together


def _targets(stage: Stage, parameters: Parameters, kind: Literal["line", "calibrated"]) -> list[_Target]:
    """What to image of the datasets of a kind: mosaics, and pointings that are none of them."""
    datasets = {found.path: found for found in stage.known(Dataset)}
    observations = {observation.vis: observation for observation in stage.known(Observation)}
    of_kind = [found for found in datasets.values() if found.kind == kind]
    # uvcontsub keeps the numbers that windows have in the MS that it is given.
    origins = {found.path: datasets[found.parent] if kind == "line" else found for found in of_kind}
    pointings = pointings_of((found, observations[origins[found.path].parent]) for found in of_kind)
    numbered = {path: origin.windows for path, origin in origins.items()}
    continuum = continuum_channels(stage) if kind == "calibrated" else {}
    mosaics = find_mosaics(pointings) if parameters.mosaic == "joint" else []
    in_mosaics = [pointing for mosaic in mosaics for pointing in mosaic.pointings]
    targets = [_Target(f"{mosaic.name}.mosaic", mosaic.pointings, mosaic, numbered, continuum) for mosaic in mosaics]
    for pointing in pointings:
        if pointing not in in_mosaics:
            targets.append(
                _Target(field_stem(pointing.observation, pointing.field.id), (pointing,), None, numbered, continuum)
            )
    return targets


def continuum_channels(stage: Stage) -> dict[str, dict[int, str]]:
    """The channels without lines that stage continuum_subtract left to the continuum, as `4~6;50~59`.

    They are told for each target's MS by the number of the window in it. Windows without lines are left out.
    """
    found: dict[str, dict[int, str]] = {}
    observations = {observation.vis: observation for observation in stage.known(Observation)}
    by_name: dict[str, list[str]] = {}
    for dataset in stage.known(Dataset, kind="calibrated"):
        if len(dataset.fields) == 1:
            name = observations[dataset.parent].field(dataset.fields[0]).name
            by_name.setdefault(name, []).append(dataset.path)
    for name, paths in by_name.items():
        # What was decided of targets of the same name stands in the order of the targets.
        decided = [decision.value for decision in stage.known(Decision, what=f"continuum channels of {name}")]
        for path, value in zip(paths, decided, strict=False):
            parts = [part.partition(":") for part in value.split(",")]
            found[path] = {int(window): ranges for window, _, ranges in parts if window.isdigit()}
    return found


def _plan(
    stage: Stage, parameters: Parameters, target: _Target, windows: Sequence[SpectralWindow], kind: Kind
) -> ImagePlan:
    observation = target.observation
    # Observations are imaged each by itself, so with several of them their names tell images apart.
    several = len(stage.known(Observation)) > 1
    prefix = f"{safe_name(PurePath(observation.vis).stem)}." if several else ""
    name = f"{prefix}{target.name}.{f'spw{windows[0].id}' if len(windows) == 1 else 'all_spws'}.{kind}"
    mosaic = target.mosaic
    geometry, reasons = image_geometry(
        observation, windows, parameters.cells_per_beam, mosaic.reach if mosaic else (0.0, 0.0)
    )
    arguments: dict[str, Any] = {
        **_data(target, windows, reasons),
        "imagename": image(name),
        **geometry,
        "gridder": "mosaic" if mosaic else "standard",
        "weighting": "briggs",
        "robust": 0.5,
        "niter": 1000000,
        "usemask": "pb",
        "pbmask": 0.2,
    }
    if mosaic:
        arguments["phasecenter"] = f"J2000 {mosaic.ra:.8f}deg {mosaic.dec:.8f}deg"
        names = ", ".join(dict.fromkeys(pointing.field.name for pointing in mosaic.pointings))
        reasons.append(f"a mosaic of {len(mosaic.pointings)} pointings that overlap: {names}")
    if parameters.pbcor:
        arguments["pbcor"] = True
    if kind == "cube":
        edge = edge_channels(windows[0].channels)
        arguments |= {
            "specmode": "cube",
            "start": edge,
            "nchan": windows[0].channels - 2 * edge,
            "width": 1,
            "deconvolver": "hogbom",
            "perchanweightdensity": False,
        }
        overrides = parameters.cube
    else:
        overrides = parameters.continuum
        arguments |= {"specmode": "mfs", **_deconvolver(windows, overrides, reasons)}
        if "threshold" not in overrides:
            arguments["nsigma"] = parameters.threshold_sigma
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
        vis=", ".join(dict.fromkeys(pointing.dataset.path for pointing in target.pointings)),
        field=mosaic.name if mosaic else target.pointings[0].field.name,
        spectral_windows=",".join(str(window.id) for window in windows),
        kind=kind,
        arguments=arguments,
        threshold_sigma=parameters.threshold_sigma if kind == "cube" and "threshold" not in overrides else None,
        visibilities=_visibilities(target, windows),
        reasons=tuple(reasons),
    )


def _data(target: _Target, windows: Sequence[SpectralWindow], reasons: list[str]) -> dict[str, Any]:
    """tclean's selection of the pointings' data: texts for one MS, lists for several."""
    selected: dict[str, tuple[list[str], str]] = {}
    left_out = False
    for pointing in target.pointings:
        path, numbered = pointing.dataset.path, target.numbered[pointing.dataset.path]
        positions = [numbered.index(window.id) for window in windows if window.id in pointing.dataset.windows]
        if not positions:
            reasons.append(f"nothing of {pointing.field.name}, which has no data of this kind in the window")
            continue
        channels = target.continuum.get(path, {})
        left_out = left_out or any(position in channels for position in positions)
        spw = ",".join(f"{position}:{channels[position]}" if position in channels else f"{position}"
                       for position in positions)  # fmt: skip
        fields, _ = selected.setdefault(path, ([], spw))
        if pointing.selection:
            fields.append(pointing.selection)
    if left_out:
        reasons.append("without the channels in which lines were found")
    paths, spws = list(selected), [spw for _, spw in selected.values()]
    fields = [",".join(own) for own, _ in selected.values()]
    data: dict[str, Any] = {"vis": paths, "spw": spws, "field": fields}
    if len(paths) == 1:
        data = {name: values[0] for name, values in data.items()}
    return data if any(fields) else {name: value for name, value in data.items() if name != "field"}


def _visibilities(target: _Target, windows: Sequence[SpectralWindow]) -> int | None:
    """How many there are of some windows, flagged ones included, if all scans have as many rows in a given time.

    None where nothing is known of scans.
    """
    observation = target.observation
    of_all = sum((scan.end - scan.start) * len(scan.spectral_windows) for scan in observation.scans)
    found = 0.0
    for pointing in target.pointings:
        scans = [scan for scan in observation.scans if pointing.field.id in scan.fields]
        for window in windows:
            seconds = sum(
                (scan.end - scan.start) / len(scan.fields) for scan in scans if window.id in scan.spectral_windows
            )
            found += seconds * window.channels * len(window.correlations)
    return round(observation.rows * found / of_all) if of_all else None


def _deconvolver(
    windows: Sequence[SpectralWindow], overrides: dict[str, Any], reasons: list[str]
) -> dict[str, str | int]:
    """How to clean a continuum: with Taylor terms where its spectrum changes within it."""
    lowest = min(window.reference_frequency - abs(window.bandwidth) / 2.0 for window in windows)
    highest = highest_frequency(windows)
    share = 2.0 * (highest - lowest) / (highest + lowest)
    if share <= _WIDE_BAND or "deconvolver" in overrides:
        return {"deconvolver": "hogbom"}
    reasons.append(f"Taylor terms, since its frequencies reach over {share:.0%} of their middle, more than a tenth")
    return {"deconvolver": "mtmfs", "nterms": 2}


def highest_frequency(windows: Iterable[SpectralWindow]) -> float:
    """The upper edge of the highest of some windows, in Hz."""
    return max(window.reference_frequency + abs(window.bandwidth) / 2.0 for window in windows)


def image_geometry(
    observation: Observation,
    windows: Sequence[SpectralWindow],
    cells_per_beam: float,
    reach: tuple[float, float] = (0.0, 0.0),
) -> tuple[dict[str, Any], list[str]]:
    """Cell and image size for an array and its spectral windows.

    The beam is taken as λ/b of the longest baseline b at the highest frequency; the image reaches to where the
    primary beam of the smallest dish D, of width 1.2 λ/D at half power, falls to a fifth at the lowest frequency (a
    Gaussian's 1.52 widths across). Pointings of a mosaic `reach` so many arcsec from its middle to either side, east
    and north.
    """
    wavelength = _LIGHT / highest_frequency(windows)
    beam = wavelength / observation.longest_baseline * _RADIAN_ARCSEC
    cell = _two_digits(beam / cells_per_beam)
    primary = primary_beam(observation, windows)
    east, north = (quick_size((1.52 * primary + 2.0 * side) / cell) for side in reach)
    return {"cell": f"{cell:g}arcsec", "imsize": [east, north] if any(reach) else east}, [
        f"beam {beam:.3g} arcsec from the longest baseline of {observation.longest_baseline:.0f} m",
        f"primary beam {primary / 60:.3g} arcmin from dishes of {smallest_dish(observation):g} m",
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
