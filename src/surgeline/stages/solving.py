"""Solve for calibration by spectral window in parallel, and merge the solutions into one table."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from surgeline.context.records import Observation, SpectralWindow
from surgeline.work.jobs import FunctionCall, JobRequest
from surgeline.work.procedure import Procedure

# Channels at each edge of a spectral window that filters attenuate, as fractions of the window: those that gains
# are not solved on, and those too noisy to image.
_GAIN_EDGE = 0.1
_NOISY_EDGE = 0.04
_FEWEST_CHANNELS_WITH_EDGES = 16


def inner_channels(window: SpectralWindow) -> str:
    """The selection of a window without its edges, in CASA's spw syntax."""
    if window.channels < _FEWEST_CHANNELS_WITH_EDGES:
        return str(window.id)
    edge = round(_GAIN_EDGE * window.channels)
    return f"{window.id}:{edge}~{window.channels - 1 - edge}"


def edge_channels(channels: int) -> int:
    """How many channels at each edge of a window the filters make too noisy to image."""
    return math.ceil(_NOISY_EDGE * channels) if channels >= _FEWEST_CHANNELS_WITH_EDGES else 0


def selections(observation: Observation, asked: str) -> list[str]:
    """What to solve in one job each: the recipe's own selection, or every window without its edges."""
    if asked:
        return [part.strip() for part in asked.split(",")]
    return [inner_channels(window) for window in observation.spectral_windows]


def solve(
    task: str, observation: Observation, spw: Sequence[str], caltable: str, arguments: Mapping[str, Any]
) -> Procedure[None]:
    """Run a solving task once for each selection of windows, and leave one table.

    Args:
        task: gaincal or bandpass.
        observation: what the MS holds.
        spw: the selections that are solved each by its own job.
        caltable: the table to make.
        arguments: what else the task is given.
    """
    # CASA asks for four baselines an antenna, which an array of four antennas never has.
    fewest = {"minblperant": min(4, len(observation.antennas) - 1)}
    parts = [caltable] if len(spw) == 1 else [f"{caltable}.spw{selection.split(':')[0]}" for selection in spw]
    yield [
        JobRequest(task, {"vis": observation.vis, "caltable": part, "spw": selection, **fewest, **arguments}).declare(
            name=f"{task} {part.rpartition('/')[2]}"
        )
        for part, selection in zip(parts, spw, strict=True)
    ]
    if len(parts) > 1:
        yield [
            FunctionCall(merge_caltables, parts, caltable).declare(
                name=f"merge {caltable.rpartition('/')[2]}", reads=parts, writes=[caltable]
            )
        ]


def merge_caltables(parts: Sequence[str], caltable: str) -> None:
    """Append the solutions of several tables of one MS into one table. Runs on a worker."""
    from casatools import table

    shutil.copytree(parts[0], caltable)
    for part in parts[1:]:
        with closing(table()) as source:
            source.open(part)
            source.copyrows(caltable)


def flagged_fraction(caltable: str) -> float:
    """The fraction of a table's solutions that are flagged. Runs on a worker."""
    from casatools import table

    with closing(table()) as tool:
        tool.open(caltable)
        return float(tool.getcol("FLAG").mean())
