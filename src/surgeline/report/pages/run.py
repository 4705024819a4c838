"""The run: who ran what when, what it cost, the graph, the environment, the commands and the logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgeline.context.attempts import read_environments
from surgeline.report import units
from surgeline.report.graph import draw_graph
from surgeline.report.material import Material
from surgeline.report.pages.page import Page
from surgeline.report.pictures import link
from surgeline.report.spread import spreads
from surgeline.report.timeline import draw


def pages(material: Material) -> Iterator[Page]:
    """The pages that tell of the run itself."""
    yield Page(
        "timeline.html",
        "Timeline",
        "timeline.html",
        {"timeline": draw(material.run, material.end, lambda stage, job: material.stages[stage].jobs[job].link)},
        group="The run",
    )
    yield Page(
        "graph.html",
        "Graph of stages",
        "graph.html",
        {
            "drawing": draw_graph({stage.name: stage.record["needs"] for stage in material.stages}),
            "stage_called": {stage.name: stage for stage in material.stages},
        },
        group="The run",
    )
    yield Page("cost.html", "Cost and resources", "cost.html", {"spreads": spreads(material.stages)}, group="The run")
    yield Page(
        "environment.html",
        "Environment",
        "environment.html",
        {"environments": _environments(material)},
        group="The run",
    )
    yield Page("commands.html", "Commands", "commands.html", {"script": material.script}, group="The run")
    yield Page("logs.html", "Logs", "logs.html", {"files": _log_files(material)}, group="The run")


def _environments(material: Material) -> list[tuple[str, list[tuple[str, str]]]]:
    """What jobs ran with: of each environment, names and values."""
    return [(name, list(_flat(body))) for name, body in read_environments(material.context).items()]


def _flat(body: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in body.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} · ")
        else:
            yield f"{above}{name}", _shown(value, above)


def _shown(value: Any, above: str) -> str:
    if above.startswith("memory") and isinstance(value, int):
        return units.size(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else units.UNKNOWN if value is None else str(value)


def _log_files(material: Material) -> list[tuple[str, str, str]]:
    """Name, link and size of each file of logs."""
    logs = material.paths.logs
    found = sorted(path for path in logs.rglob("*") if path.is_file() and path.suffix in (".log", ".out", ".err"))
    return [
        (
            str(path.relative_to(logs)),
            link(str(path.relative_to(material.paths.workdir)), material.paths),
            # It grows while the session runs; the page is not to be written anew for that.
            units.UNKNOWN if material.running else units.size(path.stat().st_size),
        )
        for path in found
    ]
