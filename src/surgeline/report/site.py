"""All pages of the weblog."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from surgeline.report.material import Material
from surgeline.report.pages import home, images, observations, provenance, run, stages, topics
from surgeline.report.pages.page import Page

_PARTS = (home, topics, images, stages, observations, run, provenance)


def all_pages(material: Material) -> Iterator[Page]:
    """The pages in the order of the menu."""
    return chain.from_iterable(part.pages(material) for part in _PARTS)
