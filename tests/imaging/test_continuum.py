"""Continua whose major cycles run on parts of the rows, against one tclean of the same CASA."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from imagechecks import (
    CLEANED,
    DIRTY,
    assert_same,
    by_rows,
    by_tclean,
    pixels,
    plain_numbers,
    products,
    run_then_die_once,
    two_workers,
)
from surgeline import FunctionCall, TaskQueue
from surgeline.errors import BadInput, DataError
from surgeline.imaging.continuum import check_arguments, clean_by_rows
from surgeline.imaging.keptimagers import forget
from surgeline.imaging.rowcut import cut_rows
from surgeline.work.jobs import Job
from surgeline.work.procedure import drive
from surgeline.work.taskqueue import Backend

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Change = Callable[[Job], Job]


@pytest.fixture(scope="module")
def vis(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from surgeline.simulate import Simulation, simulate

    path = tmp_path_factory.mktemp("observation") / "simulated.ms"
    no_errors: dict[str, Any] = {
        "gain_amplitude_scatter": 0.0,
        "gain_phase_scatter_deg": 0.0,
        "bandpass_scatter": 0.0,
    }
    simulate(path, Simulation(antennas=10, channels=4, target_scans=1, configuration="C", seed=5, **no_errors))
    return path


@pytest.fixture
def arguments(vis: Path) -> dict[str, Any]:
    return {
        "vis": str(vis),
        "field": "2",
        "datacolumn": "data",
        "imsize": 64,
        "cell": "5arcsec",
        "specmode": "mfs",
        "weighting": "briggs",
        "robust": 0.5,
    }


def on(backend: Backend, change: Change = lambda job: job) -> Callable[[Sequence[Job]], Sequence[Any]]:
    def run_batch(jobs: Sequence[Job]) -> Sequence[Any]:
        with TaskQueue(backend) as queue:
            for job in jobs:
                queue.add(change(job))
            return [outcome.result() for outcome in queue.get_results()]

    return run_batch


@pytest.mark.parametrize("weighting", ["natural", "uniform", "briggs"])
def test_psf_and_dirty_image_do_not_depend_on_the_number_of_parts(
    arguments: dict[str, Any], tmp_path: Path, weighting: str
) -> None:
    arguments |= {"weighting": weighting, "niter": 0}
    record = by_tclean(arguments, tmp_path / "one")
    for parts in (1, 2, 3):
        stem = tmp_path / f"rows{parts}"
        assert plain_numbers(by_rows({**arguments, "imagename": str(stem)}, parts)) == plain_numbers(record)
        assert_same(stem, tmp_path / "one", DIRTY)


KINDS: dict[str, dict[str, Any]] = {
    "hogbom": {"niter": 60, "nmajor": 2, "pbcor": True, "restoringbeam": "15arcsec"},
    "several": {"niter": 400, "deconvolver": "clark", "threshold": "40mJy",
                "mask": "box[[16pix,16pix],[48pix,48pix]]"},
    "multiscale": {"niter": 40, "nmajor": 2, "deconvolver": "multiscale", "scales": [0, 4]},
    "mtmfs": {"niter": 40, "deconvolver": "mtmfs", "nterms": 2, "nmajor": 2},
    "wproject": {"niter": 40, "nmajor": 2, "gridder": "wproject", "wprojplanes": 2, "imsize": 32},
    "automatic": {"niter": 300, "usemask": "auto-multithresh", "cycleniter": 30, "nmajor": 3,
                  "sidelobethreshold": 0.5, "noisethreshold": 3.0, "minbeamfrac": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_cleaned_image_is_that_of_one_tclean(arguments: dict[str, Any], tmp_path: Path, kind: str) -> None:
    arguments |= KINDS[kind]
    record = by_rows({**arguments, "imagename": str(tmp_path / "rows")}, 2)
    wanted = by_tclean(arguments, tmp_path / "one")
    assert set(record) == set(wanted)
    assert plain_numbers(record) == plain_numbers(wanted)
    assert record["nmajordone"] > 1
    assert_same(tmp_path / "rows", tmp_path / "one")


def test_an_outlier_field_is_cleaned_with_the_main_one(arguments: dict[str, Any], tmp_path: Path) -> None:
    def with_outlier(name: str) -> dict[str, Any]:
        file = tmp_path / f"{name}.txt"
        file.write_text(
            f"imagename={tmp_path}/{name}-outlier\nimsize=[24,24]\ncell=['5arcsec','5arcsec']\n"
            "phasecenter=J2000 14h20m30 +20d00m00\n"
        )
        return {**arguments, "niter": 40, "nmajor": 2, "outlierfile": str(file)}

    record = by_rows({**with_outlier("rows"), "imagename": str(tmp_path / "rows")}, 3)
    wanted = by_tclean(with_outlier("one"), tmp_path / "one")
    assert plain_numbers(record) == plain_numbers(wanted)
    assert_same(tmp_path / "rows-outlier", tmp_path / "one-outlier")
    for name in ("rows", "one"):
        (tmp_path / f"{name}.txt").unlink()
    assert_same(tmp_path / "rows", tmp_path / "one")


def test_an_image_is_cleaned_to_a_multiple_of_its_noise(arguments: dict[str, Any], tmp_path: Path) -> None:
    arguments |= {"niter": 200, "imagename": str(tmp_path / "rows")}
    procedure = clean_by_rows(arguments, 2, threshold_sigma=4.0)
    cleaned = drive(procedure, lambda jobs: [job.run() for job in jobs], lambda jobs: None, lambda job: [job.run()])
    assert cleaned.stop == "threshold"
    assert cleaned.threshold == pytest.approx(4 * cleaned.noise, rel=1e-4)
    assert plain_numbers(cleaned.record) == plain_numbers(by_tclean(cleaned.arguments, tmp_path / "one"))


def test_start_model_and_saved_model_are_as_tclean_has_them(arguments: dict[str, Any], tmp_path: Path) -> None:
    from casatools import table

    by_tclean({**arguments, "niter": 20}, tmp_path / "start")
    saved = []
    for name in ("rows", "one"):
        vis = tmp_path / f"{name}.ms"
        shutil.copytree(arguments["vis"], vis)
        own = {
            **arguments,
            "vis": str(vis),
            "niter": 15,
            "startmodel": str(tmp_path / "start.model"),
            "savemodel": "modelcolumn",
        }
        if name == "rows":
            by_rows({**own, "imagename": str(tmp_path / "images" / name)}, 2)
        else:
            by_tclean(own, tmp_path / "images" / name)
        with closing(table()) as tool:
            tool.open(str(vis))
            saved.append(tool.getcol("MODEL_DATA"))
    assert np.abs(saved[1]).max() > 0.1
    assert np.abs(saved[0] - saved[1]).max() <= CLEANED * np.abs(saved[1]).max()
    assert_same(tmp_path / "images" / "rows", tmp_path / "images" / "one")


def test_parts_have_all_selected_rows_once_and_as_many_unflagged_ones_each(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    from casatools import ms, table

    copy = tmp_path / "flagged.ms"
    shutil.copytree(arguments["vis"], copy)
    with closing(table()) as tool:
        tool.open(str(copy), nomodify=False)
        flags = tool.getcol("FLAG_ROW")
        selected = np.flatnonzero(tool.getcol("FIELD_ID") == 2)
        flags[selected[: len(selected) // 2]] = True
        tool.putcol("FLAG_ROW", flags)
    arguments |= {"vis": str(copy), "imagename": str(tmp_path / "rows")}
    rows: list[int] = []
    unflagged = []
    for part in cut_rows(arguments, 4, "run"):
        ((_, taql),) = part.rows
        with closing(ms()) as tool:
            tool.open(str(copy))
            tool.msselect({"field": "2"})
            tool.msselect({"taql": taql})
            numbers = tool.range(["rows"])["rows"].tolist()
        rows += numbers
        unflagged.append(int((~flags[numbers]).sum()))
    assert rows == selected.tolist()
    assert max(unflagged) - min(unflagged) <= 1


def test_there_are_no_more_parts_than_unflagged_rows(arguments: dict[str, Any], tmp_path: Path) -> None:
    arguments |= {"antenna": "0&1", "imagename": str(tmp_path / "few")}
    parts = cut_rows(arguments, 10000, "run")
    assert 1 < len(parts) < 200
    record = by_rows({**arguments, "niter": 0}, 6)
    by_tclean({**arguments, "niter": 0}, tmp_path / "one")
    assert record["nmajordone"] == 1
    assert_same(tmp_path / "few", tmp_path / "one")


def test_a_selection_without_unflagged_rows_is_told(arguments: dict[str, Any], tmp_path: Path) -> None:
    from casatasks import flagdata

    copy = tmp_path / "flagged.ms"
    shutil.copytree(arguments["vis"], copy)
    flagdata(vis=str(copy), field="2", flagbackup=False)
    with pytest.raises(DataError) as caught:
        cut_rows({**arguments, "vis": str(copy), "imagename": str(tmp_path / "none")}, 2, "run")
    assert "flags" in caught.value.way_out


def test_automasking_goes_on_where_what_it_learnt_is_lost(arguments: dict[str, Any], tmp_path: Path) -> None:
    def forgetful(job: Job) -> Any:
        forget()
        return job.run()

    arguments |= KINDS["automatic"]
    kept = by_rows({**arguments, "imagename": str(tmp_path / "kept")}, 2)
    lost = by_rows({**arguments, "imagename": str(tmp_path / "lost")}, 2, forgetful)
    assert plain_numbers(kept) == plain_numbers(lost)
    for ending, path in products(tmp_path / "kept").items():
        assert np.array_equal(pixels(path), pixels(products(tmp_path / "lost")[ending])), ending


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with two_workers(tmp_path_factory.mktemp("workers")) as backend:
        yield backend


def test_a_worker_that_dies_in_a_major_or_a_minor_cycle_changes_nothing(
    workers: Backend, arguments: dict[str, Any], tmp_path: Path
) -> None:
    died = []

    def deadly(job: Job) -> Job:
        name = job.declared.name
        if name.startswith(("major cycle 1", "minor cycle 2")):
            marker = tmp_path / name.split()[0]
            died.append(marker)
            return FunctionCall(run_then_die_once, job, marker).declare(
                name=name, reads=job.declared.reads, keeps=job.declared.keeps
            )
        return job

    arguments |= {"niter": 90, "nmajor": 3}
    procedure = clean_by_rows({**arguments, "imagename": str(tmp_path / "survived")}, 2)
    record = drive(procedure, on(workers, deadly), lambda jobs: None, lambda job: []).record
    assert {marker.name for marker in died if marker.exists()} == {"major", "minor"}
    assert plain_numbers(record) == plain_numbers(by_rows({**arguments, "imagename": str(tmp_path / "unharmed")}, 2))
    found = products(tmp_path / "survived")
    for ending, path in products(tmp_path / "unharmed").items():
        assert np.array_equal(pixels(path), pixels(found[ending])), ending


def test_a_mosaic_that_is_weighted_field_by_field_is_cut_between_fields(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    arguments |= {"field": "", "gridder": "mosaic", "phasecenter": 2, "imagename": str(tmp_path / "mosaic")}

    def cut(**other: Any) -> list[str]:
        return [taql for part in cut_rows({**arguments, **other}, 2, "run") for _, taql in part.rows]

    # The target has more rows than both calibrators.
    assert sorted(cut()) == ["FIELD_ID IN [0, 1]", "FIELD_ID IN [2]"]
    for other in ({"mosweight": False}, {"weighting": "natural"}):
        assert all("ROWNUMBER" in taql for taql in cut(**other))


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ({"specmode": "cube"}, "specmode"),
        ({"specmode": "mvc"}, "specmode"),
        ({"gridder": "awphpg"}, "gridder"),
        ({"weighting": "briggsbwtaper"}, "weighting"),
        ({"facets": 2}, "facets"),
        ({"psfphasecenter": "J2000 14h20m00 +20d00m00"}, "psfphasecenter"),
        ({"gridder": "awproject"}, "gridder"),
        ({"outlierfile": "nowhere.txt"}, "outlierfile"),
        ({"mask": "no.mask"}, "mask"),
        ({"startmodel": ["no.model.tt0", "no.model.tt1"]}, "startmodel"),
    ],
)
def test_what_does_not_go_by_rows_is_refused_before_any_job(refused: dict[str, Any], named: str) -> None:
    arguments = {"vis": "no.ms", "imagename": "no", **refused}
    with pytest.raises(BadInput) as caught:
        next(clean_by_rows(arguments, 2))
    assert named.removeprefix("start") in str(caught.value)
    assert caught.value.way_out
    check_arguments({name: value for name, value in arguments.items() if name != named})
