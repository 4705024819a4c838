"""Images that one job makes, by MPI and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

from support import RECIPE, surgeline

PRODUCTS = {".image", ".mask", ".model", ".pb", ".psf", ".residual", ".sumwt"}


def recipe_of(folder: Path, name: str, **arguments: object) -> Path:
    """The reduction of NGC 5921 with nothing but its continuum in the end, imaged as the arguments say."""
    content = yaml.safe_load(RECIPE.read_text())
    stages = content["stages"]
    plan = next(stage for stage in stages if stage["task"] == "plan_images")
    plan["arguments"] = {"continuum": {"imsize": 128, "cell": "15arcsec", "niter": 200}, "cubes": False}
    imaging = next(stage for stage in stages if stage["task"] == "make_images")
    imaging["arguments"] = arguments
    wanted = [stage for stage in stages if stage["task"] != "moments"]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, "name": name, "stages": wanted}))
    return path


@pytest.mark.mpi
def test_an_image_by_mpi_is_that_of_one_process_and_leaves_nothing_else(tmp_path: Path) -> None:
    made = {}
    for name, arguments in {"plain": {}, "parallel": {"parallel": "mpi", "images": ["*.continuum"]}}.items():
        workdir = tmp_path / name
        ran = surgeline("run", recipe_of(tmp_path, name, **arguments), "--workdir", workdir)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        (product,) = (workdir / "products").glob("*.fits")
        made[name] = fits.getdata(product)
        leftovers = [path.name for path in (workdir / "images").iterdir() if path.suffix not in PRODUCTS]
        assert not leftovers
    # Each server grids its own rows, so that sums of floats are in another order.
    difference = np.nanmax(abs(made["parallel"] - made["plain"]))
    assert 0 < difference < 1e-3 * np.nanmax(made["plain"])
    commands = (tmp_path / "parallel" / "weblog" / "commands.py").read_text()
    assert "parallel=True" in commands


def test_images_that_are_not_planned_are_told_with_those_that_are(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "none", images=["*.cube"])
    ran = surgeline("run", recipe, "--workdir", tmp_path / "none", "--set", "backend=serial")
    assert ran.returncode == 5
    assert "no image of stage 'make_images' is planned" in ran.stderr
    assert "these are: N5921_2.spw0.continuum" in ran.stderr
