"""What it costs to have Prefect orchestrate a session, against the session's own driver, on a server of its own.

- for each stage: twenty stages of one job that adds to twenty numbers;
- for each job that is shown as a task run: one stage of many such jobs, with all of them shown, and with none.

Wall times of sessions in processes of their own, one after the other; the server is there before they begin. Jobs run
in the session's process, so that nothing waits for workers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from report import ROOT, report
from surgeline.workflow.prefect_server import EmbeddedServer

sys.path.append(str(ROOT / "tests"))
sys.path.append(str(ROOT / "tests" / "workflow"))
import cheap_stages

STAGES = 20
JOBS = 500
START_SECONDS = 180.0


def seconds(folder: Path, name: str, stages: list[dict[str, Any]], *settings: str, **environment: str) -> float:
    """How long the stages of a session take, without its start and its end."""
    recipe, workdir = folder / f"{name}.yaml", folder / name
    recipe.write_text(yaml.safe_dump({"name": name, "stages": stages}))
    overrides = [part for text in ("backend=serial", "session.weblog=false", *settings) for part in ("--set", text)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "surgeline.cli", "run", recipe, "--workdir", workdir, *overrides],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(folder / "plugins"), **environment},
    )
    whole = time.perf_counter() - began
    ran = json.loads((workdir / "run.json").read_text())["stages"]
    print(f"{name}: {whole:.1f} s in all")
    return float(max(stage["ended"] for stage in ran) - min(stage["started"] for stage in ran))


def prefect_figures(folder: Path) -> dict[str, float]:
    """All of these."""
    folder.mkdir(exist_ok=True)
    cheap_stages.install(folder / "plugins")
    change = {"task": "change", "arguments": {"jobs": 1}}
    many: list[dict[str, Any]] = [{"task": "make"}, *({**change, "name": f"change {n}"} for n in range(STAGES))]
    wide: list[dict[str, Any]] = [{"task": "make"}, {"task": "change", "arguments": {"jobs": JOBS}}]
    with EmbeddedServer(folder / "prefect", folder / "prefect.log", START_SECONDS) as server:
        by_prefect = ["orchestrator=prefect", f"prefect.jobs_as_tasks={JOBS}"]
        told = {"PREFECT_API_URL": server.api_url}
        stages_own = seconds(folder, "stages-own", many)
        stages_prefect = seconds(folder, "stages-prefect", many, by_prefect[0], **told)
        jobs_own = seconds(folder, "jobs-own", wide)
        jobs_unseen = seconds(folder, "jobs-unseen", wide, by_prefect[0], **told)
        jobs_seen = seconds(folder, "jobs-seen", wide, *by_prefect, **told)
    stage = (stages_prefect - stages_own) / (STAGES + 1)
    job = (jobs_seen - jobs_unseen) / JOBS
    return {
        "prefect: a stage by the session's own driver, ms": 1e3 * stages_own / (STAGES + 1),
        "prefect: what a stage costs more as a task run, ms": 1e3 * stage,
        "prefect: a job by the session's own driver, ms": 1e3 * jobs_own / JOBS,
        "prefect: what a job costs more that is not shown, ms": 1e3 * (jobs_unseen - jobs_own) / JOBS,
        "prefect: what a job costs more that is shown, ms": 1e3 * job,
        # From there on showing them costs a stage a second.
        "prefect: jobs shown in a second": 1 / job if job > 0 else float("inf"),
    }


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="surgeline-prefect-") as scratch:
        report(prefect_figures(Path(scratch)), "orchestration")
