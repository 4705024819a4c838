"""By MS: a page of each."""

from __future__ import annotations

from collections.abc import Iterator

from surgeline.context.records import CalibrationTable, Dataset
from surgeline.report.material import Material
from surgeline.report.observations import flag_tables, flux_rows
from surgeline.report.pages.page import Page

_OF_AN_MS = ("observation", "flagging")


def pages(material: Material) -> Iterator[Page]:
    """A page of each MS that was read."""
    flags = {table.vis: table for table in flag_tables(material.view)}
    for observation in material.observations:
        vis = observation.fact.vis
        own = [p for p in material.pictures if p.fact.vis == vis or (p.fact.vis is None and vis in p.fact.title)]
        yield Page(
            observation.file,
            observation.name,
            "ms.html",
            {
                "observation": observation,
                "pictures": [p for p in own if p.fact.topic in _OF_AN_MS and p.fact.antenna is None],
                "flag": flags.get(vis),
                "fluxes": [row for row in flux_rows(material.view) if row.vis == vis],
                "tables": [table for table in material.view.all(CalibrationTable) if table.vis == vis],
                "datasets": [fact for fact in material.view.all(Dataset) if vis in (fact.path, fact.parent)],
            },
            group="By MS",
        )
