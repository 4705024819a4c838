"""Two sessions side by side: what they did otherwise, and whether it came to the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from surgeline.config import load
from surgeline.context.records import Decision, Product
from surgeline.context.store import Context
from surgeline.errors import WorkfolderError
from surgeline.paths import SessionPaths
from surgeline.report.imageview import ImageView
from surgeline.report.material import Material
from surgeline.report.pages.page import Page
from surgeline.report.pictures import LinkedPicture, overviews
from surgeline.report.rendering import render, templates, write_changed, write_static
from surgeline.report.stageview import StageView

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Pair(Generic[Thing]):
    """What two sessions have of the same name; None where one has none."""

    name: str
    left: Thing | None
    right: Thing | None

    @property
    def equal(self) -> bool:
        return self.left == self.right


def write_comparison(left: SessionPaths, right: SessionPaths, output: Path) -> Path:
    """Write a page that shows two sessions side by side.

    It shows stages with their times, arguments and decisions that differ, products with equal or different digests,
    and images with their rms, maximum and pictures, which are copied, so that the folder can be moved.

    Args:
        left, right: two working folders; their sessions may still run.
        output: a folder, made where it is missing.

    Returns:
        the path of the page in it.

    Raises:
        WorkfolderError: one of the folders holds no session.
        ContextError: what a session knows cannot be read.
        OSError: the output cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    with closing(_open(left)) as left_context, closing(_open(right)) as right_context:
        one = Material(left, _record(left), left_context)
        other = Material(right, _record(right), right_context)
        values = {
            "sides": (one, other),
            "stages": _pairs(_stages(one), _stages(other)),
            "arguments": _differing(_arguments(one), _arguments(other)),
            "decisions": _differing(_decisions(one), _decisions(other)),
            "products": _pairs(_products(one), _products(other)),
            "images": _pairs(_images(one), _images(other)),
            "pictures": _pictures(one, other, output),
            "versions": _pairs(one.run["versions"], other.run["versions"]),
        }
        page = Page("index.html", "Comparison", "comparison.html")
        run = {"state": "compared", "recipe": {"name": f"{left.workdir.name} and {right.workdir.name}"}}
        text, _ = render(templates(), page.template, {"page": page, "run": run, "m": one, **values})
    write_static(output)
    write_changed(output / page.file, text)
    return output / page.file


def _record(paths: SessionPaths) -> dict[str, Any]:
    try:
        content = json.loads(paths.record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkfolderError(
            f"{paths.workdir} holds no record of a session", "name a working folder in which one ran"
        ) from error
    return dict(content)


def _open(paths: SessionPaths) -> Context:
    """What a folder's session knows, to be read only: in its own file, or in the database that is configured."""
    with suppress(OSError):
        identifier = paths.identifier.read_text(encoding="utf-8").strip()
        url = load(paths.workdir).settings.context.url
        if url is not None:
            return Context(url, identifier, read_only=True)
    if not paths.context.is_file():
        raise WorkfolderError(f"{paths.workdir} holds no session", "name a working folder in which one ran")
    return Context(paths.context, read_only=True)


def _pairs(left: Mapping[str, Thing], right: Mapping[str, Thing]) -> list[Pair[Thing]]:
    """Those of both by name, in the order of the left one, then what only the right one has."""
    return [Pair(name, left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]


def _differing(left: Mapping[str, Thing], right: Mapping[str, Thing]) -> list[Pair[Thing]]:
    return [pair for pair in _pairs(left, right) if not pair.equal]


def _stages(material: Material) -> dict[str, StageView]:
    return {stage.name: stage for stage in material.stages}


def _arguments(material: Material) -> dict[str, str]:
    """The arguments that the recipe gives, by stage and name; and the task of each stage."""
    found = {f"{stage.name}: task": str(stage.record["task"]) for stage in material.stages}
    for stage in material.stages:
        found |= {f"{stage.name}: {name}": repr(value) for name, value in stage.record["arguments"].items()}
    return found


def _decisions(material: Material) -> dict[str, tuple[str, str]]:
    """Value and reason of each decision, by its stage and what it is about."""
    facts = material.view.all(Decision)
    return {f"{fact.stage}: {fact.what}": (fact.value, fact.reason) for fact in facts}


def _products(material: Material) -> dict[str, Product]:
    return {fact.path: fact for fact in material.view.all(Product)}


def _images(material: Material) -> dict[str, ImageView]:
    return {image.fact.path: image for image in material.images}


def _pictures(left: Material, right: Material, output: Path) -> list[Pair[LinkedPicture]]:
    """The overviews of images and calibration that both have, as copies in the output's folder."""
    sides = [_shown(material, output, side) for material, side in ((left, "left"), (right, "right"))]
    return [pair for pair in _pairs(*sides) if pair.left and pair.right]


def _shown(material: Material, output: Path, side: str) -> dict[str, LinkedPicture]:
    found = {}
    for picture in overviews(_worth_comparing(material.pictures)):
        copy = output / side / Path(picture.fact.path).name
        with suppress(OSError):
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(material.paths.workdir / picture.fact.path, copy)
            link = f"{side}/{copy.name}"
            found[picture.fact.path] = LinkedPicture(picture.fact, picture.stage, link, picture.width, picture.height)
    return found


def _worth_comparing(pictures: Iterable[LinkedPicture]) -> Sequence[LinkedPicture]:
    return [picture for picture in pictures if picture.fact.topic in ("image", "calibration") and picture.link]
