"""Images: an overview, and a page of each with its planes, spectra, moments and residual."""

from __future__ import annotations

from collections.abc import Iterator

from surgeline.context.records import ImagePlan
from surgeline.report.imageview import made_of
from surgeline.report.material import Material
from surgeline.report.pages.page import Page
from surgeline.report.pictures import overviews


def pages(material: Material) -> Iterator[Page]:
    """The overview, and a page of each image."""
    shown = {picture.fact.path for image in material.images for picture in image.pictures}
    pictures = [p for p in overviews(material.pictures) if p.fact.topic == "image"]
    made = {image.name for image in material.images}
    yield Page(
        "images.html",
        "Images",
        "images.html",
        {
            "others": [picture for picture in pictures if picture.fact.path not in shown],
            "planned": [plan for plan in material.view.all(ImagePlan) if plan.name not in made],
        },
        group="By topic",
    )
    for image in material.images:
        derived = made_of(image, material.images)
        own = {picture.fact.path for other in derived for picture in other.pictures}
        mine = [picture for picture in image.pictures if picture.fact.path not in own]
        yield Page(
            image.file,
            image.bare_name,
            "image.html",
            {
                "image": image,
                "derived": derived,
                "main": [p for p in mine if p.fact.kind in ("image", "moment", None)],
                "residuals": [p for p in mine if p.fact.kind == "residual"],
                "spectra": [p for p in mine if p.fact.kind == "spectrum"],
            },
            parent="images.html",
        )
