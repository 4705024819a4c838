"""Self-calibrate: solve for gains on the targets themselves, as far as their images get better by it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from surgeline.context.records import (
    CalibrationApplication,
    CalibrationTable,
    DataColumns,
    Dataset,
    Decision,
    Fact,
    ImagePlan,
)
from surgeline.errors import DataError
from surgeline.imaging.onejob import clean_in_one_job
from surgeline.paths import caltable
from surgeline.stages.plots import asking
from surgeline.stages.plots.images import ImageFiles
from surgeline.stages.selfcal_intervals import (
    Interval,
    Sampling,
    asked_intervals,
    phase_intervals,
    read_sampling,
    signal_to_noise,
    slow_intervals,
)
from surgeline.stages.selfcal_model import Seen, look, place_model
from surgeline.stages.selfcal_units import Parameters, Unit, each_window_once, find_units, split_targets
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall, JobRequest
from surgeline.work.procedure import Aside, Procedure, together

Kind = Literal["phases", "amplitudes"]

# By how much the dynamic range has to grow for a round to be kept, and how much of the peak it may cost.
_LEAST_GROWTH = 0.01
_MOST_OF_PEAK_LOST = 0.05
# A round that improves the dynamic range by such a factor is repeated, with the better model.
_WORTH_REPEATING = 1.1
# After so many reverted rounds, one after the other, a kind of gain is held to be found.
_CHANCES = 2
# Below it the peak may be noise (of a million pixels the highest is 4.9 sigma), which calibration would raise.
_LEAST_DYNAMIC_RANGE = 6.0


@dataclass(frozen=True)
class _Solved:
    """A round that was kept."""

    table: str
    kind: Kind
    interval: Interval


@dataclass
class _Course:
    """How far the calibration of a unit has come."""

    unit: Unit
    sampling: Sampling
    first: Seen
    best: Seen
    model: str
    predicted: str = ""
    number: int = 0
    rounds_kept: int = 0
    kept: list[_Solved] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    # Images and tables that can go when all is done.
    past: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Calibrate each target and window by itself, on a copy; what made images better is applied to the target's MS.

    Raises:
        DataError: there is nothing to calibrate, or it is calibrated on itself already.
    """
    facts: list[Fact] = []
    plans = stage.known(ImagePlan, kind="continuum")
    targets = {found.path: found for found in stage.known(Dataset, kind="calibrated")}
    if not plans:
        plans, targets = yield from split_targets(stage, parameters)
        facts += [*targets.values(), *plans]
    chosen = [plan for plan in plans if any(fnmatchcase(plan.name, pattern) for pattern in parameters.images)]
    if not chosen:
        names = ", ".join(plan.name for plan in plans)
        raise DataError(f"no continuum of stage {stage.name!r} is planned", f"these are: {names}")
    chosen = each_window_once(chosen)
    for path in {plan.vis for plan in chosen}:
        if earlier := stage.known(CalibrationTable, vis=path):
            raise DataError(
                f"{path} is calibrated on itself already, by {earlier[-1].path}",
                "give one stage all rounds: phase and amplitude take lists of intervals",
            )
    units = find_units(stage, parameters, chosen, targets)
    if parameters.equal_weights:
        yield [
            JobRequest("initweights", {"vis": path, "wtmode": "ones", "dowtsp": True}).declare(
                name=f"equal weights in {path}"
            )
            for path in sorted({unit.target.path for unit in units})
        ]
    courses = yield from together([_calibrate(stage, parameters, unit) for unit in units])
    applied = []
    for path, group in groupby(sorted(courses, key=_target_of), _target_of):
        better = [course for course in group if course.kept]
        # Lines were split off before, and have the same gains.
        lines = [line for line in stage.known(Dataset, kind="line") if line.parent == path]
        applied += [_apply(stage, parameters, found, better) for found in [targets[path], *lines] if better]
    for found in [[course.facts for course in courses], (yield from together(applied))]:
        facts += [fact for some in found for fact in some]
    return facts


def _target_of(course: _Course) -> str:
    return course.unit.target.path


def _calibrate(stage: Stage, parameters: Parameters, unit: Unit) -> Procedure[_Course]:
    """Rounds of phases, then of amplitudes, on a copy of the unit's data, which nothing else touches."""
    selection = {"spw": unit.arguments["spw"], "field": unit.arguments.get("field", "")}
    splitting = {"vis": unit.target.path, "outputvis": unit.copy, "datacolumn": "data", **selection}
    yield [JobRequest("split", splitting).declare(name=f"copy {unit.name}")]
    (sampling,) = yield [
        FunctionCall(read_sampling, unit.copy).declare(name=f"sampling of {unit.name}", reads=[unit.copy])
    ]
    seen = yield from _image(unit, 0)
    course = _Course(unit, sampling, seen, seen, model=unit.stem(0))
    if parameters.model:
        course.model = unit.stem("start")
        yield [
            FunctionCall(place_model, seen.stem, course.model, parameters.model).declare(
                name=f"starting model of {unit.name}",
                reads=[parameters.model] if isinstance(parameters.model, str) else [],
                keeps=[_products(seen.stem), _products(course.model)],
            )
        ]
        _decide(stage, course, "starting model", str(parameters.model), "the recipe says so")
        course.past.append(course.model)
    yield from _rounds(stage, parameters, course, "phases")
    yield from _rounds(stage, parameters, course, "amplitudes")
    yield from _conclude(stage, course)
    return course


def _rounds(stage: Stage, parameters: Parameters, course: _Course, kind: Kind) -> Procedure[None]:
    """Solve over shorter and shorter intervals, until they make nothing better any more."""
    asked = parameters.phase if kind == "phases" else parameters.amplitude
    least = parameters.minimum_snr if kind == "phases" else max(parameters.amplitude_snr, parameters.minimum_snr)
    if asked is not None:
        intervals = asked_intervals(asked, course.sampling)
    elif course.best.dynamic_range < _LEAST_DYNAMIC_RANGE:
        reason = f"dynamic range {course.best.dynamic_range:.3g}, less than {_LEAST_DYNAMIC_RANGE:g}, may be noise"
        _decide(stage, course, kind, "not solved for", reason)
        return
    else:
        intervals = phase_intervals(course.sampling) if kind == "phases" else slow_intervals(course.sampling)
    turn, kept_before, reverted = 0, course.rounds_kept, 0
    while turn < parameters.rounds and intervals:
        interval = intervals[0]
        expected = signal_to_noise(course.best.peak, course.sampling, interval.seconds, "T")
        by_polarisation = signal_to_noise(course.best.peak, course.sampling, interval.seconds, "G")
        if asked is None and expected < least:
            _decide(
                stage,
                course,
                f"{kind} over {interval}",
                "not solved for" if turn == 0 else "no shorter intervals",
                f"expected signal to noise {expected:.3g} of an antenna, less than {least:g}",
            )
            return
        gaintype = parameters.gaintype or ("G" if by_polarisation >= least else "T")
        before = course.best.dynamic_range
        well = yield from _round(stage, parameters, course, kind, interval, gaintype, expected)
        turn += 1
        reverted = 0 if well else reverted + 1
        # The first interval that helps may be a short one; after one did, shorter ones are given two chances.
        if reverted >= _CHANCES and course.rounds_kept > kept_before:
            return
        # A model that has become much better may make more of the same interval.
        if asked is not None or not well or course.best.dynamic_range < _WORTH_REPEATING * before:
            intervals = intervals[1:]


def _round(
    stage: Stage,
    parameters: Parameters,
    course: _Course,
    kind: Kind,
    interval: Interval,
    gaintype: Literal["G", "T"],
    expected: float,
) -> Procedure[bool]:
    """Solve, apply on the copy, image, and keep it if the image is better."""
    unit = course.unit
    course.number += 1
    table = caltable(stage.name, f"{unit.name}.ms", f"{course.number}{'p' if kind == 'phases' else 'ap'}")
    if course.predicted != course.model:
        yield [_prediction(unit, course.model)]
        course.predicted = course.model
    across = {*parameters.combine, *(("scan",) if interval.across_scans else ())}
    fewest = parameters.baselines_per_antenna or min(4, max(2, (course.sampling.antennas - 1) // 2))
    # Solutions over the same interval are found anew, those over longer ones stay.
    others = [solved for solved in course.kept if (solved.kind, solved.interval) != (kind, interval)]
    before = [solved.table for solved in others]
    request = JobRequest(
        "gaincal",
        {
            "vis": unit.copy,
            "caltable": table,
            "solint": interval.solint,
            "combine": ",".join(sorted(across)),
            "refant": ",".join(unit.references),
            "minblperant": fewest,
            "minsnr": parameters.minimum_snr,
            "gaintype": gaintype,
            "calmode": "p" if kind == "phases" else "ap",
            # The flux scale is the calibrators' to tell.
            "solnorm": kind == "amplitudes",
            "gaintable": before,
            "spwmap": _maps(parameters, unit, len(before)),
        },
    )
    (failed,) = yield [
        FunctionCall(solve, request).declare(
            name=f"solve {table.rpartition('/')[2]}", reads=before, writes=[table], keeps=[unit.copy]
        )
    ]
    what = f"{kind} over {interval}, gaintype {gaintype}"
    expectation = f"expected signal to noise {expected:.3g}"
    if failed > parameters.most_failed:
        course.failed.append(table)
        reason = f"{failed:.0%} of the solutions failed, more than {parameters.most_failed:.0%}; {expectation}"
        _decide(stage, course, what, "reverted", reason)
        return False
    applying = _applying(unit, [*before, table], unit.copy, "", _maps(parameters, unit, len(before) + 1))
    yield [
        JobRequest("applycal", applying).declare(
            name=f"apply {table.rpartition('/')[2]}", reads=[*before, table], changes=[], keeps=[unit.copy]
        )
    ]
    seen = yield from _image(unit, course.number)
    well, reason = is_better(course.best, seen)
    reason = f"{reason}; {failed:.0%} of the solutions failed; {expectation}"
    _decide(stage, course, what, "kept" if well else "reverted", reason)
    if not well:
        course.failed.append(table)
        course.past.append(seen.stem)
        return False
    if course.best.stem != course.first.stem:
        course.past.append(course.best.stem)
    course.failed += [solved.table for solved in course.kept if solved not in others]
    course.best, course.model = seen, seen.stem
    course.rounds_kept += 1
    course.kept = [*others, _Solved(table, kind, interval)]
    return True


def _image(unit: Unit, number: int) -> Procedure[Seen]:
    stem = unit.stem(number)
    yield from clean_in_one_job(_tclean(unit, stem))
    (seen,) = yield [
        FunctionCall(look, stem).declare(name=f"measure {stem.rpartition('/')[2]}", keeps=[_products(stem)])
    ]
    result: Seen = seen
    return result


def _tclean(unit: Unit, stem: str) -> dict[str, Any]:
    """tclean's arguments for the unit's copy, which has nothing but what was selected."""
    arguments = {name: value for name, value in unit.arguments.items() if name != "field"}
    return arguments | {"vis": unit.copy, "imagename": stem, "spw": "", "datacolumn": "corrected"}


def _prediction(unit: Unit, stem: str) -> JobRequest:
    """Write the visibilities of an image's model into the copy, by the gridder that it was made with."""
    asked = {"niter": 0, "calcres": False, "calcpsf": False, "restoration": False, "savemodel": "modelcolumn"}
    return JobRequest("tclean", _tclean(unit, stem) | asked).declare(
        name=f"predict {stem.rpartition('/')[2]}", reads=[], changes=[], keeps=[unit.copy, _products(stem)]
    )


def _products(stem: str) -> str:
    return f"{escape(stem)}.*"


def _maps(parameters: Parameters, unit: Unit, tables: int) -> list[list[int]]:
    """Where the copy's windows find their solutions: combined windows leave them under the first."""
    return [[0] * len(unit.positions)] * tables if "spw" in parameters.combine else []


def _applying(unit: Unit, tables: Sequence[str], vis: str, spw: str, maps: list[list[int]]) -> dict[str, Any]:
    return {
        "vis": vis,
        "field": unit.arguments.get("field", "") if vis != unit.copy else "",
        "spw": spw,
        "gaintable": list(tables),
        "interp": ["linear"] * len(tables),
        "spwmap": maps,
        # What has no solution stays as the calibrators left it, and so do weights.
        "applymode": "calonly",
        "calwt": [False],
        "flagbackup": False,
    }


def solve(request: JobRequest) -> float:
    """Run gaincal; the share of its solutions that failed. Runs on a worker."""
    failed = failed_share(request.run())
    # gaincal leaves no table at all where it found no solution.
    Path(request.arguments["caltable"]).mkdir(exist_ok=True)
    return failed


def failed_share(report: dict[str, Any]) -> float:
    """The share of solutions that failed of those that had data of enough baselines, from what gaincal returns."""
    # By window and antenna; the sums above these count intervals in which any antenna was solved for.
    antennas = [
        counts
        for window, by_antenna in report["solvestats"].items()
        if window.startswith("spw")
        for antenna, counts in by_antenna.items()
        if antenna.startswith("ant")
    ]
    tried, found = (
        float(sum(sum(counts[name]) for counts in antennas)) for name in ("above_minblperant", "above_minsnr")
    )
    return 1.0 - found / tried if tried else 1.0


def is_better(before: Seen, after: Seen) -> tuple[bool, str]:
    """Whether an image is better than the one before: a higher dynamic range, with nothing of the peak lost.

    Returns:
        the answer, and from which numbers.
    """
    numbers = (
        f"peak {before.peak * 1e3:.4g} → {after.peak * 1e3:.4g} mJy/beam, "
        f"noise {before.noise * 1e3:.3g} → {after.noise * 1e3:.3g} mJy/beam, "
        f"dynamic range {before.dynamic_range:.4g} → {after.dynamic_range:.4g}"
    )
    if after.peak < (1.0 - _MOST_OF_PEAK_LOST) * before.peak:
        return False, f"{numbers}: more than {_MOST_OF_PEAK_LOST:.0%} of the peak is lost"
    if not after.dynamic_range > (1.0 + _LEAST_GROWTH) * before.dynamic_range:
        return False, f"{numbers}: not {_LEAST_GROWTH:.0%} better"
    return True, numbers


def _decide(stage: Stage, course: _Course, what: str, value: str, reason: str) -> None:
    course.facts.append(Decision(stage=stage.name, what=f"{course.unit.name}: {what}", value=value, reason=reason))


def _conclude(stage: Stage, course: _Course) -> Procedure[None]:
    """Say what came of it, draw it, and remove what has served."""
    unit, first, best = course.unit, course.first, course.best
    fields = unit.target.fields
    course.facts += [
        CalibrationTable(
            vis=unit.target.path, path=solved.table, kind="P" if solved.kind == "phases" else "G", solved_on=fields
        )
        for solved in course.kept
    ]
    value, reason = f"{course.rounds_kept} of {course.number} rounds kept", is_better(first, best)[1]
    if not course.kept:
        value = "the data stay as they are"
        reason = f"no round of {course.number} made the image better, of dynamic range {first.dynamic_range:.4g}"
    _decide(stage, course, "self-calibration", value, reason)
    drawings = []
    suffix = ".tt0" if unit.arguments.get("deconvolver") == "mtmfs" else ""
    for seen, when in [(first, "before"), (best, "after")] if course.kept else []:
        plot, pictures = asking.of_image(
            f"{unit.name}: {when} self-calibration",
            f"{unit.name}.{stage.name}.{when}",
            f"peak {seen.peak * 1e3:.4g}, noise {seen.noise * 1e3:.3g} mJy/beam",
            ImageFiles(f"{seen.stem}.image{suffix}"),
            vis=unit.target.path,
            topic="calibration",
        )
        drawings.append(plot)
        course.facts += pictures
    for solved in course.kept:
        title = f"{unit.name}: {solved.kind} from self-calibration"
        plot, pictures = asking.of_solutions("gains", solved.table, unit.observation, unit.target.path, title)
        drawings.append(plot)
        course.facts += pictures
    yield Aside(drawings)
    yield [
        FunctionCall(remove, [unit.copy, *course.failed], course.past).declare(
            name=f"tidy up {unit.name}", keeps=[unit.copy, *course.failed, *map(_products, course.past)]
        )
    ]


def remove(tables: Sequence[str], stems: Sequence[str]) -> None:
    """Remove tables, and images with all that tclean makes of each. Runs on a worker."""
    products = [found for stem in map(Path, stems) for found in stem.parent.glob(f"{escape(stem.name)}.*")]
    for path in [*map(Path, tables), *products]:
        shutil.rmtree(path, ignore_errors=True)


def _apply(stage: Stage, parameters: Parameters, to: Dataset, courses: Sequence[_Course]) -> Procedure[list[Fact]]:
    """Apply what was kept to one MS: each call writes to it, so they take turns."""
    facts: list[Fact] = []
    for course in courses:
        unit = course.unit
        windows = unit.target.windows
        there = [position for position in unit.positions if windows[position] in to.windows]
        if not there:
            continue
        # Only those of the windows that are selected count.
        own = [unit.positions.index(position) if position in there else 0 for position in range(len(windows))]
        if "spw" in parameters.combine:
            own = [0] * len(own)
        tables = [solved.table for solved in course.kept]
        spw = ",".join(map(str, there))
        arguments = _applying(unit, tables, to.path, spw, [own] * len(tables))
        yield [JobRequest("applycal", arguments).declare(name=f"apply to {unit.name}")]
        facts += [
            CalibrationApplication(
                table=table,
                vis=to.path,
                field=arguments["field"],
                spw=spw,
                spwmap=tuple(own),
                interp="linear",
                calwt=False,
                state="applied",
                order=order,
            )
            for order, table in enumerate(tables)
        ]
    columns = {"CALIBRATED": "DATA", "SELFCAL": "CORRECTED_DATA"}
    return [*facts, DataColumns(vis=to.path, after=stage.name, columns=columns)]
