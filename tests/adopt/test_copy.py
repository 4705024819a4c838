"""A copy of the CASA Pipeline itself, unmodified, on Surgeline.

SURGELINE_TEST_PIPELINE names the folder that its package is in, and further ones of what it imports, separated by
colons.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelinedata import OBSERVATIONS, observe
from support import surgeline
from surgeline.context.records import Observation, QualityScore, ReferenceAntenna
from surgeline.context.store import Context
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import command, find_launcher

pytestmark = pytest.mark.casa_pipeline
PROGRAM = Path(__file__).with_name("copy_client.py")
PATHS = os.environ.get("SURGELINE_TEST_PIPELINE", "")
MPIRUN = Path(sys.executable).with_name("mpirun")


@pytest.fixture(scope="module", autouse=True)
def importable() -> None:
    if not PATHS:
        pytest.skip("SURGELINE_TEST_PIPELINE names no copy of the CASA Pipeline")
    tried = subprocess.run(
        [sys.executable, "-c", "import pipeline"],
        env={**os.environ, "PYTHONPATH": PATHS},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "ModuleNotFoundError" in tried.stderr:
        pytest.skip(f"the copy of the CASA Pipeline cannot be imported: {tried.stderr.splitlines()[-1]}")


@pytest.fixture(scope="module")
def observations(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("observations")
    observe(folder)
    return folder


def reduced(kind: str, folder: Path, observations: Path) -> dict[str, Any]:
    """What the Pipeline made of the observations on a backend, and the flags that it left."""
    from casatools import table

    shutil.copytree(observations, folder, dirs_exist_ok=True)
    line = [sys.executable, str(PROGRAM), kind, str(folder), PATHS]
    if kind == "mpi":
        line = command(find_launcher(str(MPIRUN)), 3, line, {}, root=os.geteuid() == 0)
    ran = subprocess.run(line, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=300)
    results = folder / "results.json"
    assert results.exists(), ran.stdout[-3000:] + ran.stderr[-3000:]
    seen = json.loads(results.read_text())
    at_hand = table()
    for name in OBSERVATIONS:
        at_hand.open(str(folder / name))
        seen[name] = at_hand.getcol("FLAG")
        at_hand.close()
    return seen


@pytest.fixture(scope="module")
def alone(observations: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return reduced("serial", tmp_path_factory.mktemp("serial"), observations)


@pytest.mark.parametrize("kind", ["dask", "mpi"])
def test_the_same_results_come_of_workers_as_of_one_process(
    kind: str, alone: dict[str, Any], observations: Path, tmp_path: Path
) -> None:
    seen = reduced(kind, tmp_path, observations)
    assert seen["layer"] == alone["layer"] == "surgeline.adopt.queue"
    assert seen["antennas"] == alone["antennas"]
    assert seen["commands"] == alone["commands"]
    assert len(seen["commands"]) > 2
    assert seen["requests"] == ["copy 0", "copy 1", "copy 2"]
    assert (alone["saved"], seen["saved"]) == (0, 1)
    for name in OBSERVATIONS:
        assert (seen[name] == alone[name]).all()
        assert seen[name].any()
    if kind == "dask":
        assert seen["own tests"] == 0
    assert not list(tmp_path.glob("*.casa_commands.log"))
    assert not list(tmp_path.glob(".surgeline-*"))


PROCEDURE = """<ProcessingProcedure>
  <ProcedureTitle>short</ProcedureTitle>
  <ProcessingCommand><Command>h_importdata</Command><ParameterSet/></ProcessingCommand>
  <ProcessingCommand><Command>hif_refant</Command><ParameterSet/></ProcessingCommand>
  <ProcessingCommand><Command>hif_rawflagchans</Command><ParameterSet/></ProcessingCommand>
</ProcessingProcedure>
"""


def flags_and_commands(workdir: Path) -> tuple[dict[str, Any], list[str]]:
    from casatools import table

    flags = {}
    at_hand = table()
    for name in OBSERVATIONS:
        at_hand.open(str(workdir / "working" / name))
        flags[name] = at_hand.getcol("FLAG")
        at_hand.close()
    (log,) = workdir.glob("working/pipeline-*/html/casa_commands.log")
    return flags, [line for line in log.read_text().splitlines() if not line.startswith("#")]


def test_a_procedure_is_run_as_stages_with_the_same_results_and_goes_back_to_one(
    observations: Path, tmp_path: Path
) -> None:
    (tmp_path / "procedure.xml").write_text(PROCEDURE)
    given = [f"--vis={observations / name}" for name in OBSERVATIONS]
    found = {}
    for kind in ("serial", "dask"):
        settings = [f"--set=backend={kind}", "--set=dask.n_workers=2", f"--workdir={tmp_path / kind}"]
        ran = surgeline("casa-pipeline", "run", tmp_path / "procedure.xml", *given, *settings, PYTHONPATH=PATHS)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        found[kind] = flags_and_commands(tmp_path / kind)
    for name in OBSERVATIONS:
        assert (found["dask"][0][name] == found["serial"][0][name]).all()
        assert found["serial"][0][name].any()
    assert found["dask"][1] == found["serial"][1]
    stages = json.loads((tmp_path / "dask" / "run.json").read_text())["stages"]
    workers = {job["worker"] for job in stages[2]["jobs"] if job["name"] == "SerialRefAnt"}
    assert len(workers) == 2
    with closing(Context(tmp_path / "dask" / "context.db", read_only=True)) as context:
        known = context.at()
        assert [fact.vis for fact in known.all(Observation)] == list(OBSERVATIONS)
        assert [fact.vis for fact in known.all(ReferenceAntenna)] == list(OBSERVATIONS)
        assert {score.stage for score in known.all(QualityScore)} >= {"h_importdata", "hif_rawflagchans"}
    again = surgeline(
        "resume",
        "--workdir",
        tmp_path / "serial",
        "--from=hif_rawflagchans",
        "--set=backend=serial",
        PYTHONPATH=PATHS,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "working/first.ms is put back as it was before hif_rawflagchans" in again.stdout
    flags, commands = flags_and_commands(tmp_path / "serial")
    assert commands == found["serial"][1]
    assert (flags["first.ms"] == found["serial"][0]["first.ms"]).all()
