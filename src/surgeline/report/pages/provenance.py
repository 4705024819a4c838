"""Provenance: products with their digests, and all that led to each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from surgeline.context.lineage import Lineage, lineage
from surgeline.context.records import Product
from surgeline.errors import ContextError
from surgeline.report.material import Material
from surgeline.report.pages.page import Page
from surgeline.report.pictures import link

# Each takes a tenth of a second or more to find out; all are told by `surgeline context lineage`.
_MOST_LINEAGES = 30


def pages(material: Material) -> Iterator[Page]:
    """One page with all products."""
    products = material.view.all(Product)
    yield Page(
        "provenance.html",
        "Provenance",
        "provenance.html",
        {
            "products": [(number, fact, link(fact.path, material.paths)) for number, fact in enumerate(products, 1)],
            # What led to them is told when all is there, so that it takes nothing from a session that runs.
            "lineages": {} if material.running else _lineages(material, products),
            "commits": material.context.log(),
            "files": {stage.name: stage.file for stage in material.stages},
        },
        group="The run",
    )


def _lineages(material: Material, products: list[Product]) -> dict[str, Lineage]:
    found: dict[str, Lineage] = {}
    for product in products[:_MOST_LINEAGES]:
        # A product of a stage that recorded nothing has no lineage.
        with suppress(ContextError):
            found[product.path] = lineage(material.context, product.path, material.paths.workdir)
    return found
