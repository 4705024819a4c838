"""Imaging jobs beside each other in one working folder: none finds the temporary files of another."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from surgeline.config import load
from surgeline.parallel.backend import open_backend
from surgeline.work.jobs import JobRequest
from surgeline.work.ownfolder import own_folder, remove_left
from surgeline.work.taskqueue import TaskQueue


def names(folder: Path) -> list[str]:
    """What is in a folder; nothing in one that is not there any more."""
    with suppress(FileNotFoundError):
        return sorted(path.name for path in folder.iterdir())
    return []


def test_what_is_there_is_found_by_its_name_and_what_is_temporary_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "list.txt").write_text("all")
    monkeypatch.chdir(tmp_path)
    with own_folder("images/a"):
        assert Path("list.txt").read_text() == "all"
        Path("TempLattice11_66").mkdir()
        Path("images/a.psf").touch()
        assert not (tmp_path / "TempLattice11_66").exists()
    assert names(tmp_path) == ["images", "list.txt"]
    assert names(tmp_path / "images") == ["a.psf"]


def test_a_failure_leaves_the_directory_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no"), own_folder("images/a"):
        Path("left").touch()
        raise ValueError("no")
    assert Path.cwd() == tmp_path
    assert names(tmp_path) == ["images"]


def test_an_image_that_belongs_in_the_directory_itself_is_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with own_folder("a"):
        Path("a.psf").touch()
    assert names(tmp_path) == ["a.psf"]


def test_what_a_killed_process_left_can_be_removed(tmp_path: Path) -> None:
    for name in (".imaging-1a2b", "images"):
        (tmp_path / name).mkdir()
    remove_left(tmp_path)
    assert names(tmp_path) == ["images"]


def test_the_weights_of_a_cube_are_not_where_other_jobs_would_take_them_for_theirs(vis: Path, tmp_path: Path) -> None:
    arguments = {"vis": str(vis), "specmode": "cube", "imsize": 64, "cell": "15arcsec", "niter": 5}
    arguments |= {"weighting": "briggs", "perchanweightdensity": True, "imagename": "images/cube"}
    (tmp_path / "images").mkdir()
    outside: set[str] = set()
    inside: set[str] = set()
    over = threading.Event()
    with (
        closing(open_backend(load(overrides=["backend=dask", "dask.n_workers=1"]), folder=tmp_path)) as backend,
        TaskQueue(backend, done=lambda *_: over.set()) as queue,
    ):
        queue.add(JobRequest("tclean", arguments))
        while not over.wait(0.001):
            outside.update(names(tmp_path))
            inside.update(name for own in tmp_path.glob(".imaging-*") for name in names(own))
        (outcome,) = queue.get_results()
    assert outcome.ok, outcome.failure
    assert any(name.startswith("IMAGING_WEIGHT") for name in inside), inside
    assert not any(name.startswith("IMAGING_WEIGHT") for name in outside)
    assert [name for name in names(tmp_path) if name.startswith(".imaging")] == []
    assert "cube.image" in names(tmp_path / "images")
