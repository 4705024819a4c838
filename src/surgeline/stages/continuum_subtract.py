"""Split off the calibrated targets and subtract their continuum, where they have lines."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from surgeline.context.records import Dataset, Decision, Fact, Observation, Roles
from surgeline.paths import dataset, safe_name
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage
from surgeline.work.jobs import FunctionCall, JobRequest
from surgeline.work.procedure import Procedure, together

_LINE_SIGMA = 5.0
_FEWEST_CHANNELS = 8


class Parameters(StageParameters):
    """How to subtract.

    Attributes:
        fitspec: channels without lines, in uvcontsub's syntax; left out, they are found in the data.
        fitorder: order of the polynomial over frequency.
    """

    fitspec: str = ""
    fitorder: NonNegativeInt = 0


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
    stem = f"{Path(observation.vis).stem}.{safe_name(name)}"
    target, line = dataset(f"{stem}.ms"), dataset(f"{stem}.line.ms")
    yield [
        JobRequest(
            "split",
            {"vis": observation.vis, "outputvis": target, "field": str(number), "datacolumn": "corrected"},
        ).declare(name=f"split {name}")
    ]
    facts: list[Fact] = [Dataset(path=target, parent=observation.vis, kind="calibrated", fields=(number,))]
    spec, reason = parameters.fitspec, "the recipe says so"
    if not spec:
        ((spec, reason),) = yield [
            FunctionCall(find_continuum, target).declare(name=f"find lines of {name}", reads=[target])
        ]
    facts.append(
        Decision(
            stage=stage.name,
            what=f"continuum channels of {name}",
            value=spec or "all: no line",
            reason=reason,
        )
    )
    if spec:
        yield [
            JobRequest(
                "uvcontsub",
                {"vis": target, "outputvis": line, "fitspec": spec, "fitorder": parameters.fitorder},
            ).declare(name=f"subtract continuum of {name}")
        ]
        facts.append(Dataset(path=line, parent=target, kind="line", fields=(number,)))
    return facts


def find_continuum(vis: str) -> tuple[str, str]:
    """Find the channels of a calibrated target that have no line. Runs on a worker.

    The real part of the visibilities' vector average over all baselines and times is a spectrum of what is near
    the phase centre. Channels that stand out from its median by more than 5 sigma (from the median absolute
    deviation of neighbouring channels' differences, which a broad line does not raise), and their neighbours, are
    line.

    Returns:
        the continuum channels in uvcontsub's syntax, empty when there is no line; and from which numbers.
    """
    from casatools import msmetadata, table

    with closing(msmetadata()) as metadata, closing(table()) as main:
        metadata.open(vis)
        main.open(vis)
        specs, reasons, any_line = [], [], False
        for spw in range(metadata.nspw()):
            channels = metadata.nchan(spw)
            description = int(metadata.datadescids(spw=spw)[0])
            with closing(main.query(f"DATA_DESC_ID=={description} && !FLAG_ROW")) as rows:
                flags, data, weights = rows.getcol("FLAG"), rows.getcol("DATA"), rows.getcol("WEIGHT")
            line, sigma = line_channels(data, flags, weights)
            any_line = any_line or bool(line.any())
            reasons.append(f"spw {spw}: {int(line.sum())} of {channels} channels beyond 5 sigma of {sigma:.2g} Jy")
            ranges = _ranges([channel for channel in range(channels) if not line[channel]])
            specs.append(f"{spw}:{ranges}" if ranges else "")
    return (",".join(spec for spec in specs if spec) if any_line else ""), "; ".join(reasons)


def line_channels(data: Any, flags: Any, weights: Any) -> tuple[Any, float]:
    """Which channels have a line, and the noise of the spectrum, in Jy; see `find_continuum`.

    Args:
        data: complex visibilities in Jy, of shape (polarisations, channels, rows).
        flags: of the same shape, true where bad.
        weights: of shape (polarisations, rows).
    """
    import numpy as np

    weight = np.where(flags, 0.0, weights[:, np.newaxis, :])
    total = weight.sum(axis=(0, 2))
    spectrum = (data.real * weight).sum(axis=(0, 2)) / np.where(total > 0, total, 1.0)
    usable = total > 0.2 * np.median(total)
    channels = len(spectrum)
    none = np.zeros(channels, dtype=bool)
    if channels < _FEWEST_CHANNELS or usable.sum() < _FEWEST_CHANNELS:
        return none, 0.0
    # Band edges that the bandpass left noisy tell nothing either way.
    usable[: max(1, channels // 20)] = usable[-max(1, channels // 20) :] = False
    steps = np.diff(spectrum[usable])
    sigma = float(1.4826 * np.median(np.abs(steps - np.median(steps))) / np.sqrt(2.0))
    # A line fills part of the window: the continuum is where most of the low or the high channels agree.
    level = _continuum_level(spectrum[usable], sigma)
    line = none.copy()
    line[usable] = np.abs(spectrum[usable] - level) > _LINE_SIGMA * sigma
    # One channel alone is interference or noise.
    line &= np.roll(line, 1) | np.roll(line, -1)
    grown = line.copy()
    for shift in (1, 2):
        grown[shift:] |= line[:-shift]
        grown[:-shift] |= line[shift:]
    if line.any():
        grown |= ~usable
    return grown, sigma


def _continuum_level(spectrum: Any, sigma: float) -> float:
    """The level that most channels lie near: the middle of the fullest interval of 4 sigma."""
    import numpy as np

    ordered = np.sort(spectrum)
    width = max(4.0 * sigma, 1e-12)
    last = np.searchsorted(ordered, ordered + width, side="right")
    fullest = int(np.argmax(last - np.arange(len(ordered))))
    return float(np.median(ordered[fullest : last[fullest]]))


def _ranges(channels: list[int]) -> str:
    """Channel numbers as `4~6;50~59`."""
    ranges: list[list[int]] = []
    for channel in channels:
        if ranges and channel == ranges[-1][1] + 1:
            ranges[-1][1] = channel
        else:
            ranges.append([channel, channel])
    return ";".join(f"{first}~{last}" for first, last in ranges)
