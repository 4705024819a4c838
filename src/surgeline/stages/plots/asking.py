"""What stages ask for: each function gives one job, which makes several pictures, and the facts of these pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from surgeline.context.records import Observation, Picture, PictureKind, Roles
from surgeline.paths import picture
from surgeline.stages.plots import flags, images, observation, solutions
from surgeline.stages.plots.images import ImageFiles, ImagePictures
from surgeline.stages.plots.solutions import Labels
from surgeline.work.jobs import FunctionCall, Job

Topic = Literal["observation", "flagging", "calibration", "image"]

# A cube with more planes than these has so many pictures of them, evenly spaced.
MOST_PLANES = 64
# Of more antennas, only the first ones have pictures of their own.
MOST_ANTENNAS = 100
# A worker that has made a plot makes the next ones: it has the library in memory.
_NEAR = "plots"


def of_observation(observed: Observation, roles: Roles) -> tuple[Job, list[Picture]]:
    """The array, uv coverage, elevations and scans of an MS."""
    vis, scans = observed.vis, len(observed.scans)
    said: dict[PictureKind, tuple[str, str]] = {
        "array": ("array", f"Where its {len(observed.antennas)} antennas stand, east and north of its centre."),
        "uv coverage": ("uv coverage", f"The longest baseline is {observed.longest_baseline:.0f} m."),
        "elevation": ("elevation", "How high each field stood during its scans."),
        "scans": ("scans", f"When its {scans} scans were, of which field, and what for."),
    }
    paths = {kind: picture(f"{vis}.{kind}") for kind in said}
    serving = {role: getattr(roles, role) for role in ("flux", "bandpass", "phase", "target")}
    drawing = FunctionCall(observation.draw, observed, serving, paths)
    facts = [
        Picture(path=paths[kind], title=f"{vis}: {what}", caption=caption, topic="observation", kind=kind, vis=vis)
        for kind, (what, caption) in said.items()
    ]
    return _job(drawing, vis, [], [*paths.values()]), facts


def of_flags(
    stage: str, vis: str, shares: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> tuple[Job, list[Picture]]:
    """Flagged shares of an MS after a stage; `shares` are as `flags.draw` takes them."""
    path = picture(f"{stage}.{vis}.flags")
    fact = Picture(
        path=path,
        title=f"{vis}: flags of {stage}",
        caption="Flagged share by " + ", ".join(shares) + f", before and after {stage}.",
        topic="flagging",
        kind="flags",
        vis=vis,
    )
    return _job(FunctionCall(flags.draw, vis, shares, path), f"flags of {vis}", [], [path]), [fact]


def of_solutions(
    kind: Literal["gains", "bandpass"], table: str, observed: Observation, vis: str, title: str, single: bool = True
) -> tuple[Job, list[Picture]]:
    """Amplitudes and phases of a calibration table: of all antennas, and of each.

    Args:
        kind: what is drawn over: gains over time, a bandpass over frequency.
        table: the calibration table.
        observed: who the antennas are.
        vis: the MS that the table is of.
        title: what the table holds.
        single: whether antennas get pictures of their own.
    """
    names = {antenna.id: antenna.name for antenna in observed.antennas}
    stem = table.rpartition("/")[2]
    overview = picture(stem)
    each = {number: picture(f"{stem}.antenna.{number}") for number in [*names][:MOST_ANTENNAS]} if single else {}
    draw = {"gains": solutions.draw_gains, "bandpass": solutions.draw_bandpass}[kind]
    axis = {"gains": "time", "bandpass": "frequency"}[kind]
    left_out = f"; the first {len(each)} have pictures of their own" if 0 < len(each) < len(names) else ""
    common: dict[str, Any] = {"topic": "calibration", "kind": kind, "vis": vis, "subject": table}
    facts = [
        Picture(
            path=overview,
            title=title,
            caption=f"Amplitude and phase over {axis} of {len(names)} antennas{left_out}.",
            **common,
        )
    ]
    facts += [
        Picture(
            path=path,
            title=f"{title}, {names[number]}",
            caption=f"Amplitude and phase over {axis} of antenna {names[number]}; all antennas in grey.",
            antenna=names[number],
            **common,
        )
        for number, path in each.items()
    ]
    drawing = FunctionCall(draw, table, Labels(names, _polarisations(observed)), overview, each)
    return _job(drawing, stem, [table], [overview, *each.values()]), facts


def _polarisations(observed: Observation) -> tuple[str, str]:
    """What an antenna's two polarisations are called, from the correlations: R and L, or X and Y."""
    # Where windows differ in the number of channels, correlations are told more than once.
    named = list(dict.fromkeys(name[0] for name in observed.spectral_windows[0].correlations if len(set(name)) == 1))
    return (named[0], named[1]) if len(named) == 2 else ("first", "second")


def of_image(
    title: str,
    name: str,
    caption: str,
    files: ImageFiles,
    frequencies: Sequence[float] = (),
    vis: str | None = None,
    topic: Topic = "image",
) -> tuple[Job, list[Picture]]:
    """An image with its residual; its planes and spectra, if it is a cube: if it has several `frequencies` (Hz)."""
    shown = planes_shown(len(frequencies)) if len(frequencies) > 1 else []
    digits = len(str(len(frequencies)))
    pictures = ImagePictures(
        image=picture(name),
        residual=picture(f"{name}.residual") if files.residual else "",
        spectrum=picture(f"{name}.spectrum") if shown else "",
        planes={channel: picture(f"{name}.plane.{channel:0{digits}}") for channel in shown},
    )
    common: dict[str, Any] = {"topic": topic, "vis": vis, "subject": files.image}
    facts = [Picture(path=pictures.image, title=title, caption=caption, kind="image", **common)]
    if pictures.residual:
        of = ", of the plane of the highest peak" if shown else ""
        text = f"What is left after cleaning{of}."
        facts.append(
            Picture(path=pictures.residual, title=f"{title}: residual", caption=text, kind="residual", **common)
        )
    if pictures.spectrum:
        text = "At the peak, and integrated over sources where there are any."
        facts.append(
            Picture(path=pictures.spectrum, title=f"{title}: spectrum", caption=text, kind="spectrum", **common)
        )
    thinned = f"; {len(shown)} of {len(frequencies)} channels are shown" if len(shown) < len(frequencies) else ""
    facts += [
        Picture(
            path=path,
            title=f"{title}: channel {channel}",
            caption=f"{frequencies[channel] / 1e9:.6f} GHz{thinned}",
            kind="plane",
            channel=channel,
            frequency=frequencies[channel],
            **common,
        )
        for channel, path in pictures.planes.items()
    ]
    written = [pictures.image, pictures.residual, pictures.spectrum, *pictures.planes.values()]
    drawing = FunctionCall(images.draw_image, title, files, pictures)
    return _job(drawing, name, files.all, [path for path in written if path]), facts


def of_moment(title: str, caption: str, image: str, moment: int) -> tuple[Job, list[Picture]]:
    """A moment map."""
    path = picture(image.rpartition("/")[2])
    fact = Picture(path=path, title=title, caption=caption, topic="image", kind="moment", subject=image)
    return _job(FunctionCall(images.draw_moment, title, image, moment, path), title, [image], [path]), [fact]


def planes_shown(channels: int) -> list[int]:
    """The channels of a cube whose planes have pictures, evenly spaced, the first and the last among them."""
    if channels <= MOST_PLANES:
        return list(range(channels))
    return [round(number * (channels - 1) / (MOST_PLANES - 1)) for number in range(MOST_PLANES)]


def _job(call: FunctionCall, name: str, reads: Sequence[str], writes: Sequence[str]) -> Job:
    return call.declare(name=f"plot {name}", reads=reads, writes=writes, near=_NEAR)
