"""The planes of a part of a cube on disk: those to be cleaned, what neighbours give each other, what is joined."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeline.imaging.products import remove
from surgeline.imaging.synthesis import opened

# Of a cube's images, those that parts are restored from, and all of which parts are joined.
TRIMMED = ("residual", "model", "psf", "pb", "weight", "mask", "sumwt")
JOINED = ("image", "image.pbcor", *TRIMMED)
# Planes are moved between images as many at a time as are stored together, of so many pixels at most.
_PIXELS_AT_ONCE = 8_000_000


@dataclass(frozen=True)
class Part:
    """A channel range of a cube.

    tclean interpolates the model between neighbouring channels when it predicts visibilities, so a part carries
    *guard* channels beyond its own: they are gridded, never cleaned, and given the neighbour's model.

    Attributes:
        arguments: tclean's, for the whole cube.
        imagename: the stem of the part's own images.
        first: its first own channel, counted from the first of the cube.
        channels: how many channels are its own.
        guards: how many guard channels come before and after its own.
        neighbours: the image names of the parts before and after it, or empty.
        run: what tells the imagers that workers keep for this cube from others.
    """

    arguments: Mapping[str, Any]
    imagename: str
    first: int
    channels: int
    guards: tuple[int, int]
    neighbours: tuple[str, str]
    run: str

    @property
    def own(self) -> slice:
        """The part's own planes among all that are gridded."""
        return slice(self.guards[0], self.guards[0] + self.channels)

    @property
    def gridded(self) -> int:
        """How many planes are gridded: its own and the guards."""
        return self.channels + sum(self.guards)

    @property
    def alone(self) -> bool:
        """Whether it is the whole cube."""
        return not any(self.guards)

    @property
    def cleaned(self) -> slice:
        """The planes that CASA's deconvolver is given: its own, and one guard as the spare plane."""
        before, after = self.guards
        return slice(self.own.start - (not after and before > 0), self.own.stop + (after > 0))

    @property
    def spare(self) -> int | None:
        """Where the spare plane is among those that the deconvolver is given."""
        return None if self.alone else self.channels if self.guards[1] else 0

    @property
    def own_of_cleaned(self) -> slice:
        """The part's own planes among those that the deconvolver is given."""
        return slice(self.own.start - self.cleaned.start, self.own.stop - self.cleaned.start)

    @property
    def cleaning(self) -> str:
        """The stem of the images that the deconvolver is given."""
        return f"{self.imagename}.clean"


def edges_name(imagename: str) -> str:
    """Where a part leaves the model of its outermost channels for its neighbours."""
    return f"{imagename}.edges.npz"


def trimmed_name(imagename: str, extension: str) -> str:
    """Where a part's image without guards is."""
    return f"{trimmed_stem(imagename)}.{extension}"


def trimmed_stem(imagename: str) -> str:
    """The stem of a part's images without guards."""
    return f"{imagename}.own"


def pixels_of(path: str | Path) -> Any:
    """All pixels of an image."""
    with opened(path) as tool:
        return tool.getchunk()


def put_pixels(path: str | Path, pixels: Any) -> None:
    """Change all pixels of an image."""
    with opened(path) as tool:
        tool.putchunk(pixels)


def plane_of(tool: Any, plane: int) -> Any:
    """The pixels of one plane of the image that is open."""
    last = [int(size) - 1 for size in tool.shape()[:3]]
    return tool.getchunk([0, 0, 0, plane], [*last, plane])


def put_plane(tool: Any, plane: int, pixels: Any) -> None:
    """Change one plane of the image that is open, or several from this one on."""
    tool.putchunk(pixels, [0, 0, 0, plane])


def move_planes(source: Any, planes: slice, target: Any, first: int) -> None:
    """Give an image that is open some planes of another one, from such a plane of its own on."""
    width, height, polarizations = (int(size) for size in target.shape()[:3])
    together = int(target.summary(list=False)["tileshape"][3])
    step = max(1, min(together, _PIXELS_AT_ONCE // (width * height * polarizations)))
    for plane in range(planes.start, planes.stop, step):
        last = min(plane + step, planes.stop) - 1
        pixels = source.getchunk([0, 0, 0, plane], [width - 1, height - 1, polarizations - 1, last])
        put_plane(target, first + plane - planes.start, pixels)


def copy_planes(path: str, planes: slice, outfile: str) -> None:
    """Copy some planes of an image, with their coordinates, masks and beams."""
    from casatools import regionmanager

    with opened(path) as tool:
        last = [int(size) - 1 for size in tool.shape()[:3]]
        box = regionmanager().box(blc=[0, 0, 0, planes.start], trc=[*last, planes.stop - 1])
        copied = tool.subimage(outfile, region=box, overwrite=True, keepaxes=[0, 1, 2, 3])
        # CASA leaves masks out where nothing is masked, and then fails for want of one.
        for mask in set(tool.maskhandler("default")) - set(copied.maskhandler("default")):
            copied.calcmask("T", name=mask)
        copied.done()


def cut_out(part: Part, extension: str, spare: float = 0.0, beam: Mapping[str, Any] | None = None) -> None:
    """Give the deconvolver the planes of an image that it is to see.

    Args:
        part: the part.
        extension: of the image.
        spare: what the spare plane gets: one such pixel among zeros.
        beam: a beam to name as that of all planes.
    """
    copy_planes(f"{part.imagename}.{extension}", part.cleaned, f"{part.cleaning}.{extension}")
    if extension != "pb":
        put_spare(part, extension, spare)
    if beam is not None:
        name_beam(part, extension, beam)


def put_spare(part: Part, extension: str, spare: float) -> None:
    """Make the spare plane of what the deconvolver is given, if there is one: one such pixel among zeros."""
    if part.spare is not None:
        with opened(f"{part.cleaning}.{extension}") as tool:
            pixels = plane_of(tool, part.spare) * 0
            pixels[0, 0] = spare
            put_plane(tool, part.spare, pixels)


def name_beam(part: Part, extension: str, beam: Mapping[str, Any]) -> None:
    """Name a beam as that of all planes of what the deconvolver is given."""
    with opened(f"{part.cleaning}.{extension}") as tool:
        tool.setrestoringbeam(remove=True)
        tool.setrestoringbeam(beam=dict(beam))


def trim(part: Part, extension: str) -> None:
    """Take the guards away from an image of a part, if there is one, which is where the cube is joined from then."""
    stem, planes = (part.cleaning, part.own_of_cleaned) if extension == "mask" else (part.imagename, part.own)
    path = Path(f"{stem}.{extension}")
    trimmed = Path(trimmed_name(part.imagename, extension))
    # Where it is not, it may have been trimmed by a job whose result was lost.
    if not path.is_dir():
        return
    if part.alone:
        remove(trimmed)
        path.rename(trimmed)
        return
    copy_planes(str(path), planes, str(trimmed))
    remove(path)


def make_model(part: Part) -> None:
    """Make an empty model of all that is gridded; CASA makes one only of the planes that it cleans."""
    path = f"{part.imagename}.model"
    shutil.copytree(f"{part.imagename}.residual", path)
    with opened(path) as tool:
        for mask in tool.maskhandler("get"):
            if mask:
                tool.maskhandler("delete", [mask])
        tool.set(pixels="0.0")
        tool.setrestoringbeam(remove=True)
        tool.setbrightnessunit("Jy/pixel")


def leave_edges(part: Part) -> None:
    """Write the model of a part's outermost own channels to where its neighbours look for it."""
    import numpy as np

    if part.alone:
        return
    first, last, width = part.own_of_cleaned.start, part.own_of_cleaned.stop, max(part.guards)
    whole = Path(edges_name(part.imagename))
    partial = whole.with_name(f"partial-{whole.name}")
    with opened(f"{part.cleaning}.model") as tool:
        np.savez(
            partial,
            first=[plane_of(tool, plane) for plane in range(first, min(first + width, last))],
            last=[plane_of(tool, plane) for plane in range(max(last - width, first), last)],
        )
    partial.replace(whole)


def take_model(part: Part) -> None:
    """Give what is gridded the model that was cleaned: the part's own, and that of its neighbours in the guards."""
    import numpy as np

    before, after = part.neighbours
    with opened(f"{part.imagename}.model") as tool:
        with opened(f"{part.cleaning}.model") as cleaned:
            move_planes(cleaned, part.own_of_cleaned, tool, part.own.start)
        if before:
            for plane, pixels in enumerate(np.load(edges_name(before))["last"][-part.guards[0] :]):
                put_plane(tool, plane, pixels)
        if after:
            for plane, pixels in enumerate(np.load(edges_name(after))["first"][: part.guards[1]]):
                put_plane(tool, part.own.stop + plane, pixels)


def clear_spare_mask(part: Part) -> None:
    """Take the spare plane out of the clean mask."""
    if part.spare is not None:
        with opened(f"{part.cleaning}.mask") as tool:
            put_plane(tool, part.spare, plane_of(tool, part.spare) * 0)


def join_parts(parts: Sequence[str], imagename: str) -> None:
    """Join the images of all parts by reference: the cube's files hold no pixels, the parts keep them."""
    from casatools import image

    for extension in JOINED:
        files = [trimmed_name(part, extension) for part in parts]
        outfile = Path(f"{imagename}.{extension}")
        remove(outfile)
        if not all(Path(file).is_dir() for file in files):
            continue
        if len(files) == 1:
            outfile.symlink_to(os.path.relpath(files[0], outfile.parent))
            continue
        with closing(image()) as tool:
            joined = tool.imageconcat(
                str(outfile),
                infiles=files,
                axis=3,
                relax=True,
                reorder=False,
                mode="nomovevirtual",
            )
            joined.done()


def restore_or_keep(stem: str, cycle: int, changed: Sequence[str]) -> bool:
    """Keep aside what a cycle is going to change, or put it back if the cycle was begun before; whether it was."""
    kept = kept_name(stem, cycle)
    if kept.is_dir():
        # A worker died in this cycle, or before its result was taken: begin it again from where it began.
        put_back(stem, cycle, changed)
        return True
    making = kept.with_name(f"{kept.name}.partial")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    for extension in changed:
        path = Path(f"{stem}.clean.{extension}")
        if path.is_dir():
            shutil.copytree(path, making / extension)
        elif path.exists():
            shutil.copy2(path, making / extension)
    making.rename(kept)
    shutil.rmtree(kept_name(stem, cycle - 1), ignore_errors=True)
    return False


def kept_name(stem: str, cycle: int) -> Path:
    """Where that is kept which a cycle changes."""
    return Path(f"{stem}.before-{cycle}")


def put_back(stem: str, cycle: int, changed: Sequence[str]) -> None:
    """Put that back which was kept aside at the beginning of a cycle."""
    for extension in changed:
        path, kept = Path(f"{stem}.clean.{extension}"), kept_name(stem, cycle) / extension
        remove(path)
        if kept.is_dir():
            shutil.copytree(kept, path)
        elif kept.exists():
            shutil.copy2(kept, path)
