"""Home: what was observed, how it went, and what came of it; warnings first."""

from __future__ import annotations

from collections.abc import Iterator

from surgeline.context.records import Product
from surgeline.report.material import Material
from surgeline.report.pages.page import Page
from surgeline.report.pictures import link, overviews

_RESULTS = ("image", "moment", None)


def pages(material: Material) -> Iterator[Page]:
    """The page on which one arrives."""
    images = [picture for picture in overviews(material.pictures) if picture.fact.topic == "image"]
    pages_of = {picture.fact.path: image.file for image in material.images for picture in image.pictures}
    yield Page(
        "index.html",
        "Home",
        "home.html",
        {
            "results": [picture for picture in images if picture.fact.kind in _RESULTS],
            "page_of": pages_of,
            "products": [(fact, link(fact.path, material.paths)) for fact in material.view.all(Product)],
        },
        group="",
    )
