from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import NOBODY
from surgeline.clusters import certificates
from surgeline.clusters.cancelnote import CancelNote, leave, left_behind
from surgeline.errors import ClusterError, WorkfolderError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the queue jobs of a session write."""
    found = tmp_path / "surgeline-1a2b3c4d"
    found.mkdir()
    return found


def note(folder: Path, *command: str, anywhere: bool = True) -> CancelNote:
    return leave(folder, folder.name, "site", command, anywhere)


def test_what_was_left_is_found_and_cancelled_and_nothing_of_it_stays(folder: Path, tmp_path: Path) -> None:
    (folder / certificates.NAMES[0]).touch()
    written = note(folder, "touch", str(tmp_path / "cancelled"))
    (found,) = left_behind(tmp_path)
    assert found == written
    found.cancel()
    assert (tmp_path / "cancelled").exists()
    assert left_behind(tmp_path) == []
    assert not folder.exists(), "neither the certificates"


def test_the_queue_jobs_own_output_stays(folder: Path, tmp_path: Path) -> None:
    (folder / "slurm-12.log").touch()
    note(folder, "true").cancel()
    assert [path.name for path in folder.iterdir()] == ["slurm-12.log"]


def test_what_could_not_be_cancelled_is_not_forgotten(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="could not be cancelled: no controller") as caught:
        note(folder, "sh", "-c", "echo no controller >&2; exit 1").cancel()
    assert "sh -c" in caught.value.way_out
    with pytest.raises(ClusterError, match="scancel-of-old is not there"):
        note(folder, "scancel-of-old", "--name", "x").cancel()
    assert len(left_behind(tmp_path)) == 1


def test_a_queue_of_one_machine_is_cancelled_there_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    written = [note(folder, "touch", str(here), anywhere=False)]
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with pytest.raises(ClusterError, match="only there") as caught:
        written[0].cancel()
    assert "run `surgeline cancel` on" in caught.value.way_out
    assert not here.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_command_is_not_run(folder: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    written = note(folder, "touch", str(done))
    os.chown(folder / "cancel.json", NOBODY, NOBODY)
    with pytest.raises(WorkfolderError, match="of a session of nobody"):
        written.cancel()
    assert not done.exists()


def test_a_note_that_cannot_be_read_is_named_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    (folder / "cancel.json").write_text("{")
    with pytest.raises(WorkfolderError, match=r"cancel\.json.*cannot be read") as caught:
        left_behind(tmp_path)
    assert "scancel --name surgeline-1a2b3c4d" in caught.value.way_out
