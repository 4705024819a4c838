"""Makes small observations whose truth is known: a VLA-like array, two calibrators and a target.

The casatools simulator lays out the MeasurementSet (times, uvw, subtables); the visibilities are computed
here with numpy, because `sm.predict` is several times slower. There is no polarisation and no smearing, and no
primary beam unless the target has several pointings, so that what the truth says is exactly what a perfect
reduction finds.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeline.errors import BadInput

_LIGHT_SPEED = 299792458.0  # m/s
_ARCSEC = math.pi / 180 / 3600
_CORRELATIONS = 2  # RR and LL
_SLEW_SECONDS = 20.0
# The phase calibrator is at hour angle -3.9 h, 31 degrees high, at the start of so long an observation.
_LONGEST_SECONDS = 7 * 3600.0
# The target crosses the meridian of the VLA at this time (2024-04-30 06:55:36 UTC).
_TRANSIT_SECONDS = 60430.28861 * 86400
# 3C286: log10 of its flux density in Jy as a polynomial in log10 of the frequency in GHz,
# from table 6 of Perley & Butler 2017, ApJS 230, 7; it holds from 50 MHz to 50 GHz.
_FLUX_CALIBRATOR_COEFFICIENTS = (1.2481, -0.4507, -0.1798, 0.0357)
_LOWEST_FREQUENCY, _HIGHEST_FREQUENCY = 50e6, 50e9
# Stations of an arm counted from its inner end, in an order in which any first few span the arm.
_STATION_ORDER = (8, 0, 4, 2, 6, 1, 7, 3, 5)
# As in an MS that importuvfits has made.
_TILE_VISIBILITIES, _TILE_UVW_ROWS = 2**17, 1024
# Visibilities computed at a time: about 100 MB of memory.
_CHUNK = 500_000
_LIMITS = {
    "antennas": (4, 27),
    "spectral_windows": (1, 64),
    "channels": (1, 16384),
    "start_frequency_hz": (_LOWEST_FREQUENCY, _HIGHEST_FREQUENCY),
    "channel_width_hz": (1, 1e9),
    "integration_seconds": (0.1, 600),
    "flux_scan_seconds": (0.1, _LONGEST_SECONDS),
    "phase_scan_seconds": (0.1, _LONGEST_SECONDS),
    "target_scan_seconds": (0.1, _LONGEST_SECONDS),
    "target_scans": (1, 1000),
    "pointings": (1, 100),
    "phase_calibrator_jy": (1e-6, 1e6),
    "phase_calibrator_spectral_index": (-5, 5),
    "noise_jy": (0, 1e6),
    "gain_amplitude_scatter": (0, 1),
    "gain_phase_scatter_deg": (0, 180),
    "bandpass_scatter": (0, 1),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class _Field:
    name: str
    role: str
    right_ascension_deg: float
    declination_deg: float
    intents: str


_FLUX_INTENTS = "CALIBRATE_FLUX#UNSPECIFIED,CALIBRATE_BANDPASS#UNSPECIFIED"
_CALIBRATORS = (
    _Field("1331+305=3C286", "flux", 202.7845333, 30.5091553, _FLUX_INTENTS),
    _Field("J1445+0958", "phase", 221.3186033, 9.9766861, "CALIBRATE_PHASE#UNSPECIFIED"),
)
_TARGET = _Field("TARGET", "target", 215.0, 20.0, "OBSERVE_TARGET#UNSPECIFIED")
_FLUX, _PHASE, _FIRST_POINTING = range(3)
_DISH_METRES = 25.0
# The primary beam is a Gaussian of so many wavelengths over the dish's diameter at half power; pointings of a mosaic
# are half of that apart.
_PRIMARY_BEAM_WIDTHS = 1.2


@dataclass(frozen=True)
class Simulation:
    """What to simulate. The noise is the rms of the real, and of the imaginary, part of one visibility.

    Gain amplitudes are constant in time and the same for all fields, so the flux scale carries over
    exactly; gain phases drift smoothly over hours. Both have the given scatter over antennas,
    polarisations and spectral windows. `line=False` leaves the spectral line out of the target,
    `intents=False` leaves the scan intents blank. With several `pointings` the target is a mosaic: fields TARGET_1,
    TARGET_2, ... from west to east, half a primary beam apart, each observed in each of the target's scans, with a
    further source north of each, and all of the sky seen through a primary beam, a Gaussian, in each. CASA takes
    another beam for the VLA unless it is told by tclean's `vptable`.

    Raises BadInput when a value makes no sense.
    """

    antennas: int = 15
    configuration: str = "D"
    spectral_windows: int = 1
    channels: int = 16
    start_frequency_hz: float = 1.40e9
    channel_width_hz: float = 1e6
    integration_seconds: float = 10.0
    flux_scan_seconds: float = 120.0
    phase_scan_seconds: float = 60.0
    target_scan_seconds: float = 300.0
    target_scans: int = 2
    pointings: int = 1
    phase_calibrator_jy: float = 2.5
    phase_calibrator_spectral_index: float = 0.0
    noise_jy: float = 0.1
    gain_amplitude_scatter: float = 0.1
    gain_phase_scatter_deg: float = 40.0
    bandpass_scatter: float = 0.05
    line: bool = True
    intents: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            if not least <= getattr(self, name) <= most:
                problem = f"cannot simulate {name} = {getattr(self, name)}"
                raise BadInput(problem, f"give a number from {least:g} to {most:g}")
        if self.configuration not in ("A", "B", "C", "D"):
            raise BadInput(f"the VLA has no configuration {self.configuration!r}", "use A, B, C or D")
        if self.frequencies_hz(self.spectral_windows - 1)[-1] > _HIGHEST_FREQUENCY:
            problem = "the flux density of 3C286 is not known above 50 GHz, where the last channels are"
            raise BadInput(problem, "ask for fewer or narrower channels")
        if self.duration_seconds > _LONGEST_SECONDS:
            problem = f"the sources set during an observation of {self.duration_seconds / 3600:.1f} h"
            raise BadInput(problem, "ask for fewer or shorter scans: 7 h at most in all")

    @property
    def duration_seconds(self) -> float:
        """From the start of the first scan to the end of the last, in seconds."""
        last = list(_schedule(self))[-1]
        return last.start_seconds + last.integrations * self.integration_seconds

    @property
    def data_bytes(self) -> int:
        """Size of the DATA column, which is nearly all of the MeasurementSet, in bytes."""
        integrations = sum(scan.integrations for scan in _schedule(self))
        rows = integrations * self.spectral_windows * self.antennas * (self.antennas - 1) // 2
        return rows * self.channels * _CORRELATIONS * np.dtype(np.complex64).itemsize

    def frequencies_hz(self, spectral_window: int) -> NDArray[np.float64]:
        """Channel centres of one spectral window, in Hz, in the frame of the telescope (TOPO)."""
        channel = np.arange(self.channels, dtype=np.float64) + spectral_window * self.channels
        return self.start_frequency_hz + channel * self.channel_width_hz


@dataclass(frozen=True)
class _Scan:
    number: int
    field: int
    start_seconds: float
    integrations: int


def _schedule(simulation: Simulation) -> Iterator[_Scan]:
    """Flux calibrator, then phase calibrator and target's pointings in turn, ending with the phase calibrator."""
    lengths = (simulation.flux_scan_seconds, simulation.phase_scan_seconds, simulation.target_scan_seconds)
    start = 0.0
    pointings = range(_FIRST_POINTING, _FIRST_POINTING + simulation.pointings)
    for index, field in enumerate([_FLUX, *[_PHASE, *pointings] * simulation.target_scans, _PHASE]):
        integrations = max(1, round(lengths[min(field, _FIRST_POINTING)] / simulation.integration_seconds))
        yield _Scan(index + 1, field, start, integrations)
        start += integrations * simulation.integration_seconds + _SLEW_SECONDS


def _fields(simulation: Simulation) -> list[_Field]:
    """The calibrators, and the target or its pointings."""
    if simulation.pointings == 1:
        return [*_CALIBRATORS, _TARGET]
    pointings = []
    for number, east in enumerate(_pointing_offsets(simulation)):
        right_ascension, declination = _direction(_TARGET, east, 0.0)
        name = f"{_TARGET.name}_{number + 1}"
        pointings.append(_Field(name, _TARGET.role, right_ascension, declination, _TARGET.intents))
    return [*_CALIBRATORS, *pointings]


def _pointing_offsets(simulation: Simulation) -> list[float]:
    """How far east of the target's centre each pointing is, in arcsec."""
    spacing = float(primary_beam_arcsec(np.array([simulation.start_frequency_hz]))[0]) / 2
    return [(number - (simulation.pointings - 1) / 2) * spacing for number in range(simulation.pointings)]


def _direction(centre: _Field, l_arcsec: float, m_arcsec: float) -> tuple[float, float]:
    """Right ascension and declination in degrees of what is so far east and north of a field's centre."""
    declination = math.radians(centre.declination_deg)
    east, north = l_arcsec * _ARCSEC, m_arcsec * _ARCSEC
    outward = math.sqrt(1 - east**2 - north**2)
    turn = math.atan2(east, outward * math.cos(declination) - north * math.sin(declination))
    height = math.asin(north * math.cos(declination) + outward * math.sin(declination))
    return centre.right_ascension_deg + math.degrees(turn), math.degrees(height)


def _offset(centre: _Field, direction: tuple[float, float]) -> tuple[float, float]:
    """How far east and north of a field's centre a direction is, in arcsec, projected as interferometers see it."""
    turn = math.radians(direction[0] - centre.right_ascension_deg)
    declination, height = math.radians(centre.declination_deg), math.radians(direction[1])
    east = math.cos(height) * math.sin(turn)
    north = math.sin(height) * math.cos(declination) - math.cos(height) * math.sin(declination) * math.cos(turn)
    return east / _ARCSEC, north / _ARCSEC


@dataclass(frozen=True)
class _Component:
    """A point (`fwhm_arcsec` 0) or a circular Gaussian, `l` arcsec east and `m` north of the field centre.

    It has either a continuum, log10(Jy) as a polynomial in log10(GHz), or a Gaussian line.
    """

    name: str
    l_arcsec: float = 0.0
    m_arcsec: float = 0.0
    fwhm_arcsec: float = 0.0
    log10_coefficients: tuple[float, ...] = ()
    line_peak_jy: float = 0.0
    line_centre_hz: float = 0.0
    line_fwhm_hz: float = 0.0

    def spectrum(self, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux density in Jy at each frequency."""
        if self.log10_coefficients:
            log10_ghz = np.log10(frequency_hz / 1e9)
            return np.asarray(10 ** np.polynomial.Polynomial(self.log10_coefficients)(log10_ghz))
        offset = (frequency_hz - self.line_centre_hz) / self.line_fwhm_hz
        return np.asarray(self.line_peak_jy * np.exp(-4 * math.log(2) * offset**2))

    def visibility(
        self, frequency_hz: NDArray[np.float64], uvw: NDArray[np.float64], primary_beam: bool
    ) -> NDArray[np.complex64]:
        """Visibility in Jy, (row, channel), for uvw in metres, (3, row), after Thompson, Moran & Swenson."""
        sky_l, sky_m = self.l_arcsec * _ARCSEC, self.m_arcsec * _ARCSEC
        below_tangent = math.sqrt(1 - sky_l**2 - sky_m**2) - 1
        path = uvw[0] * sky_l + uvw[1] * sky_m + uvw[2] * below_tangent
        # The phase is positive because the simulator's uvw are antenna 1 minus antenna 2.
        phase = np.outer(path, 2 * math.pi / _LIGHT_SPEED * frequency_hz).astype(np.float32)
        spectrum = self.spectrum(frequency_hz)
        if primary_beam:
            distance = math.asin(math.hypot(sky_l, sky_m)) / _ARCSEC / primary_beam_arcsec(frequency_hz)
            spectrum = spectrum * np.exp(-4 * math.log(2) * distance**2)
        amplitude = np.broadcast_to(spectrum, phase.shape)
        if self.fwhm_arcsec:
            size = math.pi * self.fwhm_arcsec * _ARCSEC / (2 * math.sqrt(math.log(2)) * _LIGHT_SPEED)
            amplitude = amplitude * np.exp(-np.outer(uvw[0] ** 2 + uvw[1] ** 2, (size * frequency_hz) ** 2))
        result = np.empty(phase.shape, np.complex64)
        result.real = amplitude * np.cos(phase)
        result.imag = amplitude * np.sin(phase)
        return result


def primary_beam_arcsec(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """The primary beam's width at half power, in arcsec, at each frequency: it is a Gaussian."""
    return np.asarray(_PRIMARY_BEAM_WIDTHS * _LIGHT_SPEED / frequency_hz / _DISH_METRES / _ARCSEC)


def _sky(simulation: Simulation, longest_baseline: float) -> list[list[_Component]]:
    """The components of each field; offsets scale with the beam, to look alike in every configuration."""
    beam = _LIGHT_SPEED / simulation.start_frequency_hz / longest_baseline / _ARCSEC
    ghz = simulation.start_frequency_hz / 1e9

    def power_law(jansky: float, index: float) -> tuple[float, float]:
        return math.log10(jansky) - index * math.log10(ghz), index

    phase_law = power_law(simulation.phase_calibrator_jy, simulation.phase_calibrator_spectral_index)
    target = [
        _Component("north-east", 8 * beam, 5 * beam, log10_coefficients=power_law(0.30, -0.7)),
        _Component("north-west", -6 * beam, 9 * beam, log10_coefficients=power_law(0.15, -0.7)),
        _Component("south", 3 * beam, -10 * beam, log10_coefficients=power_law(0.08, 0.0)),
    ]
    if simulation.line:
        frequencies = simulation.frequencies_hz(simulation.spectral_windows // 2)
        target.append(
            _Component(
                "line",
                -3 * beam,
                -2 * beam,
                fwhm_arcsec=1.5 * beam,
                line_peak_jy=0.5,
                line_centre_hz=float(frequencies[simulation.channels // 2]),
                line_fwhm_hz=min(4.0, simulation.channels / 3) * simulation.channel_width_hz,
            )
        )
    flux = _Component("3C286", log10_coefficients=_FLUX_CALIBRATOR_COEFFICIENTS)
    if simulation.pointings > 1:
        target += [
            _Component(f"pointing {number + 1}", east, 4 * beam, log10_coefficients=power_law(0.05, 0.0))
            for number, east in enumerate(_pointing_offsets(simulation))
        ]
    pointings = [
        [_seen_from(pointing, component) for component in target]
        for pointing in _fields(simulation)[_FIRST_POINTING:]
    ]
    return [[flux], [_Component("J1445+0958", log10_coefficients=phase_law)], *pointings]


def _seen_from(pointing: _Field, component: _Component) -> _Component:
    """A component of the target, its offset counted from the centre of a pointing."""
    if pointing == _TARGET:
        return component
    east, north = _offset(pointing, _direction(_TARGET, component.l_arcsec, component.m_arcsec))
    return replace(component, l_arcsec=east, m_arcsec=north)


class _Corruption:
    """Gains and bandpasses of every spectral window, antenna and polarisation."""

    def __init__(self, simulation: Simulation, random: np.random.Generator) -> None:
        shape = (simulation.spectral_windows, simulation.antennas, _CORRELATIONS)
        self.amplitude = np.exp(simulation.gain_amplitude_scatter * random.standard_normal(shape))
        self._swing = math.radians(simulation.gain_phase_scatter_deg) * math.sqrt(2)
        self._rate = 2 * math.pi / random.uniform(1.5 * 3600, 3 * 3600, shape)  # nosec B311  # noise
        self._start = random.uniform(0, 2 * math.pi, shape)  # nosec B311  # noise
        # A few cosines over the band: smooth, as a receiver's bandpass is.
        order = np.arange(1, 4)
        weight = random.standard_normal((*shape, 3)) + 1j * random.standard_normal((*shape, 3))
        across = (np.arange(simulation.channels) + 0.5) / simulation.channels
        ripple = np.einsum("sapk,kc->sacp", weight / order, np.cos(math.pi * np.outer(order, across)))
        self.bandpass = np.exp(simulation.bandpass_scatter * ripple).astype(np.complex64)

    def gain(self, spectral_window: int, seconds: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Complex gains, (time, antenna, polarisation)."""
        turn = self._start[spectral_window] + self._rate[spectral_window] * seconds[:, None, None]
        phase = self._swing * np.sin(turn)
        return np.asarray(self.amplitude[spectral_window] * np.exp(1j * phase), dtype=np.complex64)


def _stations(simulation: Simulation) -> tuple[list[str], NDArray[np.float64]]:
    """Names and geocentric positions (station, 3) in metres, from CASA's list of the VLA's configurations."""
    from casatools import ctsys

    listing = Path(ctsys.resolve(f"alma/simmos/vla.{simulation.configuration.lower()}.cfg"))
    rows = [line.split() for line in listing.read_text().splitlines() if not line.startswith("#")]
    arms = [[row for row in rows if row[4][0] == arm] for arm in "WEN"]
    chosen = [arm[place] for place in _STATION_ORDER for arm in arms][: simulation.antennas]
    return [row[4] for row in chosen], np.array([[float(value) for value in row[:3]] for row in chosen])


def _lay_out(path: Path, simulation: Simulation, stations: list[str], positions: NDArray[np.float64]) -> None:
    """Make the MeasurementSet with its times, uvw and subtables, and a blank DATA column."""
    from casatools import measures, simulator

    measure = measures()
    with closing(simulator()) as maker:
        maker.open(str(path))
        maker.setconfig(
            telescopename="VLA",
            x=positions[:, 0].tolist(),
            y=positions[:, 1].tolist(),
            z=positions[:, 2].tolist(),
            dishdiameter=[_DISH_METRES] * len(stations),
            mount=["alt-az"] * len(stations),
            antname=[f"ea{number + 1:02d}" for number in range(len(stations))],
            padname=stations,
            coordsystem="global",
            referencelocation=measure.observatory("VLA"),
        )
        for window in range(simulation.spectral_windows):
            maker.setspwindow(
                spwname=f"spw{window}",
                freq=f"{simulation.frequencies_hz(window)[0]}Hz",
                deltafreq=f"{simulation.channel_width_hz}Hz",
                freqresolution=f"{simulation.channel_width_hz}Hz",
                nchannels=simulation.channels,
                stokes="RR LL",
                refcode="TOPO",
            )
        maker.setfeed("perfect R L")
        fields = _fields(simulation)
        for field in fields:
            centre = ["J2000", f"{field.right_ascension_deg}deg", f"{field.declination_deg}deg"]
            maker.setfield(sourcename=field.name, sourcedirection=centre)
        maker.setauto(0.0)
        maker.setlimits(shadowlimit=1.0, elevationlimit="0deg")
        # The simulator writes times in TAI and calls them UTC: so what is UTC is given to it as TAI.
        start = measure.epoch("TAI", f"{_TRANSIT_SECONDS - simulation.duration_seconds / 2}s")
        maker.settimes(f"{simulation.integration_seconds}s", usehourangle=False, referencetime=start)
        for scan in _schedule(simulation):
            stop = scan.start_seconds + scan.integrations * simulation.integration_seconds
            for window in range(simulation.spectral_windows):
                maker.observe(
                    fields[scan.field].name,
                    f"spw{window}",
                    starttime=f"{scan.start_seconds}s",
                    stoptime=f"{stop}s",
                    state_obs_mode=fields[scan.field].intents if simulation.intents else "",
                )
    _store_as_importers_do(path, simulation.channels)


def _store_as_importers_do(path: Path, channels: int) -> None:
    """Store uvw and visibilities in tiles as large as CASA's importers make them, in which they are read quickly.

    The simulator's own tiles have 100 rows, and its uvw are where CASA looks each row up in a file of its own. It
    also adds MODEL_DATA and CORRECTED_DATA, whether asked for or not.
    """
    from casatools import table

    rows = max(1, _TILE_VISIBILITIES // (_CORRELATIONS * channels))
    tiles = {
        "DATA": [_CORRELATIONS, channels, rows],
        "FLAG": [_CORRELATIONS, channels, rows],
        "SIGMA": [_CORRELATIONS, rows],
        "WEIGHT": [_CORRELATIONS, rows],
    }
    laid_out = path.with_name(f"{path.name}.laid-out")
    shutil.rmtree(laid_out, ignore_errors=True)
    path.rename(laid_out)
    try:
        with closing(table()) as old, closing(table()) as new:
            old.open(str(laid_out))
            managers = old.getdminfo()
            for manager in managers.values():
                manager["COLUMNS"] = [column for column in manager["COLUMNS"] if column != "UVW"]
                if manager["COLUMNS"][0] in tiles:
                    manager["SPEC"] = {"DEFAULTTILESHAPE": tiles[manager["COLUMNS"][0]]}
            managers["*uvw"] = {
                "TYPE": "TiledColumnStMan",
                "NAME": "TiledUVW",
                "SEQNR": 1 + max(manager["SEQNR"] for manager in managers.values()),
                "COLUMNS": ["UVW"],
                "SPEC": {"DEFAULTTILESHAPE": [3, _TILE_UVW_ROWS]},
            }
            old.copy(str(path), deep=True, valuecopy=True, dminfo=managers, returnobject=False, norows=True)
            new.open(str(path), nomodify=False)
            new.removecols(["MODEL_DATA", "CORRECTED_DATA"])
            old.copyrows(str(path))
        for subtable in laid_out.iterdir():
            if subtable.is_dir():
                shutil.rmtree(path / subtable.name)
                subtable.rename(path / subtable.name)
    finally:
        shutil.rmtree(laid_out)


def _fill(
    path: Path,
    simulation: Simulation,
    sky: list[list[_Component]],
    corruption: _Corruption,
    random: np.random.Generator,
) -> None:
    """Write visibilities, flags, weights and scan numbers, a few integrations at a time."""
    from casatools import table

    with closing(table()) as main:
        main.open(str(path), nomodify=False)
        baselines = simulation.antennas * (simulation.antennas - 1) // 2
        first = main.getcol("ANTENNA1", 0, baselines)
        second = main.getcol("ANTENNA2", 0, baselines)
        # Without noise every visibility weighs the same.
        sigma = simulation.noise_jy or 1.0
        step = max(1, _CHUNK // (baselines * simulation.channels))
        row = 0
        for scan in _schedule(simulation):
            for window in range(simulation.spectral_windows):
                frequencies = simulation.frequencies_hz(window)
                bandpass = corruption.bandpass[window]
                bandpass = bandpass[first] * bandpass[second].conj()
                for begin in range(0, scan.integrations, step):
                    count = min(step, scan.integrations - begin)
                    rows = count * baselines
                    uvw = main.getcol("UVW", row, rows)
                    attenuated = simulation.pointings > 1 and scan.field >= _FIRST_POINTING
                    seen = sum(part.visibility(frequencies, uvw, attenuated) for part in sky[scan.field])
                    middle = np.arange(begin, begin + count, dtype=np.float64) + 0.5
                    seconds = scan.start_seconds + middle * simulation.integration_seconds
                    gain = corruption.gain(window, seconds)
                    gain = gain[:, first] * gain[:, second].conj()
                    data = np.reshape(seen, (count, baselines, simulation.channels, 1)) * bandpass
                    data *= gain[:, :, None, :]
                    noise = random.standard_normal((*data.shape, 2), dtype=np.float32).view(np.complex64)
                    data += np.float32(simulation.noise_jy) * noise[..., 0]
                    data = data.reshape(rows, simulation.channels, _CORRELATIONS)
                    main.putcol("DATA", data.T, row, rows)
                    main.putcol("FLAG", np.zeros(data.T.shape, bool), row, rows)
                    main.putcol("SIGMA", np.full((_CORRELATIONS, rows), sigma), row, rows)
                    main.putcol("WEIGHT", np.full((_CORRELATIONS, rows), sigma**-2), row, rows)
                    main.putcol("FLAG_ROW", np.zeros(rows, bool), row, rows)
                    main.putcol("SCAN_NUMBER", np.full(rows, scan.number), row, rows)
                    row += rows


def _truth(
    simulation: Simulation, stations: list[str], sky: list[list[_Component]], corruption: _Corruption
) -> dict[str, Any]:
    windows = [simulation.frequencies_hz(window) for window in range(simulation.spectral_windows)]
    fields = []
    for number, (field, components) in enumerate(zip(_fields(simulation), sky, strict=True)):
        described = asdict(field)
        described["scans"] = [scan.number for scan in _schedule(simulation) if scan.field == number]
        described["components"] = [
            asdict(part) | {"mean_flux_jy": [float(part.spectrum(window).mean()) for window in windows]}
            for part in components
        ]
        continuum = [part for part in components if part.log10_coefficients]
        described["continuum_jy"] = [
            sum(float(part.spectrum(window).mean()) for part in continuum) for window in windows
        ]
        fields.append(described)
    gains = corruption.amplitude.swapaxes(0, 1).tolist()
    return {
        "simulation": asdict(simulation),
        "primary_beam": simulation.pointings > 1,
        "frequency_frame": "TOPO",
        "channel_frequencies_hz": [window.tolist() for window in windows],
        "fields": fields,
        "antennas": [
            {"name": f"ea{number:02d}", "station": station, "gain_amplitude": gain}
            for number, (station, gain) in enumerate(zip(stations, gains, strict=True), start=1)
        ],
    }


def simulate(path: Path, simulation: Simulation, overwrite: bool = False) -> dict[str, Any]:
    """Make a MeasurementSet at `path`, write its truth to `<path>.truth.json`, and return that truth.

    The truth is a JSON object: `simulation` (the arguments), `fields` (name, role, centre, intents, scans,
    components, and the sum of their continuum averaged over each spectral window, `continuum_jy`), `antennas`
    (name, station, and gain amplitude by spectral window and polarisation), `channel_frequencies_hz` (by
    spectral window), `frequency_frame` and `primary_beam` (whether pointings see their sources through
    one, which flux densities know nothing of). Positions are in degrees (J2000) or arcsec from the centre of the
    field, flux densities in Jy. Both files are written under other names first.

    Meanwhile it takes four times its size on disk, for columns that the casatools simulator insists on.
    CASA must be set up already. Raises BadInput when the path cannot be used.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise BadInput(f"{path} already exists", "choose another name, or give --overwrite")
    # Only a MeasurementSet is ever removed, whatever folder the user names.
    if path.is_symlink() or (path.exists() and not (path / "table.dat").is_file()):
        raise BadInput(f"{path} is not a MeasurementSet, so it is not overwritten", "choose another name")
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist", "make it first, or choose another place")
    needed = 4 * simulation.data_bytes
    if shutil.disk_usage(path.parent).free < needed:
        raise BadInput(
            f"{path.parent} has less than the {needed / 1e9:.1f} GB free that the simulation needs",
            "free some space, or ask for fewer antennas, channels or scans",
        )
    stations, positions = _stations(simulation)
    separations = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)
    sky = _sky(simulation, float(separations.max()))
    random = np.random.default_rng(simulation.seed)
    corruption = _Corruption(simulation, random)
    truth = _truth(simulation, stations, sky, corruption)
    partial = path.with_name(f"{path.name}.partial")
    partial_truth = path.with_name(f"{path.name}.truth.json.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _lay_out(partial, simulation, stations, positions)
        _fill(partial, simulation, sky, corruption, random)
        partial_truth.write_text(json.dumps(truth, indent=2) + "\n")
        if path.exists():
            shutil.rmtree(path)
            shutil.rmtree(f"{path}.flagversions", ignore_errors=True)
        partial.rename(path)
        partial_truth.replace(path.with_name(f"{path.name}.truth.json"))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        partial_truth.unlink(missing_ok=True)
    return truth
