from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from support import ROOT, surgeline
from surgeline.context.records import (
    CalibrationApplication,
    CalibrationTable,
    Dataset,
    Decision,
    Fact,
    ImagePlan,
    Observation,
    Picture,
    Roles,
)
from surgeline.context.store import Context
from surgeline.errors import BadInput, DataError
from surgeline.imaging.onejob import clean_in_one_job
from surgeline.paths import SessionPaths
from surgeline.simulate import Simulation, simulate
from surgeline.stages import self_calibrate
from surgeline.stages.observation import read_observation
from surgeline.stages.self_calibrate import failed_share, is_better
from surgeline.stages.selfcal_intervals import (
    Sampling,
    asked_intervals,
    in_seconds,
    phase_intervals,
    signal_to_noise,
    slow_intervals,
)
from surgeline.stages.selfcal_model import Component, Seen, drawn, look
from surgeline.stages.selfcal_units import Parameters, each_window_once, selected_windows
from surgeline.stages.stage import Stage
from surgeline.work.jobs import Job
from surgeline.work.procedure import drive

NOISE = 0.05
ANTENNAS = 12


def column(path: str | Path, name: str, where: str = "TRUE") -> np.ndarray:
    from casatools import table

    with closing(table()) as main:
        main.open(str(path))
        with closing(main.query(where)) as rows:
            return np.asarray(rows.getcol(name))


@dataclass
class Session:
    """A working folder with one observation in it, as the import stage leaves it, and the process that is in it."""

    observation: Observation
    context: Context

    def run(self, **parameters: Any) -> list[Fact]:
        """Run the stage, every job in this process, and commit what it finds out."""
        stage = Stage("self_calibrate", (self.observation.vis,), self.context.at(), workers=1)
        facts = drive(self_calibrate.run(stage, Parameters(**parameters)), run_jobs, run_aside, unexpected)
        self.context.commit("self_calibrate", facts)
        return facts


# CASA is not for several threads of a process; procedures side by side have one each.
_CASA = threading.Lock()


def run_jobs(jobs: Sequence[Job]) -> list[Any]:
    with _CASA:
        values = [job.run() for job in jobs]
    assert all(Path(path).exists() for job in jobs for path in job.declared.writes)
    return values


def run_aside(jobs: Sequence[Job]) -> None:
    run_jobs(jobs)


def unexpected(job: Job) -> list[Any]:
    raise AssertionError(job)


CLEAN = {"cell": "10.7082arcsec", "imsize": 128, "weighting": "natural", "niter": 3000, "nsigma": 4.0}
TARGET = "data/sim.TARGET.ms"
ERRORLESS = Simulation(
    antennas=ANTENNAS,
    channels=2,
    channel_width_hz=4e6,
    integration_seconds=20.0,
    flux_scan_seconds=20.0,
    phase_scan_seconds=20.0,
    target_scan_seconds=600.0,
    noise_jy=NOISE,
    gain_amplitude_scatter=0.0,
    gain_phase_scatter_deg=0.0,
    bandpass_scatter=0.0,
    line=False,
)


@pytest.fixture(scope="module")
def simulated(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An observation without any errors, but noise: three points, of which the brightest has 0.3 Jy."""
    path = tmp_path_factory.mktemp("simulated") / "sim.ms"
    simulate(path, ERRORLESS)
    return path


@pytest.fixture
def session_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, casa: Path) -> Iterator[Callable[[Path], Session]]:
    """Begins a session of an MS in a folder of its own."""
    contexts = []

    def begin(vis: Path) -> Session:
        SessionPaths(tmp_path).make()
        monkeypatch.chdir(tmp_path)
        shutil.copytree(vis, "data/sim.ms")
        observation = read_observation("data/sim.ms", str(vis))
        context = Context(None)
        contexts.append(context)
        roles = Roles(vis="data/sim.ms", flux=(0,), bandpass=(0,), phase=(1,), target=(2,), reason="")
        context.commit("import", [observation, roles])
        return Session(observation, context)

    yield begin
    for context in contexts:
        context.close()


def change(path: str, changed: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Change the visibilities of an MS, given them, the times in minutes and both antennas of each row."""
    from casatools import table

    with closing(table()) as main:
        main.open(path, nomodify=False)
        columns = [main.getcol(name) for name in ("DATA", "TIME", "ANTENNA1", "ANTENNA2")]
        columns[1] = (columns[1] - columns[1].min()) / 60.0
        main.putcol("DATA", changed(*columns).astype(np.complex64))


def wandering(minutes: np.ndarray) -> np.ndarray:
    """Phases of each antenna that are wrong by up to 57 degrees from the start, and wander by up to 29 more."""
    random = np.random.default_rng(5)
    start, swing, turn = (random.uniform(low, high, (ANTENNAS, 1)) for low, high in ((-1, 1), (0.2, 0.5), (0, 6)))
    return start + swing * np.sin(2 * np.pi * minutes / 8.0 + turn)


def decided(facts: Sequence[Fact]) -> dict[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for fact in facts:
        if isinstance(fact, Decision):
            found.setdefault(fact.value, []).append(fact)
    return found


def imaged(facts: Sequence[Fact]) -> Seen:
    """Image the target by its plan, as make_images does."""
    (plan,) = (fact for fact in facts if isinstance(fact, ImagePlan))
    drive(clean_in_one_job(plan.arguments), run_jobs, run_aside, unexpected)
    return look(plan.arguments["imagename"])


def test_phases_put_into_simulated_data_are_found_and_the_noise_falls_to_the_thermal(
    simulated: Path, session_of: Callable[[Path], Session]
) -> None:
    session = session_of(simulated)

    def corrupted(data: np.ndarray, minutes: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        phases, rows = wandering(minutes), np.arange(len(minutes))
        return data * np.exp(1j * (phases[first, rows] - phases[second, rows]))

    change("data/sim.ms", corrupted)
    facts = session.run(clean=CLEAN, amplitude=(), reference_antenna=("ea01",))
    kept, reverted = (decided(facts).get(value, []) for value in ("kept", "reverted"))
    assert "phases over all scans together" in kept[0].what
    assert any("phases over int" in decision.what for decision in [*kept, *reverted])
    assert all("dynamic range" in decision.reason for decision in [*kept, *reverted])

    # make_images sees what came of it: nearly thermal noise, and the whole flux.
    after = imaged(facts)
    data, corrected = column(TARGET, "DATA"), column(TARGET, "CORRECTED_DATA")
    assert after.noise < 2.0 * NOISE / np.sqrt(data.size)
    assert after.peak == pytest.approx(0.30, rel=0.02)

    # Phases that are linear over the array move the image, which self-calibration cannot know of.
    first, second = column(TARGET, "ANTENNA1"), column(TARGET, "ANTENNA2")
    minutes = (column(TARGET, "TIME") - column("data/sim.ms", "TIME").min()) / 60.0
    phases, rows = wandering(minutes), np.arange(len(minutes))
    put_in = phases[first, rows] - phases[second, rows]
    left = np.angle(corrected / data * np.exp(1j * put_in)).mean(axis=(0, 1))
    uv = column(TARGET, "UVW")[:2].T
    moved, *_ = np.linalg.lstsq(uv, left, rcond=None)
    with_reference = (first == 0) | (second == 0)
    assert np.degrees(put_in[with_reference]).std() > 40.0
    assert np.degrees(left - uv @ moved)[with_reference].std() < 4.0

    tables = [fact for fact in facts if isinstance(fact, CalibrationTable)]
    assert {(table.vis, table.kind) for table in tables} == {(TARGET, "P")}
    applied = [fact.table for fact in facts if isinstance(fact, CalibrationApplication)]
    assert applied == [table.path for table in tables]
    assert sorted(Path("calibration").iterdir()) == sorted(Path(path) for path in applied)
    assert all(Path(fact.path).stat().st_size for fact in facts if isinstance(fact, Picture))
    assert sorted(path.name for path in Path("data").glob("*.ms")) == ["sim.TARGET.ms", "sim.ms"]
    with pytest.raises(DataError, match="calibrated on itself already"):
        session.run(clean=CLEAN)


def test_of_data_without_signal_nothing_is_kept_and_they_stay_as_they_were(
    simulated: Path, session_of: Callable[[Path], Session]
) -> None:
    session = session_of(simulated)
    random = np.random.default_rng(1)

    def noise(data: np.ndarray, *_: np.ndarray) -> np.ndarray:
        return NOISE * (random.standard_normal(data.shape) + 1j * random.standard_normal(data.shape))

    change("data/sim.ms", noise)
    facts = session.run(clean=CLEAN)
    assert {"the data stay as they are", "not solved for"} == decided(facts).keys()
    assert not [fact for fact in facts if isinstance(fact, CalibrationTable | CalibrationApplication | Picture)]
    assert (column(TARGET, "DATA") == column("data/sim.ms", "DATA", "FIELD_ID == 2")).all()
    with pytest.raises(RuntimeError, match="CORRECTED_DATA does not exist"):
        column(TARGET, "CORRECTED_DATA")
    # Asked for all the same, a round is undone when it makes nothing better.
    again = session.run(clean=CLEAN, phase=("inf",), amplitude=(), minimum_snr=5.0)
    assert "kept" not in decided(again)
    assert [decision for decision in decided(again)["reverted"] if "solutions failed" in decision.reason]


def test_amplitudes_are_found_after_phases_without_a_change_of_the_flux_scale(
    simulated: Path, session_of: Callable[[Path], Session]
) -> None:
    session = session_of(simulated)
    scale = np.exp(0.15 * np.random.default_rng(3).standard_normal(ANTENNAS))
    scale /= np.sqrt(np.mean(scale**2))
    change("data/sim.ms", lambda data, _, first, second: data * scale[first] * scale[second])
    facts = session.run(clean=CLEAN, phase=("all",), amplitude=("all", "all"))
    assert {table.kind for table in facts if isinstance(table, CalibrationTable)} >= {"G"}
    factor = np.abs(column(TARGET, "CORRECTED_DATA") / column(TARGET, "DATA")).mean(axis=(0, 1))
    left = factor * scale[column(TARGET, "ANTENNA1")] * scale[column(TARGET, "ANTENNA2")]
    assert left.mean() == pytest.approx(1.0, abs=0.01)
    assert left.std() < 0.02
    assert imaged(facts).peak == pytest.approx(0.30, rel=0.02)


@pytest.mark.parametrize("combine", [(), ("spw",)])
def test_windows_have_gains_of_their_own_or_together_and_lines_have_those_of_their_window(
    casa: Path, tmp_path: Path, session_of: Callable[[Path], Session], combine: tuple[str, ...]
) -> None:
    from casatasks import split

    path = tmp_path / "two windows.ms"
    simulate(path, replace(ERRORLESS, spectral_windows=2, target_scan_seconds=300.0))
    session = session_of(path)
    description = column("data/sim.ms", "DATA_DESC_ID")
    start = np.random.default_rng(2).uniform(-0.5, 0.5, ANTENNAS)
    # Gains of windows that are solved for together are the same, others are the opposite.
    sign = np.where((description == 1) & (not combine), -1.0, 1.0)
    change("data/sim.ms", lambda data, _, one, two: data * np.exp(1j * sign * (start[one] - start[two])))
    split("data/sim.ms", TARGET, field="2", datacolumn="data")
    shutil.copytree(TARGET, "data/line.ms")
    session.context.commit(
        "continuum_subtract",
        [
            Dataset(path=TARGET, parent="data/sim.ms", kind="calibrated", fields=(2,), windows=(0, 1)),
            Dataset(path="data/line.ms", parent=TARGET, kind="line", fields=(2,), windows=(1,)),
        ],
    )
    arguments = [{**CLEAN, "vis": TARGET, "imagename": f"images/{window}", "spw": str(window)} for window in (0, 1)]
    common: dict[str, Any] = {"vis": TARGET, "field": "TARGET", "kind": "continuum"}
    session.context.commit(
        "plan_images",
        [
            ImagePlan(name=f"window {window}", spectral_windows=str(window), arguments=arguments[window], **common)
            for window in (0, 1)
        ],
    )

    facts = session.run(phase=("all",), amplitude=(), combine=combine, reference_antenna=("ea01",))
    assert len([fact for fact in facts if isinstance(fact, CalibrationTable)]) == (1 if combine else 2)
    corrected = {vis: column(vis, "CORRECTED_DATA") for vis in (TARGET, "data/line.ms")}
    first, second, windows = (column(TARGET, name) for name in ("ANTENNA1", "ANTENNA2", "DATA_DESC_ID"))
    gain = corrected[TARGET] / column(TARGET, "DATA")
    for window in (0, 1):
        rows = windows == window
        put_in = (-1.0 if window and not combine else 1.0) * (start[first[rows]] - start[second[rows]])
        left = np.angle(gain[..., rows] * np.exp(1j * put_in)).mean(axis=(0, 1))
        uv = column(TARGET, "UVW")[:2, rows].T
        moved, *_ = np.linalg.lstsq(uv, left, rcond=None)
        assert put_in.std() > 0.3
        assert (left - uv @ moved).std() < 0.15
    same = (corrected["data/line.ms"] == corrected[TARGET]).all(axis=(0, 1))
    assert same[windows == 1].all()
    assert not same[windows == 0].any()


def test_the_ring_of_m87_is_found(tmp_path: Path) -> None:
    examples = ROOT / "examples"
    data = ROOT / "tests" / "data" / "eht-m87-2017" / "SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits"
    arguments = ("--vis", data, "--workdir", tmp_path, "--set", "backend=serial")
    ran = surgeline("run", examples / "m87.yaml", *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    checked = subprocess.run(
        [sys.executable, examples / "check_m87.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


# What is decided from numbers alone.

SAMPLING = Sampling(integration=10.0, scans=(30, 30, 30), antennas=28, polarisations=2, noise=0.001)


def test_signal_to_noise_of_an_antenna_is_that_of_the_image_by_antennas_and_time() -> None:
    # 1 Jy over 1 mJy, over the root of 25; of a ninth of the time a third of that; of one polarisation less.
    assert signal_to_noise(1.0, SAMPLING, 900.0, "T") == pytest.approx(200.0)
    assert signal_to_noise(1.0, SAMPLING, 100.0, "T") == pytest.approx(200.0 / 3.0)
    assert signal_to_noise(1.0, SAMPLING, 900.0, "G") == pytest.approx(200.0 / np.sqrt(2.0))
    assert signal_to_noise(1.0, replace(SAMPLING, noise=0.0), 900.0, "T") == 0.0


def test_intervals_go_from_all_scans_down_to_one_integration() -> None:
    assert [str(found) for found in phase_intervals(SAMPLING)] == ["all scans together", "inf", "100s", "30s", "int"]
    assert [found.seconds for found in phase_intervals(SAMPLING)] == [900.0, 300.0, 100.0, 30.0, 10.0]
    assert [str(found) for found in slow_intervals(SAMPLING)] == ["all scans together", "inf"]
    assert [str(found) for found in slow_intervals(replace(SAMPLING, scans=(30,)))] == ["inf"]
    asked = asked_intervals(("all", "2min", "int"), SAMPLING)
    assert [(found.solint, found.seconds) for found in asked] == [("inf", 900.0), ("2min", 120.0), ("int", 10.0)]
    assert [in_seconds(text) for text in ("30", "30s", "1.5min", "2h")] == [30.0, 30.0, 90.0, 7200.0]


def seen(peak: float, noise: float) -> Seen:
    return Seen("", peak, noise, 1.0)


def test_an_image_is_better_by_its_dynamic_range_unless_its_peak_is_lost() -> None:
    assert is_better(seen(1.0, 0.1), seen(1.0, 0.05)) == (
        True,
        "peak 1000 → 1000 mJy/beam, noise 100 → 50 mJy/beam, dynamic range 10 → 20",
    )
    well, reason = is_better(seen(1.0, 0.1), seen(0.9, 0.01))
    assert not well
    assert "more than 5% of the peak is lost" in reason
    well, reason = is_better(seen(1.0, 0.1), seen(1.0, 0.0995))
    assert not well
    assert "not 1% better" in reason


def test_solutions_fail_of_those_that_had_data_enough() -> None:
    def report(**antennas: tuple[int, int]) -> dict[str, Any]:
        names = ("above_minblperant", "above_minsnr")
        by_antenna = {
            name: dict(zip(names, ([one], [other]), strict=True)) for name, (one, other) in antennas.items()
        }
        # Above antennas stands in how many intervals any was solved for.
        return {"solvestats": {"above_minsnr": [8], "spw0": {"above_minsnr": [8], **by_antenna}}}

    assert failed_share(report(ant0=(8, 8), ant1=(8, 4), ant2=(0, 0))) == 0.25
    assert failed_share(report(ant0=(0, 0))) == 1.0


def test_windows_that_are_imaged_alone_and_together_are_calibrated_once() -> None:
    def plan(vis: str, windows: str) -> ImagePlan:
        name = f"{vis}.spw{windows}"
        return ImagePlan(name=name, vis=vis, field="a", spectral_windows=windows, kind="continuum", arguments={})

    both = [plan("a.ms", "0"), plan("a.ms", "1"), plan("a.ms", "0,1"), plan("b.ms", "0,1"), plan("c.ms", "0")]
    kept = [found.name for found in each_window_once([*both, plan("c.ms", "0,1")])]
    assert kept == ["a.ms.spw0", "a.ms.spw1", "b.ms.spw0,1", "c.ms.spw0", "c.ms.spw0,1"]


def test_windows_are_followed_by_their_numbers() -> None:
    assert selected_windows("", 3) == (0, 1, 2)
    assert selected_windows("3:5~60;70~80,0~1", 4) == (0, 1, 3)
    with pytest.raises(BadInput, match="by number"):
        selected_windows("continuum*", 4)


@pytest.mark.parametrize("shape", ["point", "disk", "ring", "gaussian"])
def test_a_component_has_its_flux_and_its_size(shape: str) -> None:
    component = Component(shape=shape, flux=2.0, diameter=None if shape == "point" else 20.0)  # type: ignore[arg-type]
    plane = drawn(component, (64, 64), (1.0, 1.0), (32, 32))
    assert plane.sum() == pytest.approx(2.0)
    x, y = np.meshgrid(np.arange(64) - 32, np.arange(64) - 32, indexing="ij")
    # The mean square radius: of a disk R²/2, of a ring R², of a Gaussian that of its variance in both axes.
    expected = {"point": 0.0, "disk": 50.0, "ring": 100.0, "gaussian": 400.0 / (4.0 * np.log(2.0))}[shape]
    assert (plane * (x**2 + y**2)).sum() / 2.0 == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"phase": ("soon",)}, "'soon' is no interval"),
        ({"clean": {"vis": "other.ms"}}, "vis is this stage's own to choose"),
        ({"clean": {"cel": "1arcsec"}}, "cell"),
        ({"model": {"shape": "ring", "flux": 1.0}}, "a ring needs a diameter"),
    ],
)
def test_what_makes_no_sense_is_told_when_the_recipe_is_read(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Parameters(**parameters)


def test_what_is_missing_is_told_with_a_way_out(simulated: Path, session_of: Callable[[Path], Session]) -> None:
    session = session_of(simulated)
    with pytest.raises(DataError, match="put plan_images before this stage"):
        session.run()
    with pytest.raises(DataError, match=r"these are: TARGET\.spw0\.continuum"):
        session.run(clean=CLEAN, images=("other*",))
    shutil.rmtree(TARGET)
    with pytest.raises(DataError, match="no antenna ea99"):
        session.run(clean=CLEAN, reference_antenna=("ea99",))
