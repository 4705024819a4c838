"""By topic: what was observed, flags, calibration."""

from __future__ import annotations

from collections.abc import Iterator

from surgeline.context.records import CalibrationApplication, CalibrationTable, Dataset
from surgeline.report.material import Material
from surgeline.report.observations import flag_tables, flux_rows
from surgeline.report.pages.page import Page
from surgeline.report.pictures import LinkedPicture, grouped

_KINDS = {"B": "bandpass", "G": "gains", "P": "phases", "F": "gains scaled to flux"}


def pages(material: Material) -> Iterator[Page]:
    """The pages of the topics but for images."""

    def of_topic(topic: str) -> list[LinkedPicture]:
        return [picture for picture in material.pictures if picture.fact.topic == topic]

    observed = [p for p in of_topic("observation") if p.fact.antenna is None]
    yield Page(
        "observation.html",
        "Observation",
        "observation.html",
        {"pictures": grouped(observed, lambda p: p.fact.vis or ""), "datasets": material.view.all(Dataset)},
        group="By topic",
    )
    yield Page(
        "flags.html",
        "Flags",
        "flags.html",
        {"tables": flag_tables(material.view), "pictures": of_topic("flagging")},
        group="By topic",
    )
    calibration = of_topic("calibration")
    tables = material.view.all(CalibrationTable)
    known = {table.path for table in tables}
    yield Page(
        "calibration.html",
        "Calibration",
        "calibration.html",
        {
            "fluxes": flux_rows(material.view),
            "tables": [
                (number, table, [p for p in calibration if p.fact.subject == table.path])
                for number, table in enumerate(tables, 1)
            ],
            "others": grouped(
                [p for p in calibration if p.fact.subject not in known], lambda p: p.fact.subject or ""
            ),
            "applied": material.view.all(CalibrationApplication),
            "flags": flag_tables(material.view),
            "kinds": _KINDS,
        },
        group="By topic",
    )
