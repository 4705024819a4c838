"""Export: FITS files of every image, and a manifest with their checksums."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import surgeline
from surgeline.context.records import CalibrationTable, Command, Fact, Image, Observation, Product
from surgeline.errors import DataError
from surgeline.paths import partial, product, write_text
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall, JobRequest
from surgeline.work.procedure import Procedure

_BLOCK = 1 << 20
# Characters of a text that a FITS header's card has room for.
_CARD = 68


class Parameters(StageParameters):
    """How to export.

    Attributes:
        velocity: spectral axis as velocity (radio convention) rather than frequency.
    """

    velocity: bool = False


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Export each image by its own job, then write the manifest."""
    images = stage.known(Image)
    if not images:
        raise DataError("there is no image to export", "put make_images before export in the recipe")
    observations = stage.known(Observation)
    cards = _cards(observations)
    paths = {found.path: product(f"{found.path.rpartition('/')[2].removesuffix('.image')}.fits") for found in images}
    exported = yield [
        FunctionCall(
            export_fits, found.path, paths[found.path], parameters.velocity, {**cards, "OBJECT": found.field}
        ).declare(name=f"export {paths[found.path]}", reads=[found.path], writes=[paths[found.path]])
        for found in images
    ]
    products = [
        Product(path=paths[found.path], kind=found.kind, size=size, sha256=checksum)
        for found, (size, checksum) in zip(images, exported, strict=True)
    ]
    manifest = {
        "surgeline": surgeline.__version__,
        "observations": [{"vis": seen.vis, "origin": seen.origin} for seen in observations],
        "calibration": [table.path for table in stage.known(CalibrationTable)],
        "products": [found.model_dump() for found in products],
    }
    path = product("manifest.json")
    yield [FunctionCall(write_manifest, manifest, path).declare(name="write manifest", writes=[path])]
    commands = [
        Command(
            stage=stage.name,
            text=JobRequest("exportfits", _arguments(path, fits, parameters.velocity)).command(),
        )
        for path, fits in paths.items()
    ]
    return [*products, *commands]


def export_fits(image: str, path: str, velocity: bool, cards: dict[str, str]) -> tuple[int, str]:
    """Write an image as FITS; it appears under its name when whole. Runs on a worker.

    Args:
        cards: header cards that CASA does not fill by itself, such as OBJECT.

    Returns:
        the file's size in bytes and its SHA-256.
    """
    from astropy.io import fits
    from casatasks import exportfits
    from casatools import image as image_tool

    unfinished = partial(path)
    # Of a cube that is joined by reference CASA reads row by row; a real copy is exported 200 times as quickly.
    with tempfile.TemporaryDirectory(prefix="export-", dir="images") as folder:
        copy = f"{folder}/copy"
        with closing(image_tool()) as tool:
            tool.open(image)
            tool.subimage(copy).done()
        _fit_into_cards(copy)
        exportfits(**_arguments(copy, str(unfinished), velocity), overwrite=True)
    with fits.open(unfinished, mode="update") as opened:
        for name, value in cards.items():
            # FITS knows no other characters.
            opened[0].header[name] = re.sub(r"[^ -~]", "?", value)
        opened[0].header.add_history(f"Made by Surgeline {surgeline.__version__} from {image}")
    checksum = hashlib.sha256()
    with unfinished.open("rb") as handle:
        while block := handle.read(_BLOCK):
            checksum.update(block)
    size = unfinished.stat().st_size
    unfinished.rename(path)
    return size, checksum.hexdigest()


def _fit_into_cards(image: str) -> None:
    """Shorten what CASA itself would write to the header: it fails where a text, as of many observers, is longer than
    a card. All of it is in the cards that follow."""
    from casatools import image as image_tool
    from casatools import table

    with closing(image_tool()) as tool:
        tool.open(image)
        coordinates = tool.coordsys()
        if len(coordinates.observer().encode()) > _CARD:
            coordinates.setobserver("")
            tool.setcoordsys(coordinates.torecord())
        coordinates.done()
    with closing(table()) as keywords:
        keywords.open(image, nomodify=False)
        said = keywords.getkeyword("imageinfo")
        if len(said.get("objectname", "").encode()) > _CARD:
            keywords.putkeyword("imageinfo", {**said, "objectname": ""})


def write_manifest(manifest: dict[str, Any], path: str) -> None:
    """Write the list of products, whole or not at all. Runs on a worker."""
    write_text(Path(path), json.dumps(manifest, indent=2) + "\n")


def _arguments(image: str, path: str, velocity: bool) -> dict[str, Any]:
    return {"imagename": image, "fitsimage": path, "velocity": velocity, "optical": False, "history": False}


def _cards(observations: list[Observation]) -> dict[str, str]:
    """What all observations of the session agree on."""
    cards = {}
    for name, values in (
        ("OBSERVER", {seen.observer for seen in observations}),
        ("PROJECT", {seen.project for seen in observations}),
    ):
        if len(values) == 1 and (value := values.pop()):
            cards[name] = value
    return cards
