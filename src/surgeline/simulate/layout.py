"""A MeasurementSet as it is before there are visibilities: times, uvw, subtables, and how it is stored."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surgeline.simulate.fields import DISH_METRES, fields_of
from surgeline.simulate.simulation import CORRELATIONS, Simulation, schedule

# The target crosses the meridian of the VLA at this time (2024-04-30 06:55:36 UTC).
_TRANSIT_SECONDS = 60430.28861 * 86400
# Stations of an arm counted from its inner end, in an order in which any first few span the arm.
_STATION_ORDER = (8, 0, 4, 2, 6, 1, 7, 3, 5)
# As in an MS that importuvfits has made.
_TILE_VISIBILITIES, _TILE_UVW_ROWS = 2**17, 1024


def stations_of(simulation: Simulation) -> tuple[list[str], NDArray[np.float64]]:
    """Names and geocentric positions (station, 3) in metres, from CASA's list of the VLA's configurations."""
    from casatools import ctsys

    listing = Path(ctsys.resolve(f"alma/simmos/vla.{simulation.configuration.lower()}.cfg"))
    rows = [line.split() for line in listing.read_text().splitlines() if not line.startswith("#")]
    arms = [[row for row in rows if row[4][0] == arm] for arm in "WEN"]
    chosen = [arm[place] for place in _STATION_ORDER for arm in arms][: simulation.antennas]
    return [row[4] for row in chosen], np.array([[float(value) for value in row[:3]] for row in chosen])


def lay_out(path: Path, simulation: Simulation, stations: list[str], positions: NDArray[np.float64]) -> None:
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
            dishdiameter=[DISH_METRES] * len(stations),
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
        fields = fields_of(simulation)
        for field in fields:
            centre = ["J2000", f"{field.right_ascension_deg}deg", f"{field.declination_deg}deg"]
            maker.setfield(sourcename=field.name, sourcedirection=centre)
        maker.setauto(0.0)
        maker.setlimits(shadowlimit=1.0, elevationlimit="0deg")
        # The simulator writes times in TAI and calls them UTC: so what is UTC is given to it as TAI.
        start = measure.epoch("TAI", f"{_TRANSIT_SECONDS - simulation.duration_seconds / 2}s")
        maker.settimes(f"{simulation.integration_seconds}s", usehourangle=False, referencetime=start)
        for scan in schedule(simulation):
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

    rows = max(1, _TILE_VISIBILITIES // (CORRELATIONS * channels))
    tiles = {
        "DATA": [CORRELATIONS, channels, rows],
        "FLAG": [CORRELATIONS, channels, rows],
        "SIGMA": [CORRELATIONS, rows],
        "WEIGHT": [CORRELATIONS, rows],
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
