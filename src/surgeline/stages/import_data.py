"""Import: bring observations into the session as MeasurementSets, read what they hold, and who is what."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from surgeline.context.matching import MatchOverride, match_fields, match_windows_exactly
from surgeline.context.records import Command, DataColumns, Dataset, Decision, Fact, Observation, Project
from surgeline.errors import DataError
from surgeline.paths import dataset, partial
from surgeline.stages.inputs import Input, find_input
from surgeline.stages.observation import read_observation
from surgeline.stages.plots import asking
from surgeline.stages.roles import find_roles
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall, Job, JobRequest
from surgeline.work.procedure import Aside, Procedure


class Parameters(StageParameters):
    """Names, numbers or patterns of the fields that serve as each; left out, the heuristics decide.

    Attributes:
        matches: where the rules that match windows and fields of several MSs are wrong, and why.
    """

    flux: tuple[str, ...] = ()
    bandpass: tuple[str, ...] = ()
    phase: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    matches: tuple[MatchOverride, ...] = ()


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Make one MS of each observation. The user's own data are copied, never changed."""
    inputs = [find_input(reference) for reference in stage.vis]
    names = [dataset(found.ms_name) for found in inputs]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"two of the observations would both become {name}",
                "rename one, or reduce them in different sessions",
            )
    yield [_import_job(found, name) for found, name in zip(inputs, names, strict=True)]
    observations: list[Observation] = list(
        (
            yield [
                FunctionCall(read_observation, name, str(found.path)).declare(name=f"read {name}", reads=[name])
                for found, name in zip(inputs, names, strict=True)
            ]
        )
    )
    facts: list[Fact] = []
    plots: list[Job] = []
    for found, observation in zip(inputs, observations, strict=True):
        vis = observation.vis
        roles = find_roles(observation, parameters.flux, parameters.bandpass, parameters.phase, parameters.target)
        fields = tuple(field.id for field in observation.fields)
        windows = tuple(window.id for window in observation.spectral_windows)
        raw = Dataset(path=vis, parent=str(found.path), kind="raw", fields=fields, windows=windows)
        facts += [observation, roles, raw]
        for role in ("flux", "bandpass", "phase", "target"):
            value = ", ".join(observation.field(number).name for number in getattr(roles, role)) or "none"
            facts.append(Decision(stage=stage.name, what=f"{role} of {vis}", value=value, reason=roles.reason))
        if found.kind == "MS":
            # Copying is no CASA task, so the script has to be told; other imports log their own call.
            facts.append(Command(stage=stage.name, text=f"shutil.copytree({str(found.path)!r}, {vis!r})"))
        plot, pictures = asking.of_observation(observation, roles)
        plots.append(plot)
        facts += pictures
    yield Aside(plots)
    facts += [
        Project(code=code, observer=found.observer, telescope=found.telescope, recipe=stage.recipe)
        for code, found in {observation.project: observation for observation in observations}.items()
    ]
    facts += [DataColumns(vis=name, after=stage.name, columns={"RAW": "DATA"}) for name in names]
    windows_alike = match_windows_exactly(observations, overrides=parameters.matches)
    fields_alike = match_fields(observations, overrides=parameters.matches)
    return [*facts, *windows_alike.facts(), *fields_alike.facts()]


def _import_job(found: Input, vis: str) -> Job:
    name = f"import {vis}"
    if found.kind == "UVFITS":
        return JobRequest("importuvfits", {"fitsfile": str(found.path), "vis": vis}).declare(name=name)
    if found.kind == "ASDM":
        return JobRequest("importasdm", {"asdm": str(found.path), "vis": vis}).declare(name=name)
    return FunctionCall(copy_ms, str(found.path), vis).declare(name=name, reads=[str(found.path)], writes=[vis])


def copy_ms(source: str, vis: str) -> None:
    """Copy an MS, sharing its blocks on disk where the file system can; it appears under its name when whole."""
    unfinished = partial(vis)
    shutil.rmtree(unfinished, ignore_errors=True)
    copied = subprocess.run(
        ["cp", "-R", "--reflink=auto", "--", source, str(unfinished)],
        capture_output=True,
        text=True,
        check=False,
    )
    if copied.returncode:
        raise DataError(f"{source} could not be copied: {copied.stderr.strip()}", "free space, or make it readable")
    unfinished.rename(Path(vis))
