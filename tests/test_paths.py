"""Files of a working folder."""

from __future__ import annotations

import os
from pathlib import Path

from surgeline.paths import SessionPaths, remove_unfinished

# Larger than the number of any process on Linux.
NOBODY = 2**22 + 1


def test_what_a_killed_session_half_wrote_goes_and_files_of_the_user_stay(tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path)
    paths.make()
    paths.weblog.parent.mkdir(exist_ok=True)
    unfinished = [
        tmp_path / f".run.json.{NOBODY}",
        paths.logs / f".now.json.{NOBODY}",
        paths.weblog.parent / f".index.html.{NOBODY}",
    ]
    others = [tmp_path / ".notes.1", tmp_path / f".notes.{NOBODY}", tmp_path / f".run.json.{os.getpid()}"]
    for path in (*unfinished, *others):
        path.write_text("half")
    remove_unfinished(paths)
    assert [path for path in (*unfinished, *others) if path.exists()] == others
