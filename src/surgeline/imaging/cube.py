"""A cube cleaned in parts of its channels, with the pixels that one tclean of the whole cube gives.

tclean couples the channels of a cube in one thing only: when a minor cycle stops, which follows from the highest
residual and the worst sidelobe of *all* channels. So each part is gridded and cleaned by jobs of its own, and
between the cycles CASA's iteration control sees the records of all parts and gives each the same controls.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import replace
from glob import escape
from itertools import pairwise
from typing import Any

from surgeline.errors import BadInput
from surgeline.imaging.cleaned import STOPS, Cleaned, files_read, vis_of
from surgeline.imaging.cubeparts import (
    JOINED,
    Part,
    Record,
    begin_part,
    edges_name,
    finish_part,
    join_parts,
    major_cycle,
    minor_cycle,
    next_controls,
    trimmed_name,
)
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Procedure


def clean_cube(
    arguments: Mapping[str, Any], workers: int, threshold_sigma: float | None = None
) -> Procedure[Cleaned]:
    """Image and clean a cube in parts, as many at once as there are workers.

    The pixels do not depend on how many parts there are: they are those of `tclean(**arguments)`.

    Args:
        arguments: tclean's own, with `nchan`, and `start` as a channel number or with a unit.
        workers: how many parts to work on at once.
        threshold_sigma: clean down to so many times the noise of the dirty cube instead of to `threshold`.

    Raises:
        BadInput: an argument that couples channels in other ways than this knows.
    """
    check_arguments(arguments)
    parts = cut_into_parts(arguments, workers)
    begun = yield [
        FunctionCall(begin_part, part).declare(
            name=f"begin {_label(part)}",
            reads=files_read(arguments),
            writes=[f"{part.imagename}.{extension}" for extension in ("psf", "residual", "pb")],
            keeps=_state(part),
        )
        for part in parts
    ]
    noise = statistics.median(sigma for _, planes in begun for sigma in planes)
    if threshold_sigma is not None:
        arguments = {**arguments, "threshold": f"{threshold_sigma * noise:.6g}Jy"}
        parts = [replace(part, arguments={**part.arguments, "threshold": arguments["threshold"]}) for part in parts]
    history: list[tuple[str, list[Record]]] = [
        ("begun", [records[turn] for records, _ in begun]) for turn in range(2)
    ]
    state: Record = {"stop": 0, "iterations": 0, "major_cycles": 0}
    if int(arguments.get("niter", 0)) > 0:
        state = yield from _cycles(arguments, parts, history)
    yield [
        FunctionCall(finish_part, part).declare(
            name=f"restore {_label(part)}",
            reads=vis_of(arguments),
            writes=[trimmed_name(part.imagename, "image")],
            keeps=_state(part),
        )
        for part in parts
    ]
    name = str(arguments["imagename"])
    yield [
        FunctionCall(join_parts, [part.imagename for part in parts], name).declare(
            name=f"join {name.rpartition('/')[2]}",
            writes=[f"{name}.image"],
            keeps=[
                *(escape(trimmed_name(part.imagename, extension)) for part in parts for extension in JOINED),
                *(escape(f"{name}.{extension}") for extension in JOINED),
            ],
        )
    ]
    return Cleaned(
        arguments=arguments,
        noise=noise,
        iterations=state["iterations"],
        major_cycles=state["major_cycles"],
        stop=STOPS.get(state["stop"], "unknown"),
    )


def _cycles(
    arguments: Mapping[str, Any], parts: list[Part], history: list[tuple[str, list[Record]]]
) -> Procedure[Record]:
    """Minor and major cycles of all parts in step, until CASA's iteration control says that the cube is clean."""
    name = str(arguments["imagename"]).rpartition("/")[2]
    cycle = 0
    while True:
        # CASA wants to see the MSs wherever it is given parameters of imaging.
        (state,) = yield [
            FunctionCall(next_controls, dict(arguments), list(history)).declare(
                name=f"control {name}", reads=vis_of(arguments)
            )
        ]
        nothing_done = history[-2][0] == "executed" and not any(done["iterdone"] for done in history[-2][1])
        if state["stop"] or nothing_done:
            return dict(state)
        cycle += 1
        executed = yield [
            FunctionCall(minor_cycle, part, cycle, state["controls"]).declare(
                name=f"minor cycle {cycle} of {_label(part)}", reads=vis_of(arguments), keeps=_state(part)
            )
            for part in parts
        ]
        residuals = yield [
            FunctionCall(major_cycle, part).declare(
                name=f"major cycle {cycle} of {_label(part)}",
                reads=vis_of(arguments),
                keeps=[*_state(part), *(escape(edges_name(neighbour)) for neighbour in part.neighbours if neighbour)],
            )
            for part in parts
        ]
        history += [("executed", list(executed)), ("begun", list(residuals))]


def cut_into_parts(arguments: Mapping[str, Any], workers: int) -> list[Part]:
    """Cut a cube into channel ranges, one part a worker, each with the guard channels that it needs."""
    channels = int(arguments["nchan"])
    number = max(1, min(workers, channels // max(1, _guard_width(arguments))))
    edges = [round(channels * part / number) for part in range(number + 1)]
    digits = len(str(channels - 1))
    names = [
        f"{arguments['imagename']}.parts/{first:0{digits}d}-{last - 1:0{digits}d}" for first, last in pairwise(edges)
    ]
    parts = []
    for position, (first, last) in enumerate(pairwise(edges)):
        before = _guard_width(arguments) if position > 0 else 0
        after = _guard_width(arguments) if position < number - 1 else 0
        own = {
            **arguments,
            "imagename": names[position],
            "start": _start_of(arguments, first - before),
            "nchan": last - first + before + after,
        }
        neighbours = (names[position - 1] if before else "", names[position + 1] if after else "")
        parts.append(Part(own, (before, after), neighbours))
    return parts


def _guard_width(arguments: Mapping[str, Any]) -> int:
    """How far the interpolation of visibilities reaches into a neighbouring part."""
    return {"nearest": 0, "linear": 1}.get(str(arguments.get("interpolation", "linear")), 2)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what would not give tclean's own pixels.

    Raises:
        BadInput: naming the argument and what to do instead.
    """
    if int(arguments.get("nchan", -1)) < 1:
        raise BadInput("a cube needs nchan, the number of its channels", "give nchan and start")
    if arguments.get("restoringbeam") == "common":
        raise BadInput(
            "restoringbeam='common' needs the beams of all channels at once",
            "leave it out, and smooth the cube to a common beam afterwards with imsmooth(kernel='commonbeam')",
        )
    if str(arguments.get("usemask", "user")).startswith("auto"):
        raise BadInput(
            "automasking keeps what it learnt of each channel from cycle to cycle inside one process",
            "give a mask, or usemask='pb' with pbmask",
        )
    if arguments.get("nsigma"):
        raise BadInput(
            "nsigma stops each channel of a cube by a rule that CASA keeps inside one process",
            "give a threshold, or leave it out for one from the noise of the dirty cube",
        )
    _start_of(arguments, 0)


def _start_of(arguments: Mapping[str, Any], channel: int) -> int | str:
    """Where a part begins that begins so many channels after the cube."""
    # Left empty, CASA takes the first channel, and steps of one.
    start, width = arguments.get("start") or 0, arguments.get("width") or 1
    first, step = _quantity(start), _quantity(width)
    if first is None or step is None:
        raise BadInput(
            f"start={start!r} and width={width!r} do not say where a part of the cube begins",
            "give both as numbers of channels, or both in the same unit, such as '1440km/s' and '5km/s'",
        )
    if first[1] != step[1]:
        raise BadInput(f"start={start!r} and width={width!r} are in different units", "give both in the same unit")
    value = first[0] + channel * step[0]
    return f"{value:.12g}{first[1]}" if first[1] else math.floor(value)


def _quantity(value: Any) -> tuple[float, str] | None:
    if isinstance(value, int | float):
        return float(value), ""
    match = re.fullmatch(r"\s*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z/]*)\s*", str(value))
    return (float(match[1]), match[2]) if match else None


def _state(part: Part) -> list[str]:
    """What a part's jobs leave for each other."""
    return [f"{escape(part.imagename)}.*"]


def _label(part: Part) -> str:
    return part.imagename.rpartition("/")[2]
