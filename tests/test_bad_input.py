"""Bad input: one clear message that names the thing and the way out, a documented exit code, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import RECIPE, ROOT, start_surgeline, surgeline, wait_until
from surgeline.errors import EXIT_CODES, BadInput
from surgeline.work.jobs import JobRequest

LAST = "{task: gaincal, arguments: {spw: '9'}}"
SHORT = "name: short\nstages:\n  - task: import\n  - task: flag\n"


@pytest.fixture(scope="module")
def ms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small.ms"
    made = surgeline("simulate", path, "--antennas", "4", "--channels", "4", "--target-scans", "1")
    assert made.returncode == 0, made.stderr
    assert "made" in made.stdout and not made.stderr
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(SHORT)
    return path


def assert_refused(ran: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert code in EXIT_CODES
    assert "Traceback" not in ran.stdout + ran.stderr
    assert ran.stderr.startswith("surgeline: "), ran.stderr
    for text in said:
        assert text in ran.stderr, ran.stderr


def test_missing_path_names_its_neighbours(ms: Path, recipe: Path, tmp_path: Path) -> None:
    ran = surgeline("run", recipe, "--vis", ms.with_name("smal.ms"), "--workdir", tmp_path / "w")
    assert_refused(ran, 5, "smal.ms does not exist", "did you mean", "small.ms")


def test_folder_that_is_no_ms(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    ran = surgeline("run", recipe, "--vis", folder, "--workdir", tmp_path / "w")
    assert_refused(ran, 5, str(folder), "neither a MeasurementSet", "nor an ASDM")


def test_file_that_is_no_uvfits(recipe: Path, tmp_path: Path) -> None:
    ran = surgeline("run", recipe, "--vis", recipe, "--workdir", tmp_path / "w")
    assert_refused(ran, 5, "is no UVFITS file")


def test_truncated_uvfits_keeps_nothing_half_done(recipe: Path, tmp_path: Path) -> None:
    import casadata

    whole = Path(casadata.datapath) / "demo" / "3C273XC1.fits"
    broken = tmp_path / "broken.fits"
    broken.write_bytes(whole.read_bytes()[:5000])
    ran = surgeline("run", recipe, "--vis", broken, "--workdir", tmp_path / "w")
    assert_refused(ran, 7, "import data/broken.ms", "resume")


def test_ms_that_lost_a_table(ms: Path, recipe: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ms"
    shutil.copytree(ms, damaged)
    shutil.rmtree(damaged / "FIELD")
    ran = surgeline("run", recipe, "--vis", damaged, "--workdir", tmp_path / "w")
    assert_refused(ran, 7, "damaged.ms")


def test_ms_locked_by_another_process(ms: Path, recipe: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from surgeline.work.casaprocess import CasaProcess\n"
        f"CasaProcess(Path.cwd(), Path({str(tmp_path / 'lock.log')!r})).prepare()\n"
        "from casatools import table; held = table()\n"
        f"held.open({str(ms)!r}, nomodify=False, lockoptions={{'option': 'permanent'}})\n"
        "print('locked', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    try:
        ran = surgeline("run", recipe, "--vis", ms, "--workdir", tmp_path / "w", "--set", "session.lock_timeout=1")
        assert_refused(ran, 5, f"is locked by process {holder.pid}", "end that process")
    finally:
        holder.communicate()
    ran = surgeline("run", recipe, "--vis", ms, "--workdir", tmp_path / "w", "--set", "backend=serial")
    assert ran.returncode == 0, ran.stderr


def test_unknown_recipe() -> None:
    assert_refused(surgeline("plan", "calimages"), 4, "no recipe 'calimages'", "'calimage'")


def test_recipe_naming_no_known_stage(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("stages: [{task: import}, {task: flaag}]")
    assert_refused(surgeline("plan", path), 4, str(path), "stage 2", "'flaag'", "did you mean 'flag'")


def test_recipe_with_unknown_argument_and_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("stages: [{task: flag, arguments: {quak: 3}}]")
    assert_refused(surgeline("plan", path), 4, "flag has no argument 'quak'", "did you mean 'quack'")
    path.write_text("stages: [{task: flag, argument: {quack: 3}}]")
    assert_refused(surgeline("plan", path), 4, "unknown key 'argument'", "did you mean 'arguments'")


def test_recipe_with_a_cycle(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("stages: [{task: import, needs: [flag]}, {task: flag, needs: [import]}]")
    assert_refused(surgeline("plan", path), 4, "in a circle", "import", "flag", "→")


def test_task_and_argument_that_do_not_exist(ms: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("stages: [{task: plan_images, arguments: {continuum: {nitter: 5}}}]")
    ran = surgeline("run", path, "--vis", ms, "--workdir", tmp_path / "w")
    assert_refused(ran, 4, "tclean has no argument 'nitter'", "did you mean 'niter'")
    path.write_text("stages: [{task: plan_images, arguments: {cube: {niter: many}}}]")
    assert_refused(surgeline("plan", path, "--vis", ms), 4, "niter is an integer, not str")
    with pytest.raises(BadInput, match=r"casatasks has no task 'tcleen'.*\n.*'tclean'"):
        JobRequest("tcleen", {})
    with pytest.raises(BadInput, match=r"gaincal has no argument 'refand'.*\n.*'refant'"):
        JobRequest("gaincal", {"refand": "1"})


def test_failed_stage_keeps_those_before_it(ms: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    stages = ["import", "flag", "set_model", "bandpass"]
    path.write_text(f"stages: [{', '.join(f'{{task: {stage}}}' for stage in stages)}, {LAST}]")
    ran = surgeline("run", path, "--vis", ms, "--workdir", tmp_path / "w")
    assert_refused(ran, 7, "stage 'gaincal'", "its log is in", "surgeline resume")
    record = json.loads((tmp_path / "w" / "run.json").read_text())
    assert [stage["state"] for stage in record["stages"]] == ["finished"] * 4 + ["failed"]
    assert (tmp_path / "w" / "weblog" / "index.html").exists()


def test_stage_that_needs_what_no_other_made(ms: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("stages: [{task: import}, {task: make_images}]")
    ran = surgeline("run", path, "--vis", ms, "--workdir", tmp_path / "w", "--set", "backend=serial")
    assert_refused(ran, 5, "no image is planned", "plan_images")


def test_no_observation(tmp_path: Path) -> None:
    assert_refused(surgeline("run", "calimage", "--workdir", tmp_path / "w"), 2, "no observation", "--vis")


def test_wrong_command_line() -> None:
    assert_refused(surgeline("run"), 2, "surgeline run --help")
    assert_refused(surgeline("run", "calimage", "--viss", "x"), 2, "--viss")


def test_wrong_configuration(recipe: Path, ms: Path, tmp_path: Path) -> None:
    ran = surgeline("run", recipe, "--vis", ms, "--workdir", tmp_path / "w", "--set", "dask.n_worker=2")
    assert_refused(ran, 3, "--set dask.n_worker=2", "did you mean 'n_workers'")
    ran = surgeline("doctor", SURGELINE__DASK__N_WORKERS="many")
    assert_refused(ran, 3, "SURGELINE__DASK__N_WORKERS", "many")


def test_more_than_any_worker_has(ms: Path, tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("stages: [{task: import, resources: {memory: 900TB}}]")
    ran = surgeline("run", path, "--vis", ms, "--workdir", tmp_path / "w")
    assert_refused(ran, 4, "900000.0 GB a job", "fewer workers")
    path.write_text("stages: [{task: import, cluster: bach}]")
    ran = surgeline("run", path, "--vis", ms, "--workdir", tmp_path / "w")
    assert_refused(ran, 4, "'bach'", "local")


def test_working_folder_that_cannot_be_written(recipe: Path, ms: Path, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    ran = surgeline("run", recipe, "--vis", ms, "--workdir", occupied / "w")
    assert_refused(ran, 6, str(occupied / "w"), "--workdir")
    # Root may write anywhere but where no files can be made at all.
    ran = surgeline("run", recipe, "--vis", ms, "--workdir", "/proc/surgeline")
    assert_refused(ran, 6, "/proc/surgeline", "--workdir")


def test_working_folder_of_a_running_session(recipe: Path, ms: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    first = start_surgeline("run", RECIPE, "--workdir", workdir)
    try:
        wait_until(lambda: (workdir / "run.json").exists(), 60, "the first session runs")
        ran = surgeline("run", RECIPE, "--workdir", workdir)
        assert_refused(ran, 6, str(workdir), f"process {first.pid}", "still running")
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)


def test_working_folder_of_another_recipe(recipe: Path, ms: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    assert surgeline("run", recipe, "--vis", ms, "--workdir", workdir, "--set", "backend=serial").returncode == 0
    ran = surgeline("run", "calimage", "--vis", ms, "--workdir", workdir)
    assert_refused(ran, 6, "another recipe", "surgeline resume")


def test_resume_of_nothing(tmp_path: Path) -> None:
    assert_refused(surgeline("resume", "--workdir", tmp_path), 6, "no session", "surgeline run")


def test_full_disk(tmp_path: Path, ms: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system to fill")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=75m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        ran = surgeline("run", RECIPE, "--workdir", small / "w", "--set", "dask.n_workers=2")
        assert_refused(ran, 6, "the disk of", "is full", "surgeline resume")
        record = json.loads((small / "w" / "run.json").read_text())
        finished = [stage["name"] for stage in record["stages"] if stage["state"] == "finished"]
        # With room again, the session goes on from there.
        subprocess.run(["mount", "-o", "remount,size=1g", str(small)], check=True)
        resumed = surgeline("resume", "--workdir", small / "w", "--set", "dask.n_workers=2")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        if finished:
            assert f"{len(finished)} of 12 stages had finished before" in resumed.stdout
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_debug_shows_the_traceback() -> None:
    ran = surgeline("--debug", "plan", "nosuch")
    assert ran.returncode != 0 and "Traceback" in ran.stderr


def test_exit_codes_are_documented_in_the_readme_and_by_help() -> None:
    readme = (ROOT / "README.md").read_text()
    told = surgeline("--help").stdout
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} |" in readme
        assert f"{code}  {meaning}\n" in told
