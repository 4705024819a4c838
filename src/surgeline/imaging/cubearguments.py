"""What a cube that is made in parts may be told, and why not more."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeline.errors import BadInput

_MOSAICS = ("mosaic", "mosaicft", "ftmosaic")
# What couples the channels of a cube, or its images with others, in ways that are not known here: tclean's argument,
# the values that are taken, why no others are, and what to do instead.
_TAKEN: tuple[tuple[str, tuple[Any, ...], str, str], ...] = (
    (
        "specmode",
        ("cube", "cubedata", "cubesource"),
        "the others make one image of all channels",
        "make a continuum of it, or a cube",
    ),
    (
        "deconvolver",
        ("hogbom", "clark", "clarkstokes", "multiscale", "asp", "mem"),
        "the others make one model of all channels",
        "take hogbom, clark, multiscale or asp",
    ),
    (
        "gridder",
        ("standard", "gridft", "ft", "wproject", "wprojectft", "widefield", *_MOSAICS),
        "the others make their convolution functions for all channels at once",
        "take standard, wproject or mosaic",
    ),
    ("usemask", ("user", "pb", "auto-multithresh"), "the others are not kept up by CASA", "take auto-multithresh"),
    ("outlierfile", ("",), "outlier fields are cleaned together with all channels", "image the outlier by itself"),
    ("startmodel", ("", [], ()), "CASA regrids it to each part by itself", "leave it out"),
    ("savemodel", ("none", ""), "parts would write to the same columns", "fill the model by ft or by another tclean"),
    ("facets", (1,), "CASA puts facets together for the whole cube only", "take gridder='wproject' for a wide field"),
    ("psfphasecenter", ("",), "it is known for one field at a time", "leave it out"),
    ("interactive", (False, 0), "there is nobody beside the workers", "give a mask, or usemask='auto-multithresh'"),
    ("calcpsf", (True,), "parts begin with nothing on disk", "leave it out"),
    ("calcres", (True,), "parts begin with nothing on disk", "leave it out"),
)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what would not give tclean's own pixels.

    Raises:
        BadInput: naming the argument and what to do instead.
    """
    if int(arguments.get("nchan", -1)) < 1:
        raise BadInput("a cube needs nchan, the number of its channels", "give nchan and start")
    for name, taken, why, way_out in _TAKEN:
        if name in arguments and arguments[name] not in taken:
            raise BadInput(f"a cube cannot be made in parts with {name}={arguments[name]!r}: {why}", way_out)
    _check_masks(arguments)
    _check_channels(arguments)


def must_be_whole(arguments: Mapping[str, Any]) -> bool:
    """Whether a cube has to be made in one part, since what CASA does in a channel depends on which others it has.

    So do the convolution functions of mosaics, which are made for few frequencies among them; the taper of
    briggsbwtaper, by their bandwidth; and channels of equal width in another than radio velocity, for whose width in
    frequency CASA takes a mean. Whether channels in the frame of a moving source can be cut has not been tried.
    """
    source = arguments.get("specmode") == "cubesource"
    mosaic = arguments.get("gridder", "standard") in _MOSAICS
    velocity = any(_kind(arguments.get(name) or 0) == "velocity" for name in ("start", "width"))
    radio = str(arguments.get("veltype", "radio")).lower() in ("radio", "")
    return mosaic or source or arguments.get("weighting") == "briggsbwtaper" or (velocity and not radio)


def _check_masks(arguments: Mapping[str, Any]) -> None:
    if arguments.get("usemask") == "auto-multithresh":
        if float(arguments.get("minpercentchange", -1.0)) >= 0:
            raise BadInput(
                "minpercentchange stops the masking of a channel by a rule that CASA keeps inside one process",
                "leave it at -1",
            )
        if arguments.get("nsigma") and not arguments.get("fastnoise", True):
            raise BadInput(
                "with automasks, nsigma and fastnoise=False, CASA takes the noise outside the mask before",
                "take fastnoise=True, or a threshold in place of nsigma",
            )
    masks = arguments.get("mask", "")
    for mask in [masks] if isinstance(masks, str) else list(masks):
        path = Path(mask)
        text = path.read_text(errors="replace") if "[" not in mask and path.is_file() else mask
        if re.search(r"range\s*=\s*\[[^]]*chan", text):
            raise BadInput(
                f"the region {mask!r} counts channels, and each part of the cube counts its own",
                "give its range in Hz or km/s, or as an image",
            )


def _check_channels(arguments: Mapping[str, Any]) -> None:
    given = [arguments[name] for name in ("start", "width") if arguments.get(name) not in (None, "")]
    kinds = {_kind(value) for value in given}
    if "" in kinds or len(kinds) > 1:
        said = ", ".join(f"{name}={arguments[name]!r}" for name in ("start", "width") if arguments.get(name))
        raise BadInput(
            f"{said} does not say where the channels of a cube are",
            "give start and width both as numbers of channels, as frequencies or as velocities: '1440km/s', '5km/s'",
        )
    if arguments.get("specmode") == "cubedata":
        start_of(arguments, 0)


def _kind(value: Any) -> str:
    """What a start or a width is: channel, frequency or velocity; empty if it is neither."""
    if isinstance(value, Mapping):
        return {"radialvelocity": "velocity", "doppler": "velocity"}.get(str(value.get("type")), "frequency")
    found = _quantity(value)
    if found is None:
        return ""
    unit = found[1]
    return (
        "channel" if not unit else "frequency" if unit.endswith("Hz") else "velocity" if unit.endswith("m/s") else ""
    )


def start_of(arguments: Mapping[str, Any], channel: int) -> int | str:
    """Where a part begins that begins so many channels after the cube.

    Raises:
        BadInput: the arguments do not say it.
    """
    # Left empty, CASA takes the first channel, and steps of one.
    start, width = arguments.get("start") or 0, arguments.get("width") or 1
    first, step = _quantity(start), _quantity(width)
    if first is None or step is None:
        raise BadInput(
            f"start={start!r} and width={width!r} do not say where a part of the cube begins",
            "give both as numbers of channels, or both in the same unit, such as '1440km/s' and '5km/s'",
        )
    if first[1] != step[1]:
        raise BadInput(f"start={start!r} and width={width!r} are in different units", "give both in the same unit")
    value = first[0] + channel * step[0]
    return f"{value:.12g}{first[1]}" if first[1] else math.floor(value)


def _quantity(value: Any) -> tuple[float, str] | None:
    if isinstance(value, int | float):
        return float(value), ""
    match = re.fullmatch(r"\s*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z/]*)\s*", str(value))
    return (float(match[1]), match[2]) if match else None
