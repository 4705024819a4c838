"""A cube cleaned in parts of its channels, with the pixels that one tclean of the whole cube gives.

tclean couples the channels of a cube in few things: when a minor cycle stops, which follows from the highest residual
and the worst sidelobe of *all* channels; the thresholds of automasks, from the same sidelobe, and their regions, by a
beam common to many channels; a common restoring beam. So each part is gridded and cleaned by jobs of its own, which
are told these; and between the cycles CASA's iteration control sees the records of all parts as those of one cube.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from itertools import pairwise
from typing import Any
from uuid import uuid4

from surgeline.imaging import automask
from surgeline.imaging.cleaned import Cleaned, files_read, vis_of
from surgeline.imaging.cubearguments import check_arguments, must_be_whole
from surgeline.imaging.cubecontrol import next_controls
from surgeline.imaging.cubeparts import (
    Begun,
    begin_part,
    common_beam,
    finish_part,
    major_cycle,
    mask_part,
    minor_cycle,
)
from surgeline.imaging.cubeplanes import JOINED, Part, edges_name, join_parts, trimmed_name
from surgeline.imaging.memory import bytes_of_part, channels_that_fit
from surgeline.imaging.seconds import seconds_of_dirty, seconds_of_major_cycle
from surgeline.imaging.synthesis import Record, record_of_dirty, threshold_at, typical_noise
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Procedure
from surgeline.work.selection import selections


def clean_cube(
    arguments: Mapping[str, Any],
    workers: int,
    threshold_sigma: float | None = None,
    memory: int | None = None,
    visibilities: int | None = None,
) -> Procedure[Cleaned]:
    """Image and clean a cube in parts, as many at once as there are workers.

    The pixels do not depend on how many parts there are: they are those of `tclean(**arguments)`.

    Args:
        arguments: tclean's own, with `nchan`, and `start` as a channel number or with a unit.
        workers: how many parts to work on at once.
        threshold_sigma: clean down to so many times the noise of the dirty cube instead of to `threshold`.
        memory: what a worker has, in bytes, if parts are to fit it.
        visibilities: how many the cube is made of, where that is known.

    Raises:
        BadInput: an argument that couples channels in other ways than this knows.
    """
    check_arguments(arguments)
    parts = cut_into_parts(arguments, workers, memory)
    begun: Sequence[Begun] = yield [
        _of("begin", part, FunctionCall(begin_part, part)).declare(
            reads=files_read(arguments),
            writes=[f"{part.imagename}.{extension}" for extension in ("psf", "residual", "pb")],
            estimated_seconds=_seconds(seconds_of_dirty, part, visibilities),
        )
        for part in parts
    ]
    noise = typical_noise([sigma for found in begun for sigma in found.noise])
    if threshold_sigma is not None:
        threshold = threshold_at(threshold_sigma, noise, str(arguments["imagename"]))
        arguments = {**arguments, "threshold": threshold}
        parts = [replace(part, arguments={**part.arguments, "threshold": threshold}) for part in parts]
    record: Record = {}
    cycles = 0
    if int(arguments.get("niter", 0)) > 0:
        record, cycles = yield from _cycles(arguments, parts, begun, visibilities)
    product = "image" if arguments.get("restoration", True) else "residual"
    restoringbeam = arguments.get("restoringbeam", [])
    if restoringbeam == "common":
        of_channels = [beam for found in begun for beam in found.beams]
        (beam,) = yield [FunctionCall(common_beam, of_channels).declare(name="common beam")]
        restoringbeam = [
            f"{beam[axis]['value']!r}{beam[axis]['unit']}" for axis in ("major", "minor", "positionangle")
        ]
    yield [
        _of("restore", part, FunctionCall(finish_part, part, cycles, restoringbeam)).declare(
            writes=[trimmed_name(part.imagename, product)]
        )
        for part in parts
    ]
    name = str(arguments["imagename"])
    yield [
        FunctionCall(join_parts, [part.imagename for part in parts], name).declare(
            name=f"join {name.rpartition('/')[2]}",
            writes=[f"{name}.{product}"],
            keeps=[
                *(escape(trimmed_name(part.imagename, extension)) for part in parts for extension in JOINED),
                *(escape(f"{name}.{extension}") for extension in JOINED),
            ],
        )
    ]
    if not record:
        (record,) = yield [
            FunctionCall(record_of_dirty, dict(arguments)).declare(
                name=f"look at {name.rpartition('/')[2]}",
                reads=[f"{name}.residual", *vis_of(arguments)],
                selects=selections("tclean", arguments),
                keeps=[f"{escape(name)}.*"],
            )
        ]
    return Cleaned(arguments, noise, record)


def _cycles(
    arguments: Mapping[str, Any], parts: list[Part], begun: Sequence[Begun], visibilities: int | None
) -> Procedure[tuple[Record, int]]:
    """Minor and major cycles of all parts in step, until CASA's iteration control says that the cube is clean.

    Returns:
        what tclean returns, and how many major cycles there were after the one that made the dirty cube.
    """
    name = str(arguments["imagename"]).rpartition("/")[2]
    sidelobe = max(found.record["maxpsfsidelobe"] for found in begun)
    beams: list[dict[str, Any] | None] = [None for _ in parts]
    if automask.is_on(arguments) and len(parts) > 1:
        beams = yield from _beams_of_blocks(arguments, parts, begun)
    masked = yield [
        _of("mask", part, FunctionCall(mask_part, part, sidelobe, beam)).declare(reads=files_read(arguments))
        for part, beam in zip(parts, beams, strict=True)
    ]
    history: list[tuple[str, list[Record]]] = [
        ("begun", [found.record for found in begun]),
        ("begun", list(masked)),
    ]
    cycle = 0
    while True:
        # CASA wants to see the MSs wherever it is given parameters of imaging.
        (state,) = yield [
            FunctionCall(next_controls, dict(arguments), list(history)).declare(
                name=f"control {name}", reads=vis_of(arguments), selects=selections("tclean", arguments)
            )
        ]
        nothing_done = history[-2][0] == "executed" and not any(done["iterdone"] for done in history[-2][1])
        if state["stop"] or nothing_done:
            return state["record"], state["cycles"]
        cycle += 1
        executed = yield [
            _of(f"minor cycle {cycle} of", part, FunctionCall(minor_cycle, part, cycle, state["controls"], beam))
            for part, beam in zip(parts, beams, strict=True)
        ]
        residuals = yield [
            _of(
                f"major cycle {cycle} of",
                part,
                FunctionCall(major_cycle, part, cycle, state["controls"], sidelobe, beam),
            ).declare(
                keeps=[*_state(part), *(escape(edges_name(neighbour)) for neighbour in part.neighbours if neighbour)],
                estimated_seconds=_seconds(seconds_of_major_cycle, part, visibilities),
            )
            for part, beam in zip(parts, beams, strict=True)
        ]
        history += [("executed", list(executed)), ("begun", list(residuals))]


def _beams_of_blocks(
    arguments: Mapping[str, Any], parts: list[Part], begun: Sequence[Begun]
) -> Procedure[list[dict[str, Any] | None]]:
    """For each part the common beam of the channels that CASA masks together with the part's."""
    of_channels = [beam for found in begun for beam in found.beams]
    block = automask.block_of(arguments)
    jobs = [
        FunctionCall(common_beam, of_channels[first : first + block]).declare(name=f"common beam from {first}")
        for first in range(0, len(of_channels), block)
    ]
    of_blocks: Sequence[dict[str, Any]] = yield jobs
    return [of_blocks[part.first // block] for part in parts]


def cut_into_parts(arguments: Mapping[str, Any], workers: int, memory: int | None = None) -> list[Part]:
    """Cut a cube into channel ranges, each with the guard channels that it needs.

    Args:
        arguments: tclean's.
        workers: how many parts can be worked on at once; there are as many, if there are channels enough and the cube
            can be cut at all.
        memory: what a worker has, in bytes; there are more parts, which wait for each other, where that is needed.
    """
    channels, guard = int(arguments["nchan"]), _guard_width(arguments)
    number = min(workers, channels // guard)
    if memory is not None:
        most = max(1, channels_that_fit(arguments, memory) - 2 * guard)
        rounds = math.ceil(math.ceil(channels / most) / workers)
        number = min(max(number, rounds * workers), channels // guard) if channels > most else number
    edges = _edges(arguments, channels, max(1, number))
    digits = len(str(channels - 1))
    run = uuid4().hex
    ranges = list(pairwise(edges))
    names = [f"{arguments['imagename']}.parts/{first:0{digits}d}-{last - 1:0{digits}d}" for first, last in ranges]
    return [
        Part(
            arguments=arguments,
            imagename=name,
            first=first,
            channels=last - first,
            guards=(min(guard, first), min(guard, channels - last)),
            neighbours=(before, after),
            run=run,
        )
        for name, (first, last), before, after in zip(names, ranges, ["", *names[:-1]], [*names[1:], ""], strict=True)
    ]


def _edges(arguments: Mapping[str, Any], channels: int, number: int) -> list[int]:
    """The first channel of each part, and how many channels there are."""
    if number == 1 or must_be_whole(arguments):
        return [0, channels]
    if not automask.is_on(arguments):
        return [round(channels * part / number) for part in range(number + 1)]
    # CASA masks channels in blocks that a part must not lie across.
    block = automask.block_of(arguments)
    edges = []
    for first in range(0, channels, block):
        size = min(block, channels - first)
        pieces = max(1, min(math.ceil(number * size / channels), size // _guard_width(arguments)))
        edges += [first + round(size * piece / pieces) for piece in range(pieces)]
    return [*edges, channels]


def _guard_width(arguments: Mapping[str, Any]) -> int:
    """How many channels of a neighbouring part change the residual of a part's own, by interpolation.

    Visibilities of a channel are predicted from the image's channels about it, and gridded onto them. There is one at
    least, of which the deconvolver's spare plane is made.
    """
    return {"nearest": 1, "linear": 1}.get(str(arguments.get("interpolation", "linear")), 3)


def _of(what: str, part: Part, job: FunctionCall) -> FunctionCall:
    """A job of one part. CASA wants to see the MSs wherever it is given parameters of imaging."""
    return job.declare(
        name=f"{what} {_label(part)}",
        near=f"{part.run} {part.imagename}",
        reads=vis_of(part.arguments),
        selects=selections("tclean", part.arguments),
        keeps=_state(part),
        memory=bytes_of_part(part.arguments, part.gridded),
    )


def _seconds(estimate: Callable[..., float], part: Part, visibilities: int | None) -> float | None:
    """How long a part is gridded, of the cube's visibilities those of its channels."""
    if visibilities is None:
        return None
    share = part.gridded / int(part.arguments["nchan"])
    return estimate(part.arguments, int(visibilities * share), part.gridded)


def _state(part: Part) -> list[str]:
    """What a part's jobs leave for each other."""
    return [f"{escape(part.imagename)}.*"]


def _label(part: Part) -> str:
    return part.imagename.rpartition("/")[2]
