"""The main job on real data: NGC 5921, in parallel, serially, by plain CASA, killed and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from astropy.io import fits

from report.page import broken_links
from support import RECIPE, ROOT, processes_in, start_surgeline, surgeline, wait_until
from surgeline.context.records import Decision, FluxDensity, Image, Observation, Picture
from surgeline.context.store import Context

CUBE = "N5921_2.spw0.cube"


def cube_of(workdir: Path) -> np.ndarray:
    return fits.getdata(workdir / "products" / f"{CUBE}.fits")


def rms(pixels: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(pixels.astype(float) ** 2)))


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("demo") / "parallel session"
    ran = surgeline("run", RECIPE, "--workdir", workdir, "--set", "dask.n_workers=2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return workdir


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("demo") / "serial"
    ran = surgeline("run", RECIPE, "--workdir", workdir, "--set", "backend=serial")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return workdir


def test_numbers_are_the_published_ones_and_parallel_equals_serial(parallel: Path, serial: Path) -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "examples" / "check_ngc5921.py", parallel, serial], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count(" ok\n") == 6
    for product in (f"{CUBE}.moment0", f"{CUBE}.moment1", "N5921_2.spw0.continuum"):
        one, other = (fits.getdata(workdir / "products" / f"{product}.fits") for workdir in (parallel, serial))
        assert np.array_equal(one, other, equal_nan=True), product


def test_script_of_the_weblog_gives_the_same_pixels_in_plain_casa(parallel: Path, tmp_path: Path) -> None:
    script = (parallel / "weblog" / "commands.py").read_text()
    prelude = (
        "from pathlib import Path\n"
        "from surgeline.work.casaprocess import CasaProcess\n"
        "CasaProcess(Path.cwd(), Path('casa.log')).prepare()\n"
    )
    (tmp_path / "plain.py").write_text(prelude + script)
    ran = subprocess.run([sys.executable, "plain.py"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "surgeline" not in re.sub("(?m)^#.*$", "", script)
    assert np.array_equal(cube_of(parallel), cube_of(tmp_path), equal_nan=True)


def test_products_are_whole_and_described(parallel: Path) -> None:
    manifest = json.loads((parallel / "products" / "manifest.json").read_text())
    assert {product["kind"] for product in manifest["products"]} == {"cube", "continuum", "moment 0", "moment 1"}
    for product in manifest["products"]:
        content = (parallel / product["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == product["sha256"]
        assert len(content) == product["size"]
    header = fits.getheader(parallel / "products" / f"{CUBE}.fits")
    assert (header["OBJECT"], header["TELESCOP"], header["BUNIT"]) == ("N5921_2", "VLA", "Jy/beam")
    assert "CASA" in header["ORIGIN"] and "Surgeline" in str(header["HISTORY"])
    for table in manifest["calibration"]:
        assert (parallel / table / "table.dat").is_file()


def test_record_tells_of_every_job(parallel: Path) -> None:
    record = json.loads((parallel / "run.json").read_text())
    assert record["state"] == "finished" and record["versions"]["casatools"]
    for stage in record["stages"]:
        assert stage["state"] == "finished" and stage["ended"] >= stage["started"]
        for job in stage["jobs"]:
            assert job["state"] == "finished"
            assert job["peak_memory"] > 1e7 and job["worker"].startswith("worker-") and job["resources"]
    names = {job["worker"] for stage in record["stages"] for job in stage["jobs"]}
    assert names == {"worker-0", "worker-1"}


def test_times_are_in_utc_whatever_the_scale_of_the_data(parallel: Path) -> None:
    context = Context(parallel / "context.db", read_only=True)
    observation = context.last(Observation)
    context.close()
    assert observation is not None
    # listobs says 09:19:00 (TAI) for the middle of the first integration, when TAI was 29 s ahead of UTC.
    utc = datetime(1995, 4, 13, 9, 18, 31, tzinfo=UTC)
    assert abs(observation.start - utc.timestamp()) < 0.01


def test_nothing_stray_is_left(parallel: Path) -> None:
    assert not processes_in(parallel)
    expected = {
        "calibration", "context.db", "data", "images", "logs", "pictures", "products", "recipe.yaml", "run.json",
        "session.lock", "states", "weblog",
    }  # fmt: skip
    assert {path.name for path in parallel.iterdir()} == expected
    assert not [path for path in parallel.rglob("*") if "partial" in path.name or path.name.startswith("casa-2")]
    assert sorted(path.name for path in (parallel / "logs").glob("casa-*.log")) == [
        "casa-worker-0.log",
        "casa-worker-1.log",
    ]


def test_weblog_has_the_results_and_leads_nowhere_else(parallel: Path) -> None:
    pages = {page.name: page.read_text() for page in (parallel / "weblog").glob("*.html")}
    assert pages["index.html"].count("<img") >= 4
    assert "2.484" in pages["calibration.html"] and "14.76" in pages["calibration.html"]
    assert len(pages) >= 25
    assert not any(re.search(r'(src|href)="https?:', page) for page in pages.values())
    assert broken_links(parallel / "weblog") == []


def test_pictures_show_all_that_was_observed_and_made(parallel: Path) -> None:
    context = Context(parallel / "context.db", read_only=True)
    pictures = context.all(Picture)
    context.close()
    assert all((parallel / picture.path).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert {picture.kind for picture in pictures} == {
        "array", "uv coverage", "elevation", "scans", "flags", "bandpass", "gains", "image", "residual", "plane",
        "spectrum", "moment",
    }  # fmt: skip
    planes = [picture for picture in pictures if picture.kind == "plane"]
    assert {plane.subject for plane in planes} == {f"images/{CUBE}.image"}
    assert [plane.channel for plane in planes] == list(range(46))
    # From 1.41279 GHz on, in steps of 24.414 kHz, as the correlator's channels are wide.
    steps = np.diff([plane.frequency for plane in planes])
    assert np.allclose(steps, 24414.0625, rtol=1e-3) and abs(planes[0].frequency / 1.41279e9 - 1.0) < 1e-5
    # All antennas, and one antenna in each of the others.
    assert sum(picture.kind == "bandpass" for picture in pictures) == 1 + 27


def test_running_it_again_does_nothing_twice(parallel: Path) -> None:
    before = (parallel / "products" / f"{CUBE}.fits").stat().st_mtime
    ran = surgeline("run", RECIPE, "--workdir", parallel, "--set", "dask.n_workers=2")
    assert ran.returncode == 0 and "12 of 12 stages had finished before" in ran.stdout
    assert (parallel / "products" / f"{CUBE}.fits").stat().st_mtime == before


def test_working_folder_can_be_moved(parallel: Path, tmp_path: Path, casa: Path) -> None:
    from casatools import image

    moved = tmp_path / "moved"
    parallel.rename(moved)
    try:
        tool = image()
        tool.open(str(moved / "images" / f"{CUBE}.image"))
        pixels = np.where(tool.getchunk(getmask=True), tool.getchunk(), np.nan)
        tool.close()
        assert np.array_equal(pixels[:, :, 0, :].T, cube_of(moved).squeeze(), equal_nan=True)
    finally:
        moved.rename(parallel)


def test_killed_twice_and_resumed_gives_the_same_cube(parallel: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "session"
    moments = {
        "run": ("calibration/NGC5921.gaincal.G", "gains are being solved for"),
        # Kept aside at the beginning of a minor cycle, and taken away after the last.
        "resume": ("images/*.parts/*.before-1", "the first minor cycle has begun"),
    }
    for command, (sign, what) in moments.items():
        recipe = [RECIPE] if command == "run" else []
        session = start_surgeline(command, *recipe, "--workdir", workdir, "--set", "dask.n_workers=2")
        wait_until(lambda sign=sign: any(workdir.glob(sign)), 120, what)
        os.kill(session.pid, signal.SIGKILL)
        session.communicate()
        wait_until(lambda: not processes_in(workdir), 20, "the workers of a killed session are gone")
    resumed = surgeline("resume", "--workdir", workdir, "--set", "dask.n_workers=2")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "stages had finished before" in resumed.stdout
    assert np.array_equal(cube_of(workdir), cube_of(parallel), equal_nan=True)


def test_worker_killed_in_the_middle_is_told_and_costs_nothing(parallel: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "session"
    session = start_surgeline("run", RECIPE, "--workdir", workdir, "--set", "dask.n_workers=2")
    wait_until(lambda: any(workdir.glob("images/*.parts/*.before-1")), 120, "the first minor cycle has begun")
    victim = processes_in(workdir)[0]
    victim.kill()
    output, _ = session.communicate(timeout=300)
    assert session.returncode == 0, output
    assert re.search(r"died running .*killed by signal 9 \(SIGKILL\)", output)
    assert np.array_equal(cube_of(workdir), cube_of(parallel), equal_nan=True)
    record = json.loads((workdir / "run.json").read_text())
    losses = [loss for stage in record["stages"] for job in stage["jobs"] for loss in job["losses"]]
    assert losses and "SIGKILL" in losses[0]["how"]


@pytest.mark.mpi
def test_an_mpi_session_taken_down_and_a_server_killed_give_the_same_cube(parallel: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "session"
    session = start_surgeline("mpirun", "-n", "3", "--", "run", RECIPE, "--workdir", workdir)

    def cleaning_since(moment: float) -> bool:
        begun = [path.stat().st_mtime for path in workdir.glob("images/*.parts/*.before-1")]
        return bool(processes_in(workdir)) and any(time > moment for time in begun)

    wait_until(lambda: cleaning_since(0), 120, "the first minor cycle has begun")
    servers = processes_in(workdir)
    # The process that mpirun itself watches: then it ends all ranks.
    psutil.Process(servers[0].ppid()).kill()
    psutil.wait_procs(servers, timeout=30)
    moment = datetime.now(UTC).timestamp()
    wait_until(lambda: cleaning_since(moment), 120, "the first minor cycle has begun again")
    processes_in(workdir)[0].kill()
    output, _ = session.communicate(timeout=300)
    assert session.returncode == 0, output
    # What it ran is told, unless it was between two jobs.
    assert re.search(r"rank [12] on \S+ was killed by SIGKILL( while it ran .+)?; what had finished is kept", output)
    assert re.search(r"died running .*killed by signal 9 \(SIGKILL\)", output)
    assert "stages had finished before" in output
    assert np.array_equal(cube_of(workdir), cube_of(parallel), equal_nan=True)
    record = json.loads((workdir / "run.json").read_text())
    losses = [loss for stage in record["stages"] for job in stage["jobs"] for loss in job["losses"]]
    assert [loss["worker"][:7] for loss in losses] == ["server-"]


@pytest.mark.mpi
def test_dask_in_an_mpi_session_gives_the_same_pixels(serial: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "session"
    recipe = yaml.safe_load(RECIPE.read_text())
    next(stage for stage in recipe["stages"] if stage["task"] == "moments")["backend"] = "mpi"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    settings = ["--set", "mpi.dask_beside=true", "--set", "dask.n_workers=2"]
    ran = surgeline("mpirun", "-n", "3", "--", "run", tmp_path / "recipe.yaml", "--workdir", workdir, *settings)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for product in (CUBE, f"{CUBE}.moment0", f"{CUBE}.moment1", "N5921_2.spw0.continuum"):
        one, other = (fits.getdata(folder / "products" / f"{product}.fits") for folder in (workdir, serial))
        assert np.array_equal(one, other, equal_nan=True), product
    stages = json.loads((workdir / "run.json").read_text())["stages"]
    workers = {stage["name"]: {job["worker"][:7] for job in stage["jobs"]} for stage in stages}
    assert workers.pop("moments") == {"server-"}
    assert {stage["cluster"] for stage in stages if stage["name"] == "moments"} == {"MPI session"}
    assert set().union(*workers.values()) == {"worker-"}


@pytest.mark.parametrize(
    ("number", "code", "backend", "sign"),
    [
        (signal.SIGINT, 130, "dask", "calibration/NGC5921.bandpass.B"),
        # In the midst of a call of CASA that goes on for seconds, in the session's own process.
        (signal.SIGTERM, 143, "serial", "images/*.parts/*.psf"),
        (signal.SIGINT, 130, "mpi", "calibration/NGC5921.bandpass.B"),
    ],
)
def test_signals_stop_cleanly(tmp_path: Path, number: signal.Signals, code: int, backend: str, sign: str) -> None:
    workdir = tmp_path / "session"
    prefix = ["mpirun", "-n", "3", "--"] if backend == "mpi" else []
    session = start_surgeline(*prefix, "run", RECIPE, "--workdir", workdir, "--set", f"backend={backend}")
    wait_until(lambda: any(workdir.glob(sign)), 120, f"{sign} is being made")
    session.send_signal(number)
    output, _ = session.communicate(timeout=60)
    assert session.returncode == code, output
    assert f"stopped by {number.name}" in output and "Traceback" not in output
    assert not processes_in(workdir)
    assert json.loads((workdir / "run.json").read_text())["state"] == "interrupted"


def test_a_rerun_finds_the_data_as_they_were(parallel: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "rerun"
    shutil.copytree(parallel, workdir, symlinks=True)
    recipe = yaml.safe_load(RECIPE.read_text())
    # More is flagged, so that all after it differs; then it is as it was, and so is all after it.
    flag = next(stage for stage in recipe["stages"] if stage["task"] == "flag")
    recipe["stages"] = recipe["stages"][: recipe["stages"].index(flag) + 6]
    changed = {**recipe, "stages": [{**stage} for stage in recipe["stages"]]}
    changed["stages"][1] = {**flag, "arguments": {**flag["arguments"], "shadow": True, "zeros": True}}
    for content in (changed, recipe):
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(content))
        ran = surgeline("run", tmp_path / "changed.yaml", "--workdir", workdir, "--set", "dask.n_workers=2")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "data/NGC5921.ms is put back as it was before flag" in ran.stdout
    rest = surgeline("run", RECIPE, "--workdir", workdir, "--set", "dask.n_workers=2")
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert np.array_equal(cube_of(workdir), cube_of(parallel), equal_nan=True)
    # Changed behind the session's back, the data are not built upon.
    flagged = workdir / "data" / "NGC5921.ms" / "table.f1"
    flagged.write_bytes(bytes(reversed(flagged.read_bytes())))
    refused = surgeline("run", RECIPE, "--workdir", workdir, "--force", "moments")
    assert refused.returncode == 5
    assert "something else has changed it" in refused.stderr


def test_heuristics_alone_do_as_well(parallel: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "calimage"
    ran = surgeline("run", "calimage", "--vis", "casadata:demo/NGC5921.fits", "--workdir", workdir)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    context = Context(workdir / "context.db")
    flux = context.last(FluxDensity, kind="measured", field=1)
    assert flux is not None
    # On the scale of 2017, which these heuristics take, plain casatasks gives 2.5265 Jy.
    assert abs(flux.flux / 2.5265 - 1.0) < 0.02
    assert rms(cube_of(workdir)) <= rms(cube_of(parallel))
    channels = next(fact for fact in context.all(Decision) if fact.what.startswith("continuum channels"))
    assert channels.value.startswith("0:")
    cube = context.last(Image, kind="cube")
    assert cube is not None and cube.stop == "threshold"
    context.close()


def test_simulated_observation_gives_back_what_went_in(tmp_path: Path) -> None:
    vis, workdir = tmp_path / "simulated.ms", tmp_path / "session"
    made = surgeline(
        "simulate", vis, "--channels", "16", "--spectral-windows", "2", "--antennas", "12", "--seed", "7"
    )
    assert made.returncode == 0, made.stderr
    truth = json.loads(Path(f"{vis}.truth.json").read_text())
    ran = surgeline("run", "calimage", "--vis", vis, "--workdir", workdir)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    context = Context(workdir / "context.db")
    fields = {field["role"]: field for field in truth["fields"]}
    for flux in context.all(FluxDensity, kind="measured"):
        true = fields["phase"]["continuum_jy"][flux.spectral_window]
        assert abs(flux.flux - true) < max(3.0 * flux.error, 0.001 * true)
    images = {image.path: image for image in context.all(Image)}
    brightest = max(component["mean_flux_jy"][0] for component in fields["target"]["components"])
    found = images["images/TARGET.spw0.continuum.image"].maximum
    assert abs(found / brightest - 1.0) < 0.08
    # The line is in the second window, so only that one gets a cube.
    assert [image.path for image in context.all(Image, kind="cube")] == ["images/TARGET.spw1.cube.image"]
    context.close()
    # The user's own data are as they were.
    assert not (vis.parent / f"{vis.name}.flagversions").exists()
