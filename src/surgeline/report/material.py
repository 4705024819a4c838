"""All that pages are made from: a session's record, its facts and its files, read once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from surgeline.clusters.accounting import Accounts
from surgeline.context.records import Image, Observation, PipelineStage, Project, name_of
from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.report.imageview import ImageView, images_of
from surgeline.report.observations import ObservationView
from surgeline.report.pictures import LinkedPicture, link, pictures_of
from surgeline.report.scores import Score, lowest, scores_of
from surgeline.report.script import commands_script
from surgeline.report.stageview import JobView, StageView, noteworthy
from surgeline.report.timeline import RunningTime

_NO_RECORD: Mapping[str, Any] = {
    "surgeline": "", "versions": {}, "host": "", "platform": "", "cores": None, "workdir": "", "backend": "",
    "workers": None, "recipe": {}, "started": None, "ended": None, "state": "unknown", "error": None,
    "accounts": None, "sessions": (), "stages": (), "states": None,
}  # fmt: skip
_NO_RECIPE: Mapping[str, Any] = {"name": "unnamed recipe", "description": "", "vis": (), "stages": ()}


@dataclass(frozen=True)
class Totals:
    """The few numbers that sum a session up."""

    elapsed: float
    stages: int
    finished: int
    jobs: int
    at_once: float | None
    cpu_seconds: float
    peak_memory: int
    failed_stages: int
    failed_jobs: int
    losses: int
    severe: int
    warn: int

    @property
    def serious(self) -> int:
        """CASA warns of so much that a count with its WARN lines would say nothing."""
        return self.failed_stages + self.failed_jobs + self.losses + self.severe


class Material:
    """What is known of a session at one moment."""

    def __init__(self, paths: SessionPaths, record: Mapping[str, Any], context: Context) -> None:
        """Read it.

        Args:
            paths: of the session.
            record: what `run.json` says of it.
            context: what its stages committed.
        """
        self.paths = paths
        self.context = context
        self.view = context.at()
        self.run = {**_NO_RECORD, **record}
        self.run["recipe"] = {**_NO_RECIPE, **self.run["recipe"]}
        self.running = self.run["state"] == "running"
        self.end: float = self.run["ended"] or (time.time() if self.running else last_moment(self.run))
        self.stages = [
            StageView(number, stage, self.view, self.end) for number, stage in enumerate(self.run["stages"])
        ]
        self.observations = [
            ObservationView(number, fact, self.view) for number, fact in enumerate(self.view.all(Observation))
        ]
        self.project = self.view.last(Project)
        self.pictures: list[LinkedPicture] = pictures_of(context, self.view.version, paths)
        self.images: list[ImageView] = images_of(self.view, self.pictures)
        self._made = [(said.stage, context.fact(said, Image)) for said in self._images_said()]

    def _images_said(self) -> Sequence[Any]:
        return self.context.holding(self.view.version, name_of(Image))

    @cached_property
    def pipeline_weblog(self) -> str:
        """A link to the CASA Pipeline's own weblog, where its tasks have run; else empty."""
        pages = [stage.weblog for stage in self.view.all(PipelineStage) if stage.weblog]
        return link(pages[-1], self.paths) if pages else ""

    @cached_property
    def jobs(self) -> list[JobView]:
        """All jobs, stage by stage."""
        return [job for stage in self.stages for job in stage.jobs]

    @cached_property
    def noteworthy(self) -> dict[JobView, None]:
        """Those of all jobs that a page tells of one by one."""
        return noteworthy(self.jobs)

    @cached_property
    def scores(self) -> dict[str, list[Score]]:
        """The scores of each stage by its name, the worst first."""
        made = {stage.name: [image.path for name, image in self._made if name == stage.name] for stage in self.stages}
        return {stage.name: scores_of(stage, self.view, made[stage.name]) for stage in self.stages}

    def score(self, stage: StageView) -> Score | None:
        """The one score that stands for a stage."""
        return lowest(self.scores[stage.name])

    @cached_property
    def script(self) -> str:
        """What plain CASA runs for the same products."""
        return commands_script(self.run, self.view)

    @cached_property
    def accounts(self) -> Accounts | None:
        """What the workers cost; None where nobody wrote it down, or nothing was asked for."""
        # A run of an earlier version of Surgeline, or one that was killed early.
        with suppress(ValueError, TypeError):
            accounts = Accounts.from_json(self.run["accounts"])
            return accounts if accounts.total.asked else None
        return None

    @cached_property
    def totals(self) -> Totals:
        """The session in a few numbers."""
        elapsed = RunningTime(self.run, self.end).total
        job_seconds = sum(stage.job_seconds for stage in self.stages)
        return Totals(
            elapsed=elapsed,
            stages=len(self.stages),
            finished=sum(stage.state == "finished" for stage in self.stages),
            jobs=len(self.jobs),
            at_once=job_seconds / elapsed if elapsed else None,
            cpu_seconds=sum(stage.cpu_seconds for stage in self.stages),
            peak_memory=max((stage.peak_memory for stage in self.stages), default=0),
            failed_stages=sum(stage.state == "failed" for stage in self.stages),
            failed_jobs=sum(len(stage.failed_jobs) for stage in self.stages),
            losses=sum(len(stage.losses) for stage in self.stages),
            severe=sum(stage.count("SEVERE") for stage in self.stages),
            warn=sum(stage.count("WARN") for stage in self.stages),
        )


def last_moment(run: Mapping[str, Any]) -> float:
    """The latest time in the record of a run that ended without saying when."""
    moments = [run["started"]]
    for stage in run["stages"]:
        moments += [stage.get("started"), stage.get("ended")]
        moments += [job.get("ended") for job in stage.get("jobs", ())]
    return max((float(moment) for moment in moments if moment), default=0.0)
