"""The images of a continuum whose major cycles run on parts of its rows, and CASA's imager of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeline.imaging.products import parts_folder
from surgeline.imaging.synthesis import Arguments, Record, imager_parameters, opened
from surgeline.work.ownfolder import own_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What parts make at each of their steps. Images of Taylor terms have a further ending, such as .tt0.
DENSITY, PSF, RESIDUAL = ("gridwt",), ("psf", "sumwt", "weight"), ("residual",)
# What all parts share.
START, MODEL, SHARED_DENSITY = "start", "model", "density"
# Rows of pixels that are added up at a time.
_SLAB = 256


def part_stem(arguments: Arguments, label: str, number: int) -> str:
    """How the names begin of what a part, or all parts, have of an image; the main one has number 0."""
    return f"{parts_folder(arguments)}/{label}.{number}"


def continuum_parameters(arguments: Arguments, begun: bool = False, saving: bool = False) -> Any:
    """CASA's parameters of a continuum; what it was begun with is on disk once it is begun."""
    own = {**arguments, "specmode": "mfs", "perchanweightdensity": False, "parallel": False}
    if not saving:
        own["savemodel"] = "none"
    parameters = imager_parameters(own)
    for number in parameters.alldecpars:
        parameters.alldecpars[number]["startmodel"] = ""
        if begun:
            parameters.alldecpars[number]["mask"] = ""
            parameters.allimpars[number]["startmodel"] = ""
    return parameters


def stems_of(parameters: Any) -> list[str]:
    """The names of all images, the main one first."""
    images = parameters.getImagePars()
    return [images[str(number)]["imagename"] for number in range(len(images))]


@contextmanager
def imager_tools(parameters: Any, gathering: Sequence[Sequence[str]] = ()) -> Iterator[Any]:
    """CASA's imager without any tool as yet; those that it gets end with the block.

    Args:
        parameters: CASA's.
        gathering: for each image the names of those that its normalizer adds up.
    """
    imager = new_imager(parameters, gathering)
    with own_folder(stems_of(parameters)[0]):
        try:
            yield imager
        finally:
            imager.deleteTools()


def new_imager(parameters: Any, gathering: Sequence[Sequence[str]] = ()) -> Any:
    """CASA's imager without any tool as yet; for `gathering` see `imager_tools`."""
    from casatasks.private.imagerhelpers.imager_base import PySynthesisImager

    imager = PySynthesisImager(params=parameters)
    for number, names in enumerate(gathering):
        imager.allnormpars[str(number)]["partimagenames"] = list(names)
    return imager


def add_images(paths: Sequence[Path], total: Path) -> None:
    """Add images up, in the order given."""
    partial = total.with_name(f"partial-{total.name}")
    copy_image(paths[0], partial)
    with opened(partial) as tool:
        for path in paths[1:]:
            with opened(path) as other:
                for blc, trc in slabs(tool.shape()):
                    tool.putchunk(tool.getchunk(blc, trc) + other.getchunk(blc, trc), blc)
    shutil.rmtree(total, ignore_errors=True)
    partial.rename(total)


def set_pixels(path: Path, source: Path) -> None:
    """Give an image the pixels of another; where there is none, make it."""
    with opened(source) as other:
        if not path.is_dir():
            other.subimage(str(path)).done()
            return
        with opened(path) as tool:
            for blc, trc in slabs(tool.shape()):
                tool.putchunk(other.getchunk(blc, trc), blc)


def read_pixels(path: Path) -> NDArray[Any]:
    """All pixels of an image."""
    with opened(path) as tool:
        pixels: NDArray[Any] = tool.getchunk()
        return pixels


def write_pixels(path: Path, pixels: NDArray[Any], coordinates: Record) -> None:
    """Make an image of such pixels and coordinates; what there is of the name is replaced."""
    from casatools import image

    shutil.rmtree(path, ignore_errors=True)
    with closing(image()) as tool:
        tool.fromarray(str(path), pixels, dict(coordinates))


def take_header(path: Path, source: Path) -> None:
    """Give an image what CASA has noted with another beside its coordinates: the object, the telescope."""
    from casatools import table

    with closing(table()) as tool:
        tool.open(str(source))
        noted = {name: tool.getkeyword(name) for name in ("imageinfo", "miscinfo")}
        tool.open(str(path), nomodify=False)
        for name, record in noted.items():
            tool.putkeyword(name, record)


def copy_image(path: Path, outfile: Path) -> None:
    """Copy an image; what there is of the name is replaced."""
    shutil.rmtree(outfile, ignore_errors=True)
    shutil.copytree(path, outfile)


def slabs(shape: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Corners of slabs that together are an image."""
    last = [int(size) - 1 for size in shape]
    for first in range(0, last[1] + 1, _SLAB):
        yield [0, first, *(0 for _ in last[2:])], [last[0], min(first + _SLAB - 1, last[1]), *last[2:]]
