"""Stages for the queues of workload managers, as a package brings them: they work, and wait for files to appear.

Each job of `work` notes in `runs/` which queue job it ran in. It waits there until the file that `go` names is in the
working folder and, if they are to work `together`, until all jobs of its stage have begun.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from surgeline import FunctionCall
from surgeline.context.records import Fact
from surgeline.stages.stage import Parameters, Stage, stage
from surgeline.work.procedure import Procedure


class WorkParameters(Parameters):
    """How many jobs at once, for how many seconds each, what they wait for, and what memory they are estimated at."""

    jobs: int = 1
    seconds: float = 0.0
    together: bool = False
    go: str = ""
    memory: int | None = None


def work(stage: str, number: int, parameters: WorkParameters) -> None:
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    with (runs / f"{stage}-{number}").open("a") as file:
        file.write((os.environ.get("SLURM_JOB_ID") or os.environ.get("_CONDOR_SCRATCH_DIR") or "here") + "\n")
    (runs / f"{stage}-{number}.environment").write_text(json.dumps(dict(os.environ)))
    while parameters.together and len(list(runs.glob(f"{stage}-*.environment"))) < parameters.jobs:
        time.sleep(0.05)
    while parameters.go and not Path(parameters.go).exists():
        time.sleep(0.05)
    time.sleep(parameters.seconds)


@stage
def work_stage(stage: Stage, parameters: WorkParameters) -> Procedure[list[Fact]]:
    yield [
        FunctionCall(work, stage.name, number, parameters).declare(name=f"work {number}", memory=parameters.memory)
        for number in range(parameters.jobs)
    ]
    return []


def install(folder: Path) -> None:
    """Make the folder a place from which this module is an installed package: for PYTHONPATH."""
    info = folder / "queue_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: queue-stages\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[surgeline.stages]\nwork = queue_stages:work_stage\n")
    (folder / "queue_stages.py").write_text(Path(__file__).read_text())
