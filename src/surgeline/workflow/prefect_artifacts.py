"""What of a session is shown in Prefect as artifacts: tables of jobs and facts, pictures, and where the weblog is."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeline.clusters.accounting import Accounts
from surgeline.context.records import Fact, Picture, name_of
from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.report import units

# What a page still shows at once; all of it is in the weblog.
_MOST_ROWS = 200
_MOST_PICTURES = 40
_LARGEST_PICTURE_BYTES = 1_000_000
_LONGEST_TEXT = 300


@dataclass(frozen=True)
class Shown:
    """One artifact: its key (small letters, digits and dashes), Prefect's type of it, its data, and words to it."""

    key: str
    type: str
    data: Any
    description: str = ""


def key(*words: str) -> str:
    """The key of an artifact, from any words."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") or "unnamed"


def of_stage(stage: Mapping[str, Any], facts: Sequence[Fact], recipe: str) -> list[Shown]:
    """What is shown of a stage that has ended.

    Args:
        stage: what `run.json` says of it.
        facts: what it has committed.
        recipe: the recipe's name, by which keys begin.
    """
    name = stage["name"]
    shown = [Shown(key(recipe, name, "summary"), "markdown", _stage_summary(stage, facts), f"stage {name}")]
    if stage["jobs"]:
        # Those that failed, then those that took longest.
        jobs = sorted(stage["jobs"], key=lambda job: (job["state"] == "finished", -_seconds(job)))
        rows = [_job_row(job) for job in jobs[:_MOST_ROWS]]
        shown.append(Shown(key(recipe, name, "jobs"), "table", rows, _of(len(rows), len(jobs), "job", name)))
    facts = [fact for fact in facts if not (isinstance(fact, Picture) and fact.one_of_many)]
    if facts:
        rows = [{"fact": name_of(type(fact)), "says": _cut(fact.model_dump_json())} for fact in facts[:_MOST_ROWS]]
        shown.append(Shown(key(recipe, name, "facts"), "table", rows, _of(len(rows), len(facts), "fact", name)))
    return shown


def of_session(record: Mapping[str, Any], paths: SessionPaths) -> list[Shown]:
    """What is shown of a session that has ended: its stages, what its workers cost, and where its weblog is.

    Args:
        record: what `run.json` says.
        paths: of its working folder.
    """
    recipe = record["recipe"]["name"]
    weblog = f"the weblog, {paths.weblog} on {record['host']}"
    shown = [
        Shown(key(recipe, "summary"), "markdown", _session_summary(record, paths), f"session of recipe {recipe}")
    ]
    if paths.weblog.is_file():
        shown.append(Shown(key(recipe, "weblog"), "markdown", f"[{weblog}]({paths.weblog.as_uri()})", weblog))
    return shown


def pictures(context: Context, paths: SessionPaths, recipe: str) -> list[tuple[str, Shown]]:
    """The pictures that there are, each with the name of its stage; of many, of large ones, and of single planes and
    antennas, the weblog's have to do."""
    found = []
    for said in context.holding(context.version, name_of(Picture)):
        picture = context.fact(said, Picture)
        path = paths.workdir / picture.path
        if picture.one_of_many:
            continue
        if path.is_file() and path.stat().st_size <= _LARGEST_PICTURE_BYTES:
            title = f"{picture.title}: {picture.caption}"
            found.append((said.stage, Shown(key(recipe, Path(picture.path).stem), "image", _data_uri(path), title)))
    return found[:_MOST_PICTURES]


def facts_of(stage: str, context: Context) -> list[Fact]:
    """What the last commit of a stage said."""
    commits = [commit for commit in context.log() if commit.stage == stage and commit.withdrawn_by is None]
    if not commits:
        return []
    return [context.fact(said) for said in context.said_by(commits[-1].version) if said.body]


def _stage_summary(stage: Mapping[str, Any], facts: Sequence[Fact]) -> str:
    jobs = stage["jobs"]
    failed = sum(job["state"] == "failed" for job in jobs)
    lost = sum(len(job["losses"]) for job in jobs)
    rows = {
        "task": stage["task"],
        "state": stage["state"],
        "arguments": ", ".join(f"{name} = {value!r}" for name, value in stage["arguments"].items()),
        "cluster": stage["cluster"],
        "needs": ", ".join(stage["needs"]),
        "jobs": f"{len(jobs)}" + (f", {failed} failed" if failed else ""),
        "workers lost": str(lost or ""),
        "time of its jobs": units.duration(sum(map(_seconds, jobs))),
        "largest memory of a job": units.size(max((job["peak_memory"] or 0 for job in jobs), default=0)),
        "facts": str(len(facts)),
        "error": stage["error"] or "",
    }
    return "\n".join(
        ["| | |", "| --- | --- |", *(f"| {name} | {_cell(text)} |" for name, text in rows.items() if text)]
    )


def _session_summary(record: Mapping[str, Any], paths: SessionPaths) -> str:
    lines = [f"`{paths.workdir}` on {record['host']}", ""]
    lines += ["| stage | task | state | jobs | time |", "| --- | --- | --- | ---: | ---: |"]
    for stage in record["stages"]:
        took = stage["ended"] - stage["started"] if stage["started"] and stage["ended"] else None
        cells = (stage["name"], stage["task"], stage["state"], str(len(stage["jobs"])), units.duration(took))
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    lines += ["", *(f"- observation {vis}" for vis in record["recipe"].get("vis") or ())]
    if record["accounts"]:
        lines.append(f"- workers: {Accounts.from_json(record['accounts'])}")
    if record["error"]:
        lines += ["", "**" + str(record["error"]).partition("\n")[0] + "**"]
    return "\n".join(lines)


def _job_row(job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "job": job["name"],
        "state": job["state"],
        "seconds": round(_seconds(job), 2),
        "host": job["host"],
        "worker": job["worker"],
        "memory": units.size(job["peak_memory"] or 0),
        "workers lost": len(job["losses"]),
        "error": _cut(job["failure"]["message"]) if job["failure"] else "",
    }


def _of(shown: int, number: int, noun: str, stage: str) -> str:
    return f"{units.plural(number, noun)} of stage {stage}" + (f", {shown} of them here" if shown < number else "")


def _seconds(job: Mapping[str, Any]) -> float:
    return float(job["ended"] - job["started"]) if job["started"] and job["ended"] else 0.0


def _data_uri(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _cell(text: str) -> str:
    return _cut(text).replace("|", "\\|").replace("\n", " ")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"
