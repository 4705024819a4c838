from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgeline.errors import BadInput
from surgeline.simulate import Simulation, primary_beam_arcsec, simulate

TINY = {"antennas": 4, "channels": 4, "integration_seconds": 30.0, "target_scans": 1}


pytestmark = pytest.mark.usefixtures("casa")


@pytest.fixture(scope="module")
def observation(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("simulation") / "vla.ms"
    simulation = Simulation(antennas=12, channels=8, integration_seconds=20.0, noise_jy=0.05)
    return path, simulate(path, simulation)


def column(path: Path, name: str, query: str = "ANTENNA1 != ANTENNA2") -> np.ndarray:
    from casatools import table

    main = table()
    main.open(str(path))
    selected = main.query(query)
    values = selected.getcol(name)
    selected.close()
    main.close()
    return np.asarray(values)


def test_scans_intents_and_columns(observation: tuple[Path, dict[str, Any]]) -> None:
    from casatools import msmetadata, table

    path, truth = observation
    metadata = msmetadata()
    metadata.open(str(path))
    try:
        fields = [metadata.namesforfields(metadata.fieldsforscan(scan))[0] for scan in range(1, 7)]
        assert metadata.scannumbers().tolist() == [1, 2, 3, 4, 5, 6]
        assert fields == ["1331+305=3C286", "J1445+0958", "TARGET", "J1445+0958", "TARGET", "J1445+0958"]
        assert [field["scans"] for field in truth["fields"]] == [[1], [2, 4, 6], [3, 5]]
        for intent, scans in (("FLUX", [1]), ("BANDPASS", [1]), ("PHASE", [2, 4, 6])):
            assert metadata.scansforintent(f"CALIBRATE_{intent}#UNSPECIFIED").tolist() == scans
        assert metadata.scansforintent("OBSERVE_TARGET#UNSPECIFIED").tolist() == [3, 5]
        assert metadata.antennanames()[:2] == ["ea01", "ea02"]
        assert metadata.chanfreqs(0).tolist() == truth["channel_frequencies_hz"][0]
    finally:
        metadata.close()
    main = table()
    main.open(str(path))
    assert {"DATA", "MODEL_DATA", "CORRECTED_DATA"} & set(main.colnames()) == {"DATA"}
    main.close()
    assert not column(path, "FLAG").any()
    assert (np.diff(column(path, "TIME")) >= 0).all()
    assert (column(path, "ANTENNA1", "TRUE") != column(path, "ANTENNA2", "TRUE")).all()
    assert column(path, "DATA").size * 8 == Simulation(**truth["simulation"]).data_bytes
    assert json.loads(Path(f"{path}.truth.json").read_text()) == json.loads(json.dumps(truth))


def test_calibration_recovers_the_truth(observation: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from casatasks import applycal, bandpass, fluxscale, gaincal, setjy, tclean
    from casatools import image

    original, truth = observation
    path = tmp_path / "vla.ms"
    shutil.copytree(original, path)
    ms, refant = str(path), "ea01"
    flux, phase, target = (field["name"] for field in truth["fields"])
    tables = {name: str(tmp_path / name) for name in ("phase", "bandpass", "gain", "flux")}

    standard = setjy(ms, field=flux, standard="Perley-Butler 2017", scalebychan=True, usescratch=True)
    assert standard["0"]["0"]["fluxd"][0] == pytest.approx(truth["fields"][0]["continuum_jy"][0], rel=0.01)
    frequency = np.array(truth["channel_frequencies_hz"][0])
    polynomial = np.polynomial.Polynomial(truth["fields"][0]["components"][0]["log10_coefficients"])
    model = column(path, "MODEL_DATA", "FIELD_ID == 0").real.mean(axis=(0, 2))
    assert model == pytest.approx(10 ** polynomial(np.log10(frequency / 1e9)), rel=1e-5)

    gaincal(ms, tables["phase"], field=flux, refant=refant, calmode="p", solint="int")
    bandpass(ms, tables["bandpass"], field=flux, refant=refant, solint="inf", gaintable=[tables["phase"]])
    gaincal(
        ms,
        tables["gain"],
        field=f"{flux},{phase}",
        refant=refant,
        solint="inf",
        gaintable=[tables["bandpass"]],
    )
    found = fluxscale(ms, tables["gain"], tables["flux"], reference=flux, transfer=phase)["1"]["0"]
    assert found["fluxd"][0] == pytest.approx(2.5, rel=0.01)
    applycal(ms, field=target, gaintable=[tables["flux"], tables["bandpass"]], interp=["linear", "nearest"])

    sources = {part["name"]: part for part in truth["fields"][2]["components"]}
    cell = sources["north-east"]["l_arcsec"] / 8 / 4  # a quarter of a beam
    picture = image()
    # Beside the line the continuum is alone; at its centre the line outshines it.
    for channels, names in (("0~1", ["north-east", "north-west", "south"]), ("4", ["line"])):
        name = str(tmp_path / f"image{channels[0]}")
        tclean(
            ms,
            imagename=name,
            field=target,
            spw=f"0:{channels}",
            imsize=128,
            cell=f"{cell}arcsec",
            niter=200,
        )
        picture.open(f"{name}.image")
        pixels = picture.getchunk()[:, :, 0, 0]
        picture.close()
        for part in (sources[name] for name in names):
            x, y = round(64 - part["l_arcsec"] / cell), round(64 + part["m_arcsec"] / cell)
            box = pixels[x - 6 : x + 7, y - 6 : y + 7]
            peak = np.unravel_index(box.argmax(), box.shape)
            assert np.abs(np.subtract(peak, 6)).max() <= 1, part["name"]
            if names != ["line"]:
                assert box.max() == pytest.approx(part["mean_flux_jy"][0], rel=0.1), part["name"]


def test_noise_is_as_asked_and_weights_say_so(tmp_path: Path) -> None:
    path = tmp_path / "plain.ms"
    perfect = {"gain_amplitude_scatter": 0.0, "gain_phase_scatter_deg": 0.0, "bandpass_scatter": 0.0}
    simulate(path, Simulation(**(TINY | perfect | {"noise_jy": 0.2, "intents": False, "channels": 64})))
    noise = column(path, "DATA", "FIELD_ID == 1") - 2.5
    assert noise.real.std() == pytest.approx(0.2, rel=0.05)
    assert noise.imag.std() == pytest.approx(0.2, rel=0.05)
    assert abs(noise.mean()) < 0.02
    assert np.allclose(column(path, "SIGMA"), 0.2)
    assert np.allclose(column(path, "WEIGHT"), 25.0)


def test_intents_may_be_left_out(tmp_path: Path) -> None:
    from casatools import msmetadata

    path = tmp_path / "plain.ms"
    simulate(path, Simulation(**TINY, intents=False))
    metadata = msmetadata()
    metadata.open(str(path))
    assert len(metadata.intents()) == 0
    metadata.close()


def test_same_seed_gives_same_visibilities(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.ms", "two.ms", "three.ms")]
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        simulate(path, Simulation(**TINY, seed=seed))
    one, two, three = (column(path, "DATA") for path in paths)
    assert (one == two).all()
    assert (one != three).any()


@pytest.mark.parametrize(
    "size",
    [
        {"integration_seconds": 7.3, "spectral_windows": 3},
        {"antennas": 27, "configuration": "A", "start_frequency_hz": 4.3e10, "noise_jy": 0.0},
        {"channels": 1, "line": False, "target_scan_seconds": 1.0},
    ],
)
def test_any_size_is_filled(tmp_path: Path, size: dict[str, Any]) -> None:
    simulation = Simulation(**(TINY | size))
    simulate(tmp_path / "some.ms", simulation)
    data = column(tmp_path / "some.ms", "DATA", "TRUE")
    assert data.size * 8 == simulation.data_bytes
    assert (np.abs(data) > 0).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.ms", "some.ms.truth.json"]


def test_pointings_of_a_mosaic_see_the_same_sky_through_their_own_primary_beams(tmp_path: Path) -> None:
    path = tmp_path / "mosaic.ms"
    errorless = {
        "noise_jy": 0.0,
        "gain_amplitude_scatter": 0.0,
        "gain_phase_scatter_deg": 0.0,
        "bandpass_scatter": 0.0,
    }
    truth = simulate(path, Simulation(**TINY, **errorless, pointings=3, line=False))
    assert truth["primary_beam"] is True
    pointings = truth["fields"][2:]
    assert [field["name"] for field in pointings] == ["TARGET_1", "TARGET_2", "TARGET_3"]
    assert [field["scans"] for field in pointings] == [[3], [4], [5]]
    frequency = np.array(truth["channel_frequencies_hz"][0])
    width = primary_beam_arcsec(frequency)
    names = [[part["name"] for part in field["components"]] for field in pointings]
    assert names[0] == names[1] == names[2]
    west, middle, east = ({part["name"]: part for part in field["components"]} for field in pointings)
    for name in names[0]:
        assert west[name]["mean_flux_jy"] == east[name]["mean_flux_jy"]
        # Half a primary beam apart, from west to east.
        for one, other in ((west, middle), (middle, east)):
            assert one[name]["l_arcsec"] - other[name]["l_arcsec"] == pytest.approx(width[0] / 2, rel=0.01)
            assert one[name]["m_arcsec"] == pytest.approx(other[name]["m_arcsec"], abs=10)
    for number, components in enumerate((west, middle, east), start=2):
        rows = f"FIELD_ID == {number}"
        uvw, data = column(path, "UVW", rows), column(path, "DATA", rows)
        seen = np.zeros(data.shape[1:], complex)
        for part in components.values():
            east_of, north_of = (math.radians(part[axis] / 3600) for axis in ("l_arcsec", "m_arcsec"))
            distance = math.degrees(math.asin(math.hypot(east_of, north_of))) * 3600
            flux = 10 ** np.polynomial.Polynomial(part["log10_coefficients"])(np.log10(frequency / 1e9))
            flux = flux * 0.5 ** ((2 * distance / width) ** 2)
            path_length = (
                uvw[0] * east_of + uvw[1] * north_of + uvw[2] * (math.sqrt(1 - east_of**2 - north_of**2) - 1)
            )
            seen += flux[:, None] * np.exp(2j * np.pi * np.outer(frequency, path_length) / 299792458.0)
        assert np.abs(data[0] - seen).max() < 1e-4 * np.abs(seen).max()


def test_only_a_measurement_set_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "letter").write_text("dear")
    with pytest.raises(BadInput, match="already exists"):
        simulate(path, Simulation(**TINY))
    with pytest.raises(BadInput, match="not a MeasurementSet"):
        simulate(path, Simulation(**TINY), overwrite=True)
    assert (path / "letter").read_text() == "dear"
    simulate(tmp_path / "old.ms", Simulation(**TINY))
    simulate(tmp_path / "old.ms", Simulation(**(TINY | {"channels": 5})), overwrite=True)
    assert column(tmp_path / "old.ms", "DATA").shape[1] == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"antennas": 28},
        {"pointings": 0},
        {"channels": 0},
        {"noise_jy": float("nan")},
        {"configuration": "E"},
        {"target_scans": 100},
        {"start_frequency_hz": 49.99e9},
    ],
)
def test_what_cannot_be_simulated_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Simulation(**wrong)
