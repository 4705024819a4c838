"""The typed facts that stages append to the context and query from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from surgeline.errors import ContextError

AnyFact = TypeVar("AnyFact", bound="Fact")

Role = Literal["flux", "bandpass", "phase", "target"]

PictureKind = Literal[
    "array", "uv coverage", "elevation", "scans", "flags", "bandpass", "gains", "image", "residual", "plane",
    "spectrum", "moment",
]  # fmt: skip


class Fact(BaseModel):
    """Something that a stage found out or made; never changed once committed.

    A package may bring kinds of its own, as entry points of the group `surgeline.facts`.
    """

    # A fully flagged image has no rms: JSON has no word for NaN, and the default makes it null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    # Facts of a kind that agree in these fields say the same thing anew: the latest one holds.
    identity: ClassVar[tuple[str, ...]] = ()
    # What the kind is called in the store; its class's name unless given. Packages begin it with their own name.
    kind_name: ClassVar[str] = ""
    # Raised whenever a field changes; then `from_older` has to bring older bodies up to date. What facts are about,
    # their identity, stays what it was: what is said anew has to find what it replaces.
    schema_version: ClassVar[int] = 1

    @classmethod
    def from_older(cls, body: dict[str, Any], schema_version: int) -> dict[str, Any]:
        """The `body` of a fact of this kind that was stored with an older `schema_version`, as it would be now."""
        return body


class Field(BaseModel):
    """A field of an observation: position in degrees (ICRS or J2000), intents as in the data."""

    id: int
    name: str
    ra: float
    dec: float
    intents: tuple[str, ...] = ()


class SpectralWindow(BaseModel):
    """A spectral window: frequencies in Hz."""

    id: int
    name: str
    channels: int
    reference_frequency: float
    channel_width: float
    bandwidth: float
    correlations: tuple[str, ...] = ()


class Scan(BaseModel):
    """A scan: Unix times, in seconds."""

    number: int
    fields: tuple[int, ...]
    spectral_windows: tuple[int, ...]
    start: float
    end: float
    intents: tuple[str, ...] = ()


class Antenna(BaseModel):
    """An antenna: position east and north of the array's centre and diameter, in metres."""

    id: int
    name: str
    station: str
    east: float
    north: float
    diameter: float


class Observation(Fact):
    """What a MeasurementSet holds."""

    identity: ClassVar[tuple[str, ...]] = ("vis",)

    vis: str
    origin: str
    telescope: str
    observer: str
    project: str
    start: float
    end: float
    rows: int
    size: int
    fields: tuple[Field, ...]
    spectral_windows: tuple[SpectralWindow, ...]
    scans: tuple[Scan, ...]
    antennas: tuple[Antenna, ...]
    longest_baseline: float
    uv_samples: tuple[tuple[float, float], ...] = ()

    def field(self, identifier: int) -> Field:
        """A field by its number."""
        return next(field for field in self.fields if field.id == identifier)


class Roles(Fact):
    """Which fields of an MS serve as what, by field number, and why."""

    identity: ClassVar[tuple[str, ...]] = ("vis",)

    vis: str
    flux: tuple[int, ...]
    bandpass: tuple[int, ...]
    phase: tuple[int, ...]
    target: tuple[int, ...]
    reason: str


class ReferenceAntenna(Fact):
    """The reference antenna of an MS: names in order of preference."""

    identity: ClassVar[tuple[str, ...]] = ("vis",)

    vis: str
    names: tuple[str, ...]
    reason: str


class FlagSummary(Fact):
    """How much of an MS is flagged after a stage, as fractions from 0 to 1, in all and by field and antenna."""

    identity: ClassVar[tuple[str, ...]] = ("vis", "after")

    vis: str
    after: str
    total: float
    fields: dict[str, float]
    antennas: dict[str, float]


class FluxDensity(Fact):
    """A calibrator's flux density in Jy: of a model (error 0), or measured against one."""

    identity: ClassVar[tuple[str, ...]] = ("vis", "field", "spectral_window", "kind")

    vis: str
    field: int
    name: str
    spectral_window: int
    kind: Literal["model", "measured"]
    flux: float
    error: float = 0.0
    standard: str


class CalibrationTable(Fact):
    """A calibration table and what it is applied to.

    Attributes:
        kind: B (bandpass), G (gains), P (phases, where G has only amplitudes), or F (gains scaled to flux).
        solved_on: field numbers that it was solved on.
        supersedes: the table that it replaces, if any.
    """

    identity: ClassVar[tuple[str, ...]] = ("path",)

    vis: str
    path: str
    kind: Literal["B", "G", "P", "F"]
    solved_on: tuple[int, ...]
    supersedes: str = ""


class Dataset(Fact):
    """An MS of the session: calibrated target data split off, or continuum-subtracted.

    `windows` are the spectral windows that it has data of, by their numbers in the observation.
    """

    identity: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    parent: str
    kind: Literal["raw", "calibrated", "line"]
    fields: tuple[int, ...]
    windows: tuple[int, ...]


class Project(Fact):
    """The project that observations belong to, and the recipe that they are reduced by."""

    identity: ClassVar[tuple[str, ...]] = ("code",)

    code: str
    observer: str
    telescope: str
    recipe: str
    description: str = ""


class DataColumns(Fact):
    """The state of an MS: which column holds data of which type (RAW, CALIBRATED, MODEL, …), after a stage."""

    identity: ClassVar[tuple[str, ...]] = ("vis",)

    vis: str
    after: str
    columns: dict[str, str]


class CalibrationApplication(Fact):
    """A calibration table and what of an MS it is for: an entry of the registry of calibrations.

    Attributes:
        table: the calibration table.
        vis, field, spw, intent, antenna: what it is for, in CASA's selection syntax; empty: all.
        gainfield, spwmap, interp, calwt: how it is applied, as applycal's arguments of these names.
        state: registered (to be applied on the fly), or applied (in the corrected data already).
        order: tables for the same data are applied by rising order.
    """

    identity: ClassVar[tuple[str, ...]] = ("table", "vis", "field", "spw", "intent", "antenna")

    table: str
    vis: str
    field: str = ""
    spw: str = ""
    intent: str = ""
    antenna: str = ""
    gainfield: str = ""
    spwmap: tuple[int, ...] = ()
    interp: str = ""
    calwt: bool = True
    state: Literal["registered", "applied"] = "registered"
    order: int = 0


class QualityScore(Fact):
    """How well a stage went in one respect: from 0 (unusable) to 1 (as good as it gets), and why."""

    identity: ClassVar[tuple[str, ...]] = ("stage", "metric", "vis")

    stage: str
    metric: str
    vis: str = ""
    score: float
    reason: str


class Extension(Fact):
    """What a telescope, or a task written for another framework, wants to remember, in a namespace of its own."""

    identity: ClassVar[tuple[str, ...]] = ("namespace", "name")

    namespace: str
    name: str
    value: Any


class ImagePlan(Fact):
    """What to image and how: `arguments` are tclean's own.

    With `threshold_sigma`, a cube is cleaned down to so many times the noise of its dirty image. Of `visibilities` it
    is known roughly how many there are, each correlation of each channel counted.
    """

    identity: ClassVar[tuple[str, ...]] = ("name",)
    # 2: `visibilities`.
    schema_version: ClassVar[int] = 2

    name: str
    vis: str
    field: str
    spectral_windows: str
    kind: Literal["cube", "continuum"]
    arguments: dict[str, Any]
    threshold_sigma: float | None = None
    visibilities: int | None = None
    reasons: tuple[str, ...] = ()


class Image(Fact):
    """An image that was made, with its own statistics (Jy/beam, or as `unit` says).

    `corrected`: for the primary beam.
    """

    identity: ClassVar[tuple[str, ...]] = ("path",)
    # 2: `corrected`; before, none was.
    schema_version: ClassVar[int] = 2

    path: str
    stem: str
    kind: Literal["cube", "continuum", "moment 0", "moment 1"]
    field: str
    unit: str
    shape: tuple[int, ...]
    maximum: float
    minimum: float
    mean: float
    rms: float
    threshold: float | None = None
    iterations: int = 0
    major_cycles: int = 0
    stop: str = ""
    corrected: bool = False


class Product(Fact):
    """A file for people, with its checksum."""

    identity: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    kind: str
    size: int
    sha256: str


class Picture(Fact):
    """A plot or picture for the weblog.

    Attributes:
        kind: what it shows; None where it was made before that was told.
        vis: the MS that it is of, if of one.
        subject: path of the calibration table or image that it shows. The planes of a cube have the same one, and
            come in the order of channels.
        antenna: name of the only antenna that it shows; None: it shows all.
        channel: which one of the cube, counted from 0, a plane is.
        frequency: of a plane, in Hz.
    """

    identity: ClassVar[tuple[str, ...]] = ("path",)
    # 2: `kind`, `vis`, `subject`, `antenna`, `channel` and `frequency`.
    schema_version: ClassVar[int] = 2

    path: str
    title: str
    caption: str
    topic: Literal["observation", "flagging", "calibration", "image"]
    kind: PictureKind | None = None
    vis: str | None = None
    subject: str | None = None
    antenna: str | None = None
    channel: int | None = None
    frequency: float | None = None

    @property
    def one_of_many(self) -> bool:
        """Whether it is a detail, of which there are as many as planes or antennas."""
        return self.kind == "plane" or self.antenna is not None


class Decision(Fact):
    """What a heuristic decided, and from which numbers."""

    stage: str
    what: str
    value: str
    reason: str


class Command(Fact):
    """One call that plain CASA can run for what a stage did, in the order in which it did it."""

    stage: str
    text: str


class PipelineStage(Fact):
    """That a task of the CASA Pipeline was run, and what there was when its results had been accepted.

    Attributes:
        task: its name.
        number: which stage it was, as the Pipeline counts them.
        began_at: the version of the session's context that it began at.
        context: the file of the Pipeline's context as it was then, relative to the working folder.
        digest: of what is in that file.
        data: the MSs and files in the Pipeline's folder that a task may change, relative to the working folder.
        weblog: the first page of the Pipeline's own weblog, relative to the working folder.
        started, ended: Unix times, in seconds.
    """

    identity: ClassVar[tuple[str, ...]] = ("stage",)

    stage: str
    task: str
    number: int
    began_at: int
    context: str
    digest: str
    data: tuple[str, ...]
    weblog: str
    started: float
    ended: float


KINDS: dict[str, type[Fact]] = {
    kind.__name__: kind
    for kind in (
        Observation, Roles, ReferenceAntenna, FlagSummary, FluxDensity, CalibrationTable, Dataset, Project,
        DataColumns, CalibrationApplication, QualityScore, Extension, ImagePlan, Image, Product, Picture, Decision,
        Command, PipelineStage,
    )
}  # fmt: skip


def name_of(kind: type[Fact]) -> str:
    """What a kind of fact is called in the store."""
    return kind.kind_name or kind.__name__


def kind_called(name: str) -> type[Fact] | None:
    """The kind of a name, one of an installed package too; None when there is none."""
    return KINDS.get(name) or _kinds_of_packages().get(name)


@cache
def _kinds_of_packages() -> dict[str, type[Fact]]:
    """The kinds that installed packages bring; finding them takes milliseconds."""
    kinds: list[type[Fact]] = [found.load() for found in entry_points(group="surgeline.facts")]
    return {name_of(kind): kind for kind in kinds}


def subject_asked(kind: type[Fact], equal: Mapping[str, Any]) -> str | None:
    """The subject of the one fact that is asked for by its whole identity; None where it is asked for otherwise."""
    if not kind.identity or not equal.keys() >= set(kind.identity):
        return None
    values = [equal[name] for name in kind.identity]
    # Only what is written in one way alone can be told from its text.
    if any(
        type(value) is not kind.model_fields[name].annotation or type(value) not in (str, int)
        for name, value in zip(kind.identity, values, strict=True)
    ):
        return None
    return json.dumps(values)


def subject_begins(kind: type[Fact], texts: Mapping[str, str]) -> str:
    """What the subjects of those facts begin with whose identity begins with these texts; empty: nothing is known."""
    known = []
    for name in kind.identity:
        if name not in texts or kind.model_fields[name].annotation is not str:
            break
        known.append(texts[name])
    return json.dumps(known)[:-1] if known else ""


def from_stored(kind: type[AnyFact], schema_version: int, body: str) -> AnyFact:
    """A fact of a kind as it was stored.

    Raises:
        ContextError: it was stored with a newer schema than this version knows.
        pydantic.ValidationError: it is damaged.
    """
    if schema_version > kind.schema_version:
        raise ContextError(
            f"a {name_of(kind)} was written by a newer version of Surgeline or of a package "
            f"(schema {schema_version}, this one knows {kind.schema_version})",
            "use that version, or one later",
        )
    if schema_version < kind.schema_version:
        return kind.model_validate(kind.from_older(json.loads(body), schema_version))
    return kind.model_validate_json(body)


def subject_of(fact: Fact) -> str:
    """What a fact is about, as text: its identity; empty for one that stands beside all others of its kind."""
    if not fact.identity:
        return ""
    content = fact.model_dump(mode="json", include=set(fact.identity))
    return json.dumps([content[name] for name in fact.identity])
