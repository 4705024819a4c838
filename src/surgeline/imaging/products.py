"""The files of an image: what tclean calls its products, and how they are taken away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# All that tclean may leave of an image, and what its parallel ranks leave.
PRODUCTS = ("psf", "sumwt", "weight", "residual", "gridwt", "model", "mask", "prev.mask", "pb", "image",
            "image.pbcor", "alpha", "alpha.error", "alpha.pbcor", "beta", "workdirectory", "gridwt_temp")  # fmt: skip


def product(arguments: Mapping[str, Any], kind: str) -> str:
    """The name of a product of tclean, such as image, residual or image.pbcor; of several Taylor terms the first."""
    first, *others = kind.split(".")
    term = ["tt0"] if arguments.get("deconvolver") == "mtmfs" else []
    return ".".join((str(arguments["imagename"]), first, *term, *others))


def parts_folder(arguments: Mapping[str, Any]) -> str:
    """Where parts keep their images until the whole is ready."""
    return f"{arguments['imagename']}.parts"


def endings(kind: str) -> list[str]:
    """How an image of some kind may end, with Taylor terms and without; `image.pbcor` is `image.tt0.pbcor`."""
    first, *others = kind.split(".")
    return [".".join(("", first, *term, *others)) for term in ((), *((f"tt{number}",) for number in range(8)))]


def images_named(stem: str, kinds: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The images of some kinds that there are of a name, and what follows the name."""
    for kind in kinds:
        for ending in endings(kind):
            if Path(stem + ending).is_dir():
                yield Path(stem + ending), ending


def remove_images(stem: str) -> None:
    """Remove what there is of an image, by the whole names: an MS or a mask may begin as they do."""
    for kind in PRODUCTS:
        for ending in endings(kind):
            remove(Path(stem + ending))


def remove(path: Path) -> None:
    """Take a file, an image or a link to one away, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
