"""Makes an observation, and writes beside it what is true of it."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from surgeline.errors import BadInput
from surgeline.simulate.corruption import Corruption
from surgeline.simulate.fields import fields_of
from surgeline.simulate.layout import lay_out, stations_of
from surgeline.simulate.simulation import CORRELATIONS, FIRST_POINTING, Simulation, schedule
from surgeline.simulate.sky import Component, sky_of

# Visibilities computed at a time: about 100 MB of memory.
_CHUNK = 500_000


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
    stations, positions = stations_of(simulation)
    separations = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)
    sky = sky_of(simulation, float(separations.max()))
    random = np.random.default_rng(simulation.seed)
    corruption = Corruption(simulation, random)
    truth = _truth(simulation, stations, sky, corruption)
    partial = path.with_name(f"{path.name}.partial")
    partial_truth = path.with_name(f"{path.name}.truth.json.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        lay_out(partial, simulation, stations, positions)
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


def _fill(
    path: Path,
    simulation: Simulation,
    sky: list[list[Component]],
    corruption: Corruption,
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
        for scan in schedule(simulation):
            for window in range(simulation.spectral_windows):
                frequencies = simulation.frequencies_hz(window)
                bandpass = corruption.bandpass[window]
                bandpass = bandpass[first] * bandpass[second].conj()
                for begin in range(0, scan.integrations, step):
                    count = min(step, scan.integrations - begin)
                    rows = count * baselines
                    uvw = main.getcol("UVW", row, rows)
                    attenuated = simulation.pointings > 1 and scan.field >= FIRST_POINTING
                    seen = sum(part.visibility(frequencies, uvw, attenuated) for part in sky[scan.field])
                    middle = np.arange(begin, begin + count, dtype=np.float64) + 0.5
                    seconds = scan.start_seconds + middle * simulation.integration_seconds
                    gain = corruption.gain(window, seconds)
                    gain = gain[:, first] * gain[:, second].conj()
                    data = np.reshape(seen, (count, baselines, simulation.channels, 1)) * bandpass
                    data *= gain[:, :, None, :]
                    noise = random.standard_normal((*data.shape, 2), dtype=np.float32).view(np.complex64)
                    data += np.float32(simulation.noise_jy) * noise[..., 0]
                    data = data.reshape(rows, simulation.channels, CORRELATIONS)
                    main.putcol("DATA", data.T, row, rows)
                    main.putcol("FLAG", np.zeros(data.T.shape, bool), row, rows)
                    main.putcol("SIGMA", np.full((CORRELATIONS, rows), sigma), row, rows)
                    main.putcol("WEIGHT", np.full((CORRELATIONS, rows), sigma**-2), row, rows)
                    main.putcol("FLAG_ROW", np.zeros(rows, bool), row, rows)
                    main.putcol("SCAN_NUMBER", np.full(rows, scan.number), row, rows)
                    row += rows


def _truth(
    simulation: Simulation, stations: list[str], sky: list[list[Component]], corruption: Corruption
) -> dict[str, Any]:
    windows = [simulation.frequencies_hz(window) for window in range(simulation.spectral_windows)]
    fields = []
    for number, (field, components) in enumerate(zip(fields_of(simulation), sky, strict=True)):
        described = asdict(field)
        described["scans"] = [scan.number for scan in schedule(simulation) if scan.field == number]
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
