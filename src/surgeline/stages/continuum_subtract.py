"""Split off the calibrated targets and subtract their continuum, where they have lines."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from surgeline.context.records import Dataset, Decision, Fact, Observation, Roles
from surgeline.errors import RecipeError
from surgeline.paths import dataset
from surgeline.stages.pointings import field_stem
from surgeline.stages.solving import edge_channels
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall, JobRequest
from surgeline.work.procedure import Procedure, together

_LINE_SIGMA = 5.0
_FEWEST_CHANNELS = 8
_FEWEST_CONTINUUM_CHANNELS = 4
# What bandpass calibration may leave of a flat continuum, as a fraction of it.
_BANDPASS_ERROR = 0.003
# How much a continuum may change over a window, in units of its amplitude and the fractional bandwidth.
_STEEPEST = 3.0
_MOST_ANCHORS = 48
_SHORTER_BASELINES = 0.3


class Parameters(StageParameters):
    """How to subtract.

    Attributes:
        fitspec: channels without lines, in uvcontsub's syntax; left out, they are found in the data.
        fitorder: order of the polynomial over frequency.
    """

    fitspec: str = ""
    fitorder: NonNegativeInt = 0


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """One calibrated MS for each target, and one without continuum where there is a line."""
    asked = [
        (observation, number)
        for observation in stage.known(Observation)
        for number in stage.required(Roles, vis=observation.vis).target
    ]
    found = yield from together([_one(stage, parameters, observation, number) for observation, number in asked])
    return [fact for facts in found for fact in facts]


def _one(stage: Stage, parameters: Parameters, observation: Observation, number: int) -> Procedure[list[Fact]]:
    name = observation.field(number).name
    stem = f"{Path(observation.vis).stem}.{field_stem(observation, number)}"
    target, line = dataset(f"{stem}.ms"), dataset(f"{stem}.line.ms")
    windows = tuple(window.id for window in observation.spectral_windows)
    arguments = {"vis": observation.vis, "outputvis": target, "field": str(number), "datacolumn": "corrected"}
    # Told which windows to take, split numbers them anew in their order; untold, it may keep unused ones.
    arguments["spw"] = ",".join(str(window) for window in windows)
    yield [JobRequest("split", arguments).declare(name=f"split {name}")]
    facts: list[Fact] = [
        Dataset(path=target, parent=observation.vis, kind="calibrated", fields=(number,), windows=windows)
    ]
    if parameters.fitspec:
        specs = _specs_by_window(parameters.fitspec, windows)
        reason = "the recipe says so"
    else:
        ((specs, reason),) = yield [
            FunctionCall(find_continuum, target).declare(name=f"find lines of {name}", reads=[target])
        ]
    spec = ",".join(f"{position}:{ranges}" for position, ranges in specs.items())
    facts.append(
        Decision(stage=stage.name, what=f"continuum channels of {name}", value=spec or "all: no line", reason=reason)
    )
    if specs:
        subtracted = {"vis": target, "outputvis": line, "fitspec": spec, "fitorder": parameters.fitorder}
        if len(specs) < len(windows):
            subtracted["spw"] = ",".join(str(position) for position in specs)
        yield [JobRequest("uvcontsub", subtracted).declare(name=f"subtract continuum of {name}")]
        with_lines = tuple(windows[position] for position in specs)
        facts.append(Dataset(path=line, parent=target, kind="line", fields=(number,), windows=with_lines))
    return facts


def _specs_by_window(fitspec: str, windows: tuple[int, ...]) -> dict[int, str]:
    """A recipe's fitspec, whose windows have the observation's numbers, by position in the MS split off.

    Raises:
        RecipeError: it is not in uvcontsub's syntax, or names a window that there is not.
    """
    specs = {}
    for part in fitspec.split(","):
        number, colon, ranges = part.strip().partition(":")
        if not colon or not number.isdigit() or int(number) not in windows:
            raise RecipeError(
                f"fitspec {fitspec!r} does not say which channels of which spectral window are continuum",
                f"write it like 0:4~6;50~59, for windows {', '.join(map(str, windows))}",
            )
        specs[windows.index(int(number))] = ranges
    return specs


def find_continuum(vis: str) -> tuple[dict[int, str], str]:
    """Find the channels of a calibrated target that have no line. Runs on a worker.

    The real part of the visibilities' vector average over all times and the shorter baselines is a spectrum of
    what is near the phase centre, extended or not; see `line_channels` for what of it is line.

    Returns:
        for each spectral window that has a line, its continuum channels as `4~6;50~59`; and from which numbers.
    """
    import numpy as np
    from casatools import msmetadata, table

    with closing(msmetadata()) as metadata, closing(table()) as main:
        metadata.open(vis)
        main.open(vis)
        specs, reasons = {}, []
        for spw in range(metadata.nspw()):
            channels = metadata.nchan(spw)
            description = int(metadata.datadescids(spw=spw)[0])
            with closing(main.query(f"DATA_DESC_ID=={description} && !FLAG_ROW")) as rows:
                flags, data, weights = rows.getcol("FLAG"), rows.getcol("DATA"), rows.getcol("WEIGHT")
                distances = np.hypot(*rows.getcol("UVW")[:2])
            short = distances <= np.quantile(distances, _SHORTER_BASELINES)
            frequencies = metadata.chanfreqs(spw)
            bandwidth = float(np.ptp(frequencies) / np.mean(frequencies))
            line, sigma = line_channels(data[..., short], flags[..., short], weights[..., short], bandwidth)
            reasons.append(f"spw {spw}: {int(line.sum())} of {channels} channels beyond 5 sigma of {sigma:.2g} Jy")
            continuum = [channel for channel in range(channels) if not line[channel]]
            if line.any() and len(continuum) >= _FEWEST_CONTINUUM_CHANNELS:
                specs[spw] = _ranges(continuum)
            elif line.any():
                reasons[-1] += ", which leaves too few to subtract a continuum"
    return specs, "; ".join(reasons)


def line_channels(data: Any, flags: Any, weights: Any, fractional_bandwidth: float = 0.0) -> tuple[Any, float]:
    """Which channels of a spectral window have a line, and the noise of its spectrum, in Jy.

    The continuum is taken as the straight line over frequency that most channels lie near: lines may fill more
    than half of a window. Its slope is no more than spectra and sources away from the phase centre explain.
    Channels beyond 5 sigma of it, next to another such, are line, and so are their neighbours, up to two on each
    side. Sigma is that of the second differences of neighbouring channels, which a broad line hardly raises
    (1.4826 times the median absolute deviation, over the root of 6), with what a bandpass may leave of the
    continuum.

    Args:
        data: complex visibilities in Jy, of shape (polarisations, channels, rows).
        flags: of the same shape, true where bad.
        weights: of shape (polarisations, rows).
        fractional_bandwidth: the width of the window over its frequency.
    """
    import numpy as np

    weight = np.where(flags, 0.0, weights[:, np.newaxis, :])
    total = weight.sum(axis=(0, 2))
    spectrum = (data.real * weight).sum(axis=(0, 2)) / np.where(total > 0, total, 1.0)
    usable = total > 0.2 * np.median(total)
    channels = len(spectrum)
    none = np.zeros(channels, dtype=bool)
    # Band edges that the bandpass left noisy tell nothing either way.
    edge = edge_channels(channels)
    usable[:edge] = usable[channels - edge :] = False
    if usable.sum() < _FEWEST_CHANNELS:
        return none, 0.0
    numbers, values = np.flatnonzero(usable), spectrum[usable]
    # Second differences: the flanks of a broad line rise steadily, and noise does not.
    bends = np.diff(values, 2)
    noise = 1.4826 * np.median(np.abs(bends - np.median(bends))) / np.sqrt(6.0)
    sigma = float(np.hypot(noise, _BANDPASS_ERROR * np.median(np.abs(values))))
    amplitude = float(np.average(np.abs(data), weights=np.maximum(weight, 1e-30)))
    steepest = _STEEPEST * fractional_bandwidth * amplitude / channels
    deviation = np.abs(values - _continuum(numbers, values, sigma, steepest))
    line = none.copy()
    line[numbers] = deviation > _LINE_SIGMA * sigma
    # One channel alone is interference or noise.
    beside = np.zeros(channels, dtype=bool)
    beside[1:] |= line[:-1]
    beside[:-1] |= line[1:]
    line &= beside
    if not line.any():
        return none, sigma
    # As many neighbours as leave a continuum to subtract.
    for growth in (2, 1, 0):
        grown = ~usable | (np.convolve(line, np.ones(2 * growth + 1), mode="same") > 0)
        if (~grown).sum() >= _FEWEST_CONTINUUM_CHANNELS:
            break
    return grown, sigma


def _continuum(numbers: Any, values: Any, sigma: float, steepest: float) -> Any:
    """The line through two channels, or level at one, no steeper than told, that most others lie near (2 sigma)."""
    import numpy as np

    anchors = np.unique(np.linspace(0, len(numbers) - 1, _MOST_ANCHORS).astype(int))
    best, most = np.full(len(values), np.median(values)), -1
    for position, first in enumerate(anchors):
        for last in anchors[position:]:
            slope = (values[last] - values[first]) / (numbers[last] - numbers[first]) if last > first else 0.0
            if abs(slope) > steepest:
                continue
            fitted = values[first] + slope * (numbers - numbers[first])
            near = int((np.abs(values - fitted) < 2.0 * sigma).sum())
            if near > most:
                best, most = fitted, near
    return best


def _ranges(channels: list[int]) -> str:
    """Channel numbers as `4~6;50~59`."""
    ranges: list[list[int]] = []
    for channel in channels:
        if ranges and channel == ranges[-1][1] + 1:
            ranges[-1][1] = channel
        else:
            ranges.append([channel, channel])
    return ";".join(f"{first}~{last}" for first, last in ranges)
