"""Slurm, HTCondor and the sessions that use them, all run by somebody who is not root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import NOBODY, ROOT

# Tests of workload managers, which skip where there is none, run in another process.
pytestmark = pytest.mark.cluster


def test_an_ordinary_user_needs_no_rights_that_root_has(tmp_path: Path) -> None:
    # Whoever is not root has run these tests already. Root becomes another user, whose files are root's.
    other = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--"] if os.geteuid() == 0 else []
    tests = "tests/parallel/test_queue_workers.py::test_jobs_go_to_workers_of_the_class_that_they_fit"
    ran = subprocess.run(
        [
            *other,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--basetemp={tmp_path / 'tests'}",
            tests,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
