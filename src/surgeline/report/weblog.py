"""The weblog: one self-contained page that says what a session did, when, where and with what result."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from surgeline.clusters.accounting import Accounts
from surgeline.context.records import (
    CalibrationTable,
    Dataset,
    Decision,
    FlagSummary,
    FluxDensity,
    Image,
    ImagePlan,
    Observation,
    Picture,
    Product,
    ReferenceAntenna,
    Roles,
    Scan,
)
from surgeline.context.store import Context
from surgeline.paths import SessionPaths, write_text
from surgeline.report import units
from surgeline.report.script import commands_script, stage_calls
from surgeline.report.timeline import COLOURS, RunningTime, draw

_FOLDER = Path(__file__).parent
# A task that warns at every integration must not make a page that no browser opens.
_MOST_LOG_LINES = 500
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_NO_JOB: Mapping[str, Any] = {
    "name": "", "call": "", "state": "", "submitted": None, "started": None, "ended": None, "host": "",
    "worker": "", "process": 0, "peak_memory": 0, "cpu_seconds": 0.0, "resources": "", "failure": None,
    "losses": (), "commands": (), "log": (),
}  # fmt: skip
_NO_STAGE: Mapping[str, Any] = {
    "name": "", "task": "", "state": "waiting", "started": None, "ended": None, "arguments": {},
    "cluster": "", "needs": (), "error": None, "jobs": (),
}  # fmt: skip
_NO_RECORD: Mapping[str, Any] = {
    "surgeline": "", "versions": {}, "host": "", "platform": "", "cores": None, "workdir": "", "backend": "",
    "workers": None, "recipe": {}, "started": None, "ended": None, "state": "unknown", "error": None,
    "accounts": None, "sessions": (), "stages": (), "states": None,
}  # fmt: skip
_NO_RECIPE: Mapping[str, Any] = {"name": "unnamed recipe", "description": "", "vis": (), "stages": ()}


def write_weblog(paths: SessionPaths, record: Mapping[str, Any], context: Context) -> Path:
    """Write the page and the script beside it, each whole or not at all.

    Args:
        paths: where they go.
        record: what `run.json` says of the run; it may be a run that still runs, or failed.
        context: the facts that its stages committed, if any.

    Returns:
        the page's path.

    Raises:
        OSError: the folder cannot be written.
    """
    paths.weblog.parent.mkdir(parents=True, exist_ok=True)
    script = commands_script(record, context)
    page = _render(paths, record, context, script)
    write_text(paths.script, script)
    write_text(paths.weblog, page)
    return paths.weblog


def _render(paths: SessionPaths, record: Mapping[str, Any], context: Context, script: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    code = (_FOLDER / "weblog.js").read_text(encoding="utf-8")
    now = time.time()
    run = {**_NO_RECORD, **record}
    run["recipe"] = {**_NO_RECIPE, **run["recipe"]}
    end = run["ended"] or (now if run["state"] == "running" else _last_moment(run))
    stages = [StageView(number, {**_NO_STAGE, **stage}, context, end) for number, stage in enumerate(run["stages"])]
    return environment.get_template("weblog.html").render(
        u=units,
        run=run,
        now=now,
        colours=range(COLOURS),
        # These two are the package's own files: the only texts that are not escaped.
        style=Markup((_FOLDER / "weblog.css").read_text(encoding="utf-8")),
        code=Markup(code),
        # The page may run this code and no other, whatever a name in the data says.
        code_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        totals=_totals(run, stages, end),
        accounts=_accounts(run),
        timeline=draw(run, end),
        stages=stages,
        observations=[ObservationView(fact, context) for fact in context.all(Observation)],
        flags=_flag_tables(context),
        fluxes=_flux_rows(context),
        tables=context.all(CalibrationTable),
        datasets=context.all(Dataset),
        plans=context.all(ImagePlan),
        images=[ImageRow(fact) for fact in context.all(Image)],
        products=[ProductRow(fact, _link(fact.path, paths)) for fact in context.all(Product)],
        pictures=_pictures(context, paths),
        script=script,
    )


@dataclass(frozen=True)
class LogMessage:
    """What CASA said, how often, and which jobs it said it in."""

    priority: str
    origin: str
    text: str
    count: int
    jobs: tuple[str, ...]


class StageView:
    """A stage of the record with the sums and the facts that the page shows of it."""

    def __init__(self, number: int, stage: Mapping[str, Any], context: Context, end: float) -> None:
        self.number = number
        self.name: str = stage["name"]
        self.record = stage
        self.jobs: list[dict[str, Any]] = [{**_NO_JOB, **job} for job in stage["jobs"]]
        self.decisions = context.all(Decision, stage=self.name)
        self.calls = stage_calls(stage, context)
        self._end = end

    @property
    def anchor(self) -> str:
        return f"stage-{self.number}"

    @property
    def colour(self) -> int:
        return self.number % COLOURS

    @property
    def seconds(self) -> float | None:
        started, ended = self.record["started"], self.record["ended"]
        if not started or not (ended or self.record["state"] == "running"):
            return None
        return float((ended or self._end) - started)

    @property
    def job_seconds(self) -> float:
        spans = (job["ended"] - job["started"] for job in self.jobs if job["started"] and job["ended"])
        return float(sum(spans))

    @property
    def cpu_seconds(self) -> float:
        return float(sum(job["cpu_seconds"] or 0 for job in self.jobs))

    @property
    def peak_memory(self) -> int:
        return max((job["peak_memory"] or 0 for job in self.jobs), default=0)

    @property
    def losses(self) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Each loss of a worker with the job that ran on it, oldest first."""
        found = [(loss, job) for job in self.jobs for loss in job["losses"] or ()]
        return sorted(found, key=lambda pair: float(pair[0]["when"]))

    @property
    def failed_jobs(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Each job that failed, with its anchor on the page."""
        return [
            (f"job-{self.number}-{number}", job) for number, job in enumerate(self.jobs) if job["state"] == "failed"
        ]

    @cached_property
    def log(self) -> list[tuple[str, str]]:
        """The lines of CASA's log that matter, each with its job's name."""
        return [(job["name"], line) for job in self.jobs for line in job["log"] or ()]

    @property
    def shown_log(self) -> list[tuple[str, str]]:
        return self.log[:_MOST_LOG_LINES]

    @cached_property
    def messages(self) -> list[LogMessage]:
        """What CASA warned of: SEVERE before WARN, equal lines counted together."""
        jobs: dict[tuple[str, str, str], list[str]] = {}
        for name, line in self.log:
            parts = [part.strip() for part in line.split("\t")]
            if len(parts) >= 4 and parts[1] in ("WARN", "SEVERE"):
                message = (parts[1], parts[2].strip(":"), " ".join(parts[3:]))
                jobs.setdefault(message, []).append(name)
        found = [LogMessage(*message, len(names), tuple(dict.fromkeys(names))) for message, names in jobs.items()]
        return sorted(found, key=lambda message: message.priority)

    def count(self, priority: str) -> int:
        """How many lines of this priority CASA logged."""
        return sum(message.count for message in self.messages if message.priority == priority)


def _totals(run: Mapping[str, Any], stages: Sequence[StageView], end: float) -> dict[str, Any]:
    """The few numbers that sum a run up."""
    elapsed = RunningTime(run, end).total
    job_seconds = sum(stage.job_seconds for stage in stages)
    troubles = {
        "failed_stages": sum(stage.record["state"] == "failed" for stage in stages),
        "failed": sum(len(stage.failed_jobs) for stage in stages),
        "losses": sum(len(stage.losses) for stage in stages),
        "severe": sum(stage.count("SEVERE") for stage in stages),
        "warn": sum(stage.count("WARN") for stage in stages),
    }
    return {
        **troubles,
        "troubles": sum(troubles.values()),
        # CASA warns of so much that a count with its WARN lines would say nothing.
        "serious": sum(troubles.values()) - troubles["warn"],
        "elapsed": elapsed,
        "stages": len(stages),
        "finished": sum(stage.record["state"] == "finished" for stage in stages),
        "jobs": sum(len(stage.jobs) for stage in stages),
        "at_once": job_seconds / elapsed if elapsed else None,
        "cpu_seconds": sum(stage.cpu_seconds for stage in stages),
        "peak_memory": max((stage.peak_memory for stage in stages), default=0),
    }


def _accounts(run: Mapping[str, Any]) -> Accounts | None:
    """What the workers cost; None where nobody wrote it down, or nothing was asked for."""
    # A run of an earlier version of Surgeline, or one that was killed early.
    with suppress(ValueError, TypeError):
        accounts = Accounts.from_json(run["accounts"])
        return accounts if accounts.total.asked else None
    return None


def _last_moment(run: Mapping[str, Any]) -> float:
    """The latest time in the record of a run that ended without saying when."""
    moments = [run["started"]]
    for stage in run["stages"]:
        moments += [stage.get("started"), stage.get("ended")]
        moments += [job.get("ended") for job in stage.get("jobs", ())]
    return max((float(moment) for moment in moments if moment), default=0.0)


class ObservationView:
    """An observation with the roles that its fields were given."""

    def __init__(self, fact: Observation, context: Context) -> None:
        self.fact = fact
        self.roles = context.last(Roles, vis=fact.vis)
        self.reference = context.last(ReferenceAntenna, vis=fact.vis)
        self._names = {field.id: field.name for field in fact.fields}

    def roles_of(self, field: int) -> str:
        """What a field serves as."""
        if self.roles is None:
            return units.UNKNOWN
        roles = ("flux", "bandpass", "phase", "target")
        return ", ".join(role for role in roles if field in getattr(self.roles, role)) or "not used"

    def time_on(self, field: int) -> float:
        """The seconds of all scans of a field."""
        return sum(scan.end - scan.start for scan in self.fact.scans if field in scan.fields)

    def fields_of(self, scan: Scan) -> str:
        """The names of the fields of a scan."""
        return ", ".join(self._names.get(number, str(number)) for number in scan.fields)


@dataclass(frozen=True)
class FlagTable:
    """Flagged fractions of an MS: after which stages, and for each thing its fraction after each of them."""

    vis: str
    after: tuple[str, ...]
    fields: list[tuple[str, list[float | None]]]
    antennas: list[tuple[str, list[float | None]]]


def _flag_tables(context: Context) -> list[FlagTable]:
    facts = context.all(FlagSummary)
    return [
        _flag_table(vis, [fact for fact in facts if fact.vis == vis])
        for vis in dict.fromkeys(fact.vis for fact in facts)
    ]


def _flag_table(vis: str, facts: Sequence[FlagSummary]) -> FlagTable:
    total: list[float | None] = [fact.total for fact in facts]
    return FlagTable(
        vis=vis,
        after=tuple(fact.after for fact in facts),
        fields=[("all", total), *_fractions([fact.fields for fact in facts])],
        antennas=_fractions([fact.antennas for fact in facts]),
    )


def _fractions(steps: Sequence[Mapping[str, float]]) -> list[tuple[str, list[float | None]]]:
    names = dict.fromkeys(name for step in steps for name in step)
    return [(name, [step.get(name) for step in steps]) for name in names]


@dataclass(frozen=True)
class FluxRow:
    """A calibrator in a spectral window: the flux density of its model and the measured one, in Jy."""

    vis: str
    name: str
    spectral_window: int
    model: FluxDensity | None
    measured: FluxDensity | None

    @property
    def ratio(self) -> float | None:
        """Measured over model."""
        if self.model is None or self.measured is None or self.model.flux == 0:
            return None
        return self.measured.flux / self.model.flux


def _flux_rows(context: Context) -> list[FluxRow]:
    facts = {(fact.vis, fact.name, fact.spectral_window, fact.kind): fact for fact in context.all(FluxDensity)}
    places = dict.fromkeys((vis, name, window) for vis, name, window, _ in facts)
    return [
        FluxRow(*place, model=facts.get((*place, "model")), measured=facts.get((*place, "measured")))
        for place in places
    ]


class ImageRow:
    """An image with its brightnesses in one handy unit."""

    def __init__(self, fact: Image) -> None:
        self.fact = fact
        self.factor, self.unit = units.flux_scale(fact.unit, fact.rms)

    def brightness(self, value: float | None, digits: int = 3) -> str:
        """A value of the image in `unit`."""
        return units.significant(None if value is None else value * self.factor, digits)

    @property
    def dynamic_range(self) -> str:
        """The maximum over the rms, which says something of a cleaned image only."""
        cleaned = self.fact.kind in ("cube", "continuum")
        return units.significant(self.fact.maximum / self.fact.rms if cleaned and self.fact.rms else None)


@dataclass(frozen=True)
class ProductRow:
    """A product and where it is, seen from the page."""

    fact: Product
    link: str


def _link(path: str, paths: SessionPaths) -> str:
    """A path of the working folder as a link that works wherever that folder is moved to."""
    return quote(os.path.relpath(paths.workdir / path, paths.weblog.parent))


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture with its content as a data URI (empty where the file is missing) and its size in pixels."""

    fact: Picture
    data: str
    width: int | None = None
    height: int | None = None


def _pictures(context: Context, paths: SessionPaths) -> dict[str, list[EmbeddedPicture]]:
    topics = ("observation", "flagging", "calibration", "image")
    found: dict[str, list[EmbeddedPicture]] = {topic: [] for topic in topics}
    for fact in context.all(Picture):
        found[fact.topic].append(_embed(fact, paths.workdir / fact.path))
    return found


def _embed(fact: Picture, path: Path) -> EmbeddedPicture:
    if not path.is_file():
        return EmbeddedPicture(fact, "")
    content = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    width, height = _png_size(content)
    return EmbeddedPicture(fact, f"data:{kind};base64,{base64.b64encode(content).decode()}", width, height)


def _png_size(content: bytes) -> tuple[int | None, int | None]:
    """Width and height, which let the page lay itself out before it has decoded the picture."""
    if not content.startswith(_PNG_SIGNATURE):
        return None, None
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
