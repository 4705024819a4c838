"""Real observations imaged in parts, against one tclean of the same CASA."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagechecks import DIRTY, assert_same, by_rows, by_tclean, in_this_process, pixels, plain_numbers
from surgeline.imaging.cube import clean_cube
from surgeline.work.procedure import drive

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def quasar(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """3C273 with the VLA at X band: one channel, 7,669 rows."""
    import casadata
    from casatasks import importuvfits

    vis = str(tmp_path_factory.mktemp("3c273") / "3c273.ms")
    importuvfits(fitsfile=f"{casadata.datapath}/demo/3C273XC1.fits", vis=vis)
    return vis


@pytest.fixture(scope="module")
def ring(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """M87 with the Event Horizon Telescope."""
    from casatasks import importuvfits

    vis = str(tmp_path_factory.mktemp("m87") / "m87.ms")
    (file,) = (DATA / "eht-m87-2017").glob("*.uvfits")
    importuvfits(fitsfile=str(file), vis=vis)
    return vis


@pytest.fixture(scope="module")
def galaxy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """NGC 4826 with BIMA: seven pointings, and lines."""
    folder = tmp_path_factory.mktemp("ngc4826")
    shutil.unpack_archive(DATA / "bima-ngc4826" / "mssel_test_small_multifield_spw.ms.tgz", folder)
    (vis,) = folder.glob("*.ms")
    return str(vis)


def assert_rows_are_as_tclean(arguments: dict[str, Any], folder: Path, parts: int) -> None:
    """The dirty image and what is cleaned, in so many parts."""
    for name, niter in (("dirty", 0), ("clean", arguments["niter"])):
        asked = {**arguments, "niter": niter}
        record = by_rows({**asked, "imagename": str(folder / f"{name} in parts")}, parts)
        assert plain_numbers(record) == plain_numbers(by_tclean(asked, folder / name))
        assert_same(folder / f"{name} in parts", folder / name, *([DIRTY] if not niter else []))
    assert record["nmajordone"] > 2


def test_a_quasar_by_rows(quasar: str, tmp_path: Path) -> None:
    arguments = {"vis": quasar, "datacolumn": "data", "imsize": 256, "cell": "0.3arcsec", "weighting": "briggs",
                 "niter": 300, "nmajor": 3, "cycleniter": 100}  # fmt: skip
    assert_rows_are_as_tclean(arguments, tmp_path, 3)
    assert pixels(tmp_path / "clean in parts.image").max() == pytest.approx(29.9, rel=0.02)


def test_the_event_horizon_telescope_by_rows(ring: str, tmp_path: Path) -> None:
    arguments = {"vis": ring, "datacolumn": "data", "imsize": 128, "cell": "0.000002arcsec", "weighting": "uniform",
                 "niter": 100, "nmajor": 2, "cycleniter": 50, "mask": "circle[[64pix,64pix],20pix]"}  # fmt: skip
    assert_rows_are_as_tclean(arguments, tmp_path, 2)


def test_a_mosaic_by_rows(galaxy: str, tmp_path: Path) -> None:
    arguments = {"vis": galaxy, "field": "2~8", "spw": "2", "observation": "0,1,2", "datacolumn": "data",
                 "gridder": "mosaic", "phasecenter": "J2000 12h56m44 21d41m05", "imsize": 128, "cell": "2arcsec",
                 "weighting": "briggs", "niter": 60, "nmajor": 2, "cycleniter": 30, "pbcor": True}  # fmt: skip
    assert_rows_are_as_tclean(arguments, tmp_path, 3)


def test_a_cube_of_one_pointing_by_channels(galaxy: str, tmp_path: Path) -> None:
    arguments = {"vis": galaxy, "field": "3", "spw": "3", "observation": "0,1,2", "datacolumn": "data",
                 "specmode": "cube", "nchan": 7, "start": "500km/s", "width": "-12km/s", "restfreq": "115.2712GHz",
                 "imsize": 64, "cell": "2arcsec", "weighting": "briggs", "niter": 70, "cycleniter": 10}  # fmt: skip
    record = by_tclean(arguments, tmp_path / "one")
    cleaned = drive(
        clean_cube({**arguments, "imagename": str(tmp_path / "in parts")}, 3),
        lambda jobs: [in_this_process(job) for job in jobs],
        lambda jobs: None,
        lambda job: [],
    )
    for product in ("image", "residual", "model", "psf", "pb"):
        found, wanted = (pixels(tmp_path / f"{stem}.{product}") for stem in ("in parts", "one"))
        assert np.array_equal(found, wanted, equal_nan=True), product
        assert np.nanmax(np.abs(wanted)) > 0
    assert plain_numbers(cleaned.record) == plain_numbers(record)
