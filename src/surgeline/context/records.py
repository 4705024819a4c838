"""The typed facts that stages append to the context and query from it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Role = Literal["flux", "bandpass", "phase", "target"]


class Fact(BaseModel):
    """Something that a stage found out or made; never changed once committed."""

    # A fully flagged image has no rms: JSON as Python reads and writes it keeps NaN, where the default makes it null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    # Facts of a kind that agree in these fields say the same thing anew: the latest one holds.
    identity: ClassVar[tuple[str, ...]] = ()


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


class ImagePlan(Fact):
    """What to image and how: `arguments` are tclean's own.

    With `threshold_sigma`, a cube is cleaned down to so many times the noise of its dirty image.
    """

    identity: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    vis: str
    field: str
    spectral_windows: str
    kind: Literal["cube", "continuum"]
    arguments: dict[str, Any]
    threshold_sigma: float | None = None
    reasons: tuple[str, ...] = ()


class Image(Fact):
    """An image that was made, with its own statistics (Jy/beam, or as `unit` says)."""

    identity: ClassVar[tuple[str, ...]] = ("path",)

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


class Product(Fact):
    """A file for people, with its checksum."""

    identity: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    kind: str
    size: int
    sha256: str


class Picture(Fact):
    """A plot or picture for the weblog."""

    identity: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    title: str
    caption: str
    topic: Literal["observation", "flagging", "calibration", "image"]


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


KINDS: dict[str, type[Fact]] = {
    kind.__name__: kind
    for kind in (
        Observation, Roles, ReferenceAntenna, FlagSummary, FluxDensity, CalibrationTable, Dataset, ImagePlan,
        Image, Product, Picture, Decision, Command,
    )
}  # fmt: skip
