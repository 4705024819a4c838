"""What self-calibration is asked for, and what it calibrates by itself: targets and their windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from surgeline.context.records import (
    CalibrationApplication,
    Dataset,
    FlagSummary,
    ImagePlan,
    Observation,
    ReferenceAntenna,
    Roles,
)
from surgeline.errors import BadInput, DataError
from surgeline.paths import dataset, image, safe_name
from surgeline.stages.flag import choose_reference_antenna
from surgeline.stages.pointings import field_stem
from surgeline.stages.selfcal_intervals import ALL_SCANS, in_seconds
from surgeline.stages.selfcal_model import Component
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage
from surgeline.work.casasignature import signature
from surgeline.work.jobs import JobRequest
from surgeline.work.procedure import Procedure

# The arguments of tclean that this stage gives itself.
_OWN_ARGUMENTS = ("vis", "imagename", "startmodel", "savemodel", "datacolumn", "specmode", "parallel")


class Parameters(StageParameters):
    """How to self-calibrate; what is left out follows from signal to noise.

    Attributes:
        images: names, or patterns of names, of the planned continua whose data are calibrated.
        clean: arguments of tclean that override those planned. Where no image is planned, at least cell and imsize.
        phase: solution intervals for phases in their order, as gaincal's solint, or `all` for one solution over all
            scans; none at all: no phases.
        amplitude: the same for amplitudes with phases, which are solved for afterwards.
        rounds: at most so many of each.
        minimum_snr: solutions below it are flagged, and intervals expected to give less are not tried.
        amplitude_snr: the same of what amplitudes are tried over.
        most_failed: a round is reverted when more than this share of its solutions fails.
        combine: solve over the boundaries of scans, of spectral windows, or both; with spw, one image is made of all.
        gaintype: G solves for each polarisation, T for all together; left out, G where signal to noise is enough.
        reference_antenna: names in order of preference; left out, those that stage flag chose.
        baselines_per_antenna: fewer give no solution; left out, 4, and less where there are few antennas.
        model: what the first round solves against: an image, or a component; left out, what is cleaned of the data.
        equal_weights: give all data the weight 1 first, for arrays in which one antenna outweighs all others.
    """

    images: tuple[str, ...] = ("*",)
    clean: dict[str, Any] = Field(default_factory=dict)
    phase: tuple[str, ...] | None = None
    amplitude: tuple[str, ...] | None = None
    rounds: PositiveInt = 12
    minimum_snr: NonNegativeFloat = 3.0
    amplitude_snr: NonNegativeFloat = 10.0
    most_failed: PositiveFloat = 0.25
    combine: tuple[Literal["scan", "spw"], ...] = ()
    gaintype: Literal["G", "T"] | None = None
    reference_antenna: tuple[str, ...] = ()
    baselines_per_antenna: PositiveInt | None = None
    model: str | Component = ""
    equal_weights: bool = False

    @field_validator("clean")
    @classmethod
    def _arguments_of_tclean(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Wrong names or types are told when the recipe is read, not when imaging begins."""
        for name in _OWN_ARGUMENTS:
            if name in arguments:
                raise ValueError(f"{name} is this stage's own to choose: leave it out of clean")
        try:
            signature("tclean").check(arguments)
        except BadInput as error:
            raise ValueError(f"{error.message}: {error.way_out}") from error
        return arguments

    @field_validator("phase", "amplitude")
    @classmethod
    def _times(cls, solints: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for solint in solints or ():
            if solint not in (ALL_SCANS, "inf", "int"):
                try:
                    in_seconds(solint)
                except ValueError:
                    raise ValueError(f"{solint!r} is no interval: give 30s, inf (a scan), int or all") from None
        return solints


@dataclass(frozen=True)
class Unit:
    """What is calibrated by itself: some windows, by their positions in the target's MS, in a copy of their data."""

    name: str
    field: str
    target: Dataset
    observation: Observation
    arguments: dict[str, Any]
    positions: tuple[int, ...]
    references: tuple[str, ...]

    @property
    def copy(self) -> str:
        """The MS with what is selected of the data, on which is tried what may help."""
        return dataset(f"{self.name}.selfcal.ms")

    def stem(self, number: int | str) -> str:
        """The images of a round, 0 being what there was before."""
        return image(f"selfcal.{self.name}.{number}")


def split_targets(stage: Stage, parameters: Parameters) -> Procedure[tuple[list[ImagePlan], dict[str, Dataset]]]:
    """Where no image is planned: an MS of each target, and a continuum of each of its windows."""
    missing = [name for name in ("cell", "imsize") if name not in parameters.clean]
    if missing:
        raise DataError(
            "no continuum is planned that could be calibrated on",
            f"put plan_images before this stage, with continua on, or give it clean: {{{', '.join(missing)}, …}}",
        )
    plans: list[ImagePlan] = []
    targets: dict[str, Dataset] = {}
    splitting = []
    observations = stage.known(Observation)
    for observation in observations:
        calibrated = stage.known(CalibrationApplication, vis=observation.vis, state="applied")
        windows = tuple(window.id for window in observation.spectral_windows)
        for number in stage.required(Roles, vis=observation.vis).target:
            name = observation.field(number).name
            stem = field_stem(observation, number)
            path = dataset(f"{Path(observation.vis).stem}.{stem}.ms")
            targets[path] = Dataset(
                path=path, parent=observation.vis, kind="calibrated", fields=(number,), windows=windows
            )
            arguments = {
                "vis": observation.vis,
                "outputvis": path,
                "field": str(number),
                "spw": ",".join(map(str, windows)),
                "datacolumn": "corrected" if calibrated else "data",
            }
            splitting.append(JobRequest("split", arguments).declare(name=f"split {name}"))
            prefix = f"{safe_name(PurePath(observation.vis).stem)}." if len(observations) > 1 else ""
            plans += [
                _plan(parameters, f"{prefix}{stem}.spw{window}.continuum", path, name, position, window)
                for position, window in enumerate(windows)
            ]
    yield splitting
    return plans, targets


def _plan(parameters: Parameters, name: str, vis: str, field_name: str, position: int, window: int) -> ImagePlan:
    arguments = {
        "vis": vis,
        "imagename": image(name),
        "spw": str(position),
        "specmode": "mfs",
        "gridder": "standard",
        "deconvolver": "hogbom",
        "weighting": "briggs",
        "niter": 1000000,
        **({} if {"threshold", "nsigma"} & parameters.clean.keys() else {"nsigma": 4.0}),
        **parameters.clean,
    }
    return ImagePlan(
        name=name,
        vis=vis,
        field=field_name,
        spectral_windows=str(window),
        kind="continuum",
        arguments=arguments,
        reasons=("no image was planned before self-calibration", "clean: the recipe says so"),
    )


def each_window_once(plans: Sequence[ImagePlan]) -> list[ImagePlan]:
    """The plans without those of several windows all of which have plans of their own."""
    alone = {(plan.vis, plan.spectral_windows) for plan in plans if "," not in plan.spectral_windows}
    return [
        plan
        for plan in plans
        if "," not in plan.spectral_windows
        or any((plan.vis, window) not in alone for window in plan.spectral_windows.split(","))
    ]


def find_units(
    stage: Stage, parameters: Parameters, plans: Sequence[ImagePlan], targets: dict[str, Dataset]
) -> list[Unit]:
    """The plans, each by itself, or with those of the same target together when windows are combined.

    Raises:
        DataError: a plan is of several MSs: solutions are of one.
    """
    for plan in plans:
        if plan.vis not in targets:
            raise DataError(
                f"image {plan.name} is of several MSs, and each of them is calibrated by itself",
                "choose others with `images`, or plan the pointings one by one: mosaic: linear, in plan_images",
            )
    groups = [[plan] for plan in plans]
    if "spw" in parameters.combine:
        in_order = sorted(plans, key=lambda plan: plan.vis)
        groups = [list(group) for _, group in groupby(in_order, lambda plan: plan.vis)]
    observations = {found.vis: found for found in stage.known(Observation)}
    units = []
    for group in groups:
        first = group[0]
        target = targets[first.vis]
        observation = observations[target.parent]
        arguments = {**first.arguments, **parameters.clean}
        if "spw" not in parameters.clean:
            arguments["spw"] = ",".join(str(plan.arguments["spw"]) for plan in group)
        units.append(
            Unit(
                name=first.name if len(group) == 1 else f"{first.name}.all_spws",
                field=first.field,
                target=target,
                observation=observation,
                arguments=arguments,
                positions=selected_windows(arguments["spw"], len(target.windows)),
                references=_references(stage, parameters, observation),
            )
        )
    return units


def selected_windows(spw: str, windows: int) -> tuple[int, ...]:
    """The windows that a selection in CASA's syntax takes of so many: `0:4~60,2~3` are 0, 2 and 3.

    Raises:
        BadInput: it names windows otherwise than by number.
    """
    if not spw.strip():
        return tuple(range(windows))
    found: set[int] = set()
    for part in spw.split(","):
        first, _, last = part.split(":")[0].strip().partition("~")
        if not first.isdigit() or (last and not last.isdigit()):
            raise BadInput(
                f"spw={spw!r} names windows otherwise than by number, which self-calibration cannot follow",
                "write it like 0:4~60,2~3",
            )
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def _references(stage: Stage, parameters: Parameters, observation: Observation) -> tuple[str, ...]:
    if parameters.reference_antenna:
        names = {antenna.name for antenna in observation.antennas}
        if unknown := [name for name in parameters.reference_antenna if name not in names]:
            raise DataError(
                f"{observation.vis} has no antenna {', '.join(unknown)}",
                f"reference_antenna takes names of these: {', '.join(sorted(names))}",
            )
        return parameters.reference_antenna
    for found in stage.known(ReferenceAntenna, vis=observation.vis):
        return found.names
    unflagged = FlagSummary(vis=observation.vis, after="", total=0.0, fields={}, antennas={})
    return choose_reference_antenna(observation, unflagged).names
