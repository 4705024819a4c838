"""By stage: an overview, and a page of each stage."""

from __future__ import annotations

from collections.abc import Iterator

from surgeline.paths import casa_log
from surgeline.report.material import Material
from surgeline.report.pages.page import Page
from surgeline.report.pictures import link, overviews
from surgeline.report.stageview import StageView


def pages(material: Material) -> Iterator[Page]:
    """The overview, and a page of each stage."""
    yield Page("stages.html", "Stages", "stages.html", {}, group="By stage", label="All stages")
    for number, stage in enumerate(material.stages):
        yield Page(
            stage.file,
            stage.name,
            "stage.html",
            {
                "stage": stage,
                "scores": material.scores[stage.name],
                "pictures": overviews(p for p in material.pictures if p.stage == stage.name),
                "details": sum(p.stage == stage.name and p.fact.one_of_many for p in material.pictures),
                "logs": _logs(stage, material),
                "account": material.accounts.stages.get(stage.name) if material.accounts else None,
                "before": material.stages[number - 1] if number else None,
                "after": material.stages[number + 1] if number + 1 < len(material.stages) else None,
                "files": {other.name: other.file for other in material.stages},
            },
            group="By stage",
            label=f"{number + 1}. {stage.name}",
            stage=stage.name,
        )


def _logs(stage: StageView, material: Material) -> list[tuple[str, str]]:
    """The whole logs of the workers that had its jobs, each with a link."""
    paths = [(worker, casa_log(material.paths.logs, worker)) for worker in stage.workers]
    return [
        (worker, link(str(path.relative_to(material.paths.workdir)), material.paths))
        for worker, path in paths
        if path.is_file()
    ]
