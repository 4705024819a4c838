"""Read what a MeasurementSet holds. `read_observation` runs on a worker."""

from __future__ import annotations

import math
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from surgeline.context.records import Antenna, Field, Observation, Scan, SpectralWindow
from surgeline.errors import DataError

_MJD_OF_UNIX_EPOCH = 40587.0 * 86400.0
_UV_SAMPLES = 2000


def unix_time(modified_julian_seconds: float) -> float:
    """Unix time from the seconds since MJD 0 that MeasurementSets use."""
    return float(modified_julian_seconds) - _MJD_OF_UNIX_EPOCH


def read_observation(vis: str, origin: str) -> Observation:
    """Read the metadata of an MS: fields, spectral windows, scans, antennas, longest baseline, uv samples.

    Raises:
        DataError: a name in it is no text.
    """
    try:
        return _read(vis, origin)
    except (SystemError, UnicodeDecodeError) as error:
        raise DataError(
            f"{origin} has a name of a field, an antenna, a window, a project or an observer that is not UTF-8",
            "write these names anew by CASA's table tool, as table.putcol('NAME', …) of its FIELD",
        ) from error


def _read(vis: str, origin: str) -> Observation:
    from casatools import msmetadata, table

    metadata = msmetadata()
    with closing(metadata):
        metadata.open(vis)
        fields = _fields(metadata)
        windows = _spectral_windows(metadata, vis)
        ahead = _ahead_of_utc(vis, float(metadata.timesforscan(int(metadata.scannumbers()[0])).min()))
        scans = _scans(metadata, ahead)
        antennas = _antennas(metadata)
        names = metadata.observatorynames()
        observers = metadata.observers()
        projects = metadata.projects()
        rows = int(metadata.nrows())
        begin, end = metadata.timerangeforobs(0)["begin"], metadata.timerangeforobs(0)["end"]
    main = table()
    with closing(main):
        main.open(vis)
        # A regular sample of rows is enough for a picture of the uv coverage and for its extent.
        step = max(1, rows // 20000)
        uvw = main.getcol("UVW", 0, -1, step)
        # A table of antennas may name some that never observed.
        observing = {int(number) for name in ("ANTENNA1", "ANTENNA2") for number in set(main.getcol(name))}
    longest = float((uvw[0] ** 2 + uvw[1] ** 2).max() ** 0.5) if rows else 0.0
    thin = max(1, uvw.shape[1] // _UV_SAMPLES)
    samples = tuple((round(float(u), 1), round(float(v), 1)) for u, v in uvw[:2, ::thin].T)
    return Observation(
        vis=vis,
        origin=origin,
        telescope=_printable(names[0]) if names else "unknown",
        observer=_printable(observers[0]) if observers else "",
        project=_printable(projects[0]) if projects else "",
        start=min((scan.start for scan in scans), default=unix_time(begin["m0"]["value"] * 86400.0 - ahead)),
        end=max((scan.end for scan in scans), default=unix_time(end["m0"]["value"] * 86400.0 - ahead)),
        rows=rows,
        size=sum(path.stat().st_size for path in Path(vis).rglob("*") if path.is_file()),
        fields=fields,
        spectral_windows=windows,
        scans=scans,
        antennas=tuple(antenna for antenna in antennas if antenna.id in observing),
        longest_baseline=longest,
        uv_samples=samples,
    )


def _printable(name: str) -> str:
    """A name, in which nothing tells a terminal, or a database, what to do."""
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def _fields(metadata: Any) -> tuple[Field, ...]:
    from casatools import measures

    with closing(_Measures(measures())) as converter:
        found = []
        for number in metadata.fieldsforname(""):
            centre = converter.tool.measure(metadata.phasecenter(int(number)), "J2000")
            found.append(
                Field(
                    id=int(number),
                    name=_printable(metadata.namesforfields(int(number))[0]),
                    ra=math.degrees(centre["m0"]["value"]) % 360.0,
                    dec=math.degrees(centre["m1"]["value"]),
                    intents=tuple(sorted(map(_printable, metadata.intentsforfield(int(number))))),
                )
            )
    return tuple(found)


class _Measures:
    """Gives the measures tool the `close` that other tools have."""

    def __init__(self, tool: Any) -> None:
        self.tool = tool

    def close(self) -> None:
        self.tool.done()


def _spectral_windows(metadata: Any, vis: str) -> tuple[SpectralWindow, ...]:
    from casatools import ms

    # Windows that no scan used (channel averages, pointing) have no part in a reduction.
    used = {int(spw) for scan in metadata.scannumbers() for spw in metadata.spwsforscan(int(scan))}
    names = metadata.namesforspws()
    correlations = _correlations(ms(), vis)
    found = []
    for spw in sorted(used):
        frequencies = metadata.chanfreqs(spw)
        widths = metadata.chanwidths(spw)
        found.append(
            SpectralWindow(
                id=spw,
                name=_printable(str(names[spw])),
                channels=len(frequencies),
                reference_frequency=float(frequencies[len(frequencies) // 2]),
                channel_width=float(widths[0]),
                bandwidth=float(abs(widths).sum()),
                correlations=correlations,
            )
        )
    return tuple(found)


def _correlations(tool: Any, vis: str) -> tuple[str, ...]:
    with closing(tool):
        tool.open(vis)
        tool.selectinit(reset=True)
        return tuple(str(name) for name in tool.range(["corr_names"])["corr_names"].ravel())


def _ahead_of_utc(vis: str, seconds: float) -> float:
    """By how many seconds the time scale of an MS (TAI or UTC) is ahead of UTC, at a time since MJD 0."""
    from casatools import table
    from erfa import dat

    main = table()
    with closing(main):
        main.open(vis)
        if main.getcolkeyword("TIME", "MEASINFO")["Ref"] != "TAI":
            return 0.0
    date = datetime.fromtimestamp(unix_time(seconds), UTC)
    return float(dat(date.year, date.month, date.day, 0.0))


def _scans(metadata: Any, ahead: float) -> tuple[Scan, ...]:
    found = []
    for number in metadata.scannumbers():
        scan = int(number)
        times = metadata.timesforscan(scan)
        found.append(
            Scan(
                number=scan,
                fields=tuple(int(field) for field in metadata.fieldsforscan(scan)),
                spectral_windows=tuple(int(spw) for spw in metadata.spwsforscan(scan)),
                start=unix_time(times.min() - ahead),
                end=unix_time(times.max() - ahead),
                intents=tuple(sorted(map(_printable, metadata.intentsforscan(scan)))),
            )
        )
    return tuple(found)


def _antennas(metadata: Any) -> tuple[Antenna, ...]:
    found = []
    for number in metadata.antennaids():
        antenna = int(number)
        offset = metadata.antennaoffset(antenna)
        found.append(
            Antenna(
                id=antenna,
                name=_printable(metadata.antennanames(antenna)[0]),
                station=_printable(metadata.antennastations(antenna)[0]),
                east=float(offset["longitude offset"]["value"]),
                north=float(offset["latitude offset"]["value"]),
                diameter=float(metadata.antennadiameter(antenna)["value"]),
            )
        )
    return tuple(found)
