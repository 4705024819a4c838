"""What pages show of an image: its numbers in a handy unit, its plan, its pictures, and what was made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from surgeline.context.records import Image, ImagePlan
from surgeline.context.view import View
from surgeline.report import units
from surgeline.report.names import image_file
from surgeline.report.pictures import LinkedPicture, file_name, planes


class ImageView:
    """An image that was made."""

    def __init__(self, number: int, fact: Image, plan: ImagePlan | None, pictures: Sequence[LinkedPicture]) -> None:
        """Take an image.

        Args:
            number: its place among the images, from 0.
            fact: the image.
            plan: how it was planned, if it was.
            pictures: those that show it.
        """
        self.fact = fact
        self.name = file_name(fact.stem)
        self.file = image_file(number, self.name)
        self.plan = plan
        self.pictures = pictures
        self.planes = planes(pictures)
        self.factor, self.unit = units.flux_scale(fact.unit, fact.rms)

    def of_kind(self, *kinds: str) -> list[LinkedPicture]:
        """Its pictures of these kinds."""
        return [picture for picture in self.pictures if picture.fact.kind in kinds]

    @property
    def main(self) -> LinkedPicture | None:
        """The picture that stands for it."""
        return next((p for p in self.pictures if p.fact.kind in ("image", "moment", None)), None)

    def brightness(self, value: float | None, digits: int = 3) -> str:
        """A value of the image in `unit`."""
        return units.significant(None if value is None else value * self.factor, digits)

    @property
    def dynamic_range(self) -> str:
        """The maximum over the rms, which says something of a cleaned image only."""
        cleaned = self.fact.kind in ("cube", "continuum")
        return units.significant(self.fact.maximum / self.fact.rms if cleaned and self.fact.rms else None)

    @property
    def bare_name(self) -> str:
        return file_name(self.fact.path)


def images_of(view: View, pictures: Iterable[LinkedPicture]) -> list[ImageView]:
    """All images, each with its pictures."""
    facts = view.all(Image)
    plans = {plan.name: plan for plan in view.all(ImagePlan)}
    stems = sorted({file_name(fact.stem) for fact in facts}, key=len, reverse=True)
    shown: dict[str, list[LinkedPicture]] = {stem: [] for stem in stems}
    for picture in pictures:
        # Before pictures named their subject, they were named after it.
        about = file_name(picture.fact.subject or picture.fact.path)
        stem = next((stem for stem in stems if about == stem or about.startswith(f"{stem}.")), None)
        if stem is not None and picture.fact.topic == "image":
            shown[stem].append(picture)
    return [
        ImageView(number, fact, plans.get(file_name(fact.stem)), shown[file_name(fact.stem)])
        for number, fact in enumerate(facts)
    ]


def made_of(image: ImageView, images: Iterable[ImageView]) -> list[ImageView]:
    """The images that were made of one, such as moments of a cube."""
    return [other for other in images if other is not image and other.name.startswith(f"{image.name}.")]
