"""`surgeline casa-pipeline run`, with a stand-in that has the Pipeline's contract."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from support import surgeline, wait_until
from surgeline.context.legacy import ListedImage
from surgeline.context.records import AnyFact, Image, Observation, PipelineStage, QualityScore
from surgeline.context.store import Context

STANDIN = str(Path(__file__).with_name("standin"))
STAGES = ["h_init", "hifv_importdata", "hifv_flagdata", "hif_makeimages", "hifv_flagdata_2"]


def command(task: str, **arguments: str) -> str:
    parameters = "".join(
        f"<Parameter><Keyword>{name}</Keyword><Value>{value}</Value></Parameter>" for name, value in arguments.items()
    )
    return (
        f"<ProcessingCommand><Command>{task}</Command><ParameterSet>{parameters}</ParameterSet></ProcessingCommand>\n"
    )


def procedure(*commands: str) -> str:
    title = "<ProcedureTitle>test_procedure</ProcedureTitle>"
    return f"<ProcessingProcedure>\n{title}\n{''.join(commands)}</ProcessingProcedure>"


PROCEDURE = procedure(
    command("hifv_importdata"),
    command("hifv_flagdata", amount="2"),
    command("hif_makeimages", names="['a', 'b']"),
    command("hifv_flagdata", amount="3"),
)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a procedure, and two folders that tell that they are MSs."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "procedure.xml").write_text(PROCEDURE)
    for name in ("first.ms", "second.ms"):
        (folder / name / "ANTENNA").mkdir(parents=True)
        (folder / name / "table.dat").write_text(name)
        (folder / name / "table.f1").write_text("0 ")
    return folder


def line(given: Path, workdir: Path, *more: str, backend: str = "dask", xml: str = "procedure.xml") -> list[str]:
    observations = [f"--vis={given / name}" for name in ("first.ms", "second.ms")]
    settings = [f"--set=backend={backend}", "--set=dask.n_workers=2", f"--workdir={workdir}"]
    return ["casa-pipeline", "run", str(given / xml), *observations, *settings, *more]


def made(workdir: Path) -> Mapping[str, str]:
    """What tasks left in the Pipeline's folder."""
    folder = workdir / "working"
    files = [*folder.glob("*.ms/table.f1"), *folder.glob("*.image/flags"), folder / "cont.dat"]
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(files)} | {
        "commands": (folder / "html" / "casa_commands.log").read_text()
    }


def known(workdir: Path, kind: type[AnyFact]) -> list[AnyFact]:
    with closing(Context(workdir / "context.db", read_only=True)) as context:
        return context.at().all(kind)


def commits(workdir: Path) -> list[str]:
    with closing(Context(workdir / "context.db", read_only=True)) as context:
        return [commit.stage for commit in context.log()]


def succeeds(ran: subprocess.CompletedProcess[str]) -> str:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def alone(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session in one process."""
    workdir = tmp_path_factory.mktemp("alone") / "session"
    succeeds(surgeline(*line(given, workdir, backend="serial"), PYTHONPATH=STANDIN))
    return workdir


@pytest.fixture(scope="module")
def spread(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session on two workers, in which flagging is told of a cluster by its name; beside it, its events."""
    workdir = tmp_path_factory.mktemp("spread") / "session"
    workdir.mkdir()
    (workdir / "config.yaml").write_text(
        "clusters: {here: {type: local}}\n"
        "casa_pipeline: {tasks: {hifv_flagdata: {cluster: here, resources: {memory: 100MB}}}}\n"
    )
    told = succeeds(surgeline(*line(given, workdir, "--json"), PYTHONPATH=STANDIN))
    (workdir.parent / "events").write_text(told)
    return workdir


def test_the_same_is_made_by_workers_as_in_one_process(alone: Path, spread: Path, given: Path) -> None:
    assert made(spread) == made(alone)
    assert made(alone)["first.ms/table.f1"] == "0 2 3 "
    assert made(alone)["a.image/flags"] == "0 2 ; 0 2 "
    assert (given / "first.ms" / "table.f1").read_text() == "0 "


def test_each_task_is_a_stage_whose_results_are_facts(spread: Path) -> None:
    assert commits(spread) == STAGES
    assert [(fact.stage, fact.number) for fact in known(spread, PipelineStage)] == list(
        zip(STAGES, range(5), strict=True)
    )
    assert [fact.vis for fact in known(spread, Observation)] == ["first.ms", "second.ms"]
    assert [fact.imagename for fact in known(spread, ListedImage)] == ["a.image", "b.image"]
    images = [(image.path, image.field, image.kind, image.maximum) for image in known(spread, Image)]
    assert images == [(f"working/{name}.image", "TARGET", "continuum", 10.0) for name in "ab"]
    scores = known(spread, QualityScore)
    assert [(s.stage, s.metric, s.vis, s.score) for s in scores] == [
        ("hifv_importdata", "goodness", name, 1.0) for name in ("first.ms", "second.ms")
    ]
    contexts = [spread / fact.context for fact in known(spread, PipelineStage)]
    assert all(path.is_file() for path in contexts)
    assert len(set(contexts)) == 5


def test_jobs_of_a_task_are_those_of_its_stage_on_the_cluster_that_is_set(spread: Path) -> None:
    record = json.loads((spread / "run.json").read_text())
    stages = {stage["name"]: stage for stage in record["stages"]}
    assert stages["hifv_flagdata"]["cluster"] == "here"
    for name in ("hifv_flagdata", "hifv_flagdata_2"):
        workers = [job["worker"] for job in stages[name]["jobs"] if job["name"] == "Flag"]
        assert len(workers) == 2
        assert all(worker.startswith("worker-") for worker in workers)
    assert [job["worker"] for job in stages["hif_makeimages"]["jobs"] if job["name"] == "hif_makeimages"] == [
        "session"
    ]
    assert record["accounts"]["stages"]["hifv_flagdata"]["used"] > 0


def test_events_are_told_while_tasks_run_and_nothing_else_is(spread: Path) -> None:
    events = [json.loads(line) for line in (spread.parent / "events").read_text().splitlines()]
    flagged = [event["stage"] for event in events if event.get("name") == "Flag" and event["state"] == "finished"]
    assert flagged == ["hifv_flagdata"] * 2 + ["hifv_flagdata_2"] * 2


@pytest.mark.mpi
def test_a_procedure_in_an_mpi_session_makes_the_same_on_its_servers(
    alone: Path, given: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "session"
    succeeds(surgeline("mpirun", "-n", "3", "--", *line(given, workdir, backend="mpi"), PYTHONPATH=STANDIN))
    assert made(workdir) == made(alone)
    stages = json.loads((workdir / "run.json").read_text())["stages"]
    flagging = [job["worker"] for job in stages[2]["jobs"] if job["name"] == "Flag"]
    assert sorted(flagging) == ["server-1", "server-2"]


def test_data_are_kept_only_before_the_tasks_that_change_them(spread: Path) -> None:
    kept = {(path.parent.name, path.name.split("_")[1].split(".")[0]) for path in spread.glob("states/*/*")}
    # Imaging left the MSs as they were: what was kept before it is what is kept before the next that changes them.
    assert ("hifv_flagdata.1", "first") in kept
    assert ("hif_makeimages.1", "first") not in kept
    assert ("hifv_flagdata_2.1", "first") in kept


def test_both_weblogs_are_there_and_ours_leads_to_the_pipelines(spread: Path) -> None:
    assert (spread / "working" / "html" / "index.html").is_file()
    page = next(spread.glob("weblog/*hif_makeimages*.html")).read_text()
    assert 'href="../working/html/index.html"' in page
    assert 'href="../working/html/index.html"' in (spread / "weblog" / "index.html").read_text()


def test_a_session_goes_back_to_any_stage_with_its_data(alone: Path, given: Path, tmp_path: Path) -> None:
    before = made(alone)
    told = succeeds(surgeline("resume", "-w", alone, "--from=hif_makeimages", PYTHONPATH=STANDIN))
    assert "working/first.ms is put back as it was before hifv_flagdata_2" in told
    assert made(alone) == before
    assert commits(alone) == [*STAGES, "rerun", *STAGES[3:]]
    # What the stage that was withdrawn had made is not in the way of what replaces it.
    assert sorted(path.name for path in alone.glob("replaced/*/working/*")) == ["a.image", "b.image", "cont.dat"]


def test_a_session_that_is_killed_goes_on_after_the_last_stage_that_finished(
    given: Path, alone: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "session"
    killed = subprocess.Popen(
        [sys.executable, "-m", "surgeline.cli", *line(given, workdir)],
        env={**os.environ, "PYTHONPATH": STANDIN, "STANDIN_WAITS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(list(workdir.glob("working/*.image"))) == 2, 90, "both images are in the making")
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert commits(workdir) == STAGES[:3]
    told = succeeds(surgeline("resume", "-w", workdir, "--set=backend=serial", PYTHONPATH=STANDIN))
    assert "hif_makeimages: began" in told
    assert "hifv_importdata: began" not in told
    assert made(workdir) == made(alone)
    assert commits(workdir) == STAGES


def test_a_task_whose_jobs_fail_is_named_with_the_reason(given: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "session"
    ran = surgeline(*line(given, workdir), PYTHONPATH=STANDIN, STANDIN_FAILS="1")
    assert ran.returncode == 7
    reason = "the Pipeline's task hif_makeimages failed: RuntimeError: no channel is left of it"
    assert f"stage 'hif_makeimages': job 'hif_makeimages' failed: {reason}" in ran.stderr
    assert commits(workdir) == STAGES[:3]


def test_a_procedure_that_this_copy_cannot_run_is_refused_before_anything_starts(given: Path, tmp_path: Path) -> None:
    (given / "unknown.xml").write_text(procedure(command("hifv_importdata"), command("hif_makeimage")))
    ran = surgeline(*line(given, tmp_path / "session", xml="unknown.xml"), PYTHONPATH=STANDIN)
    assert ran.returncode == 2
    assert "has no task 'hif_makeimage'" in ran.stderr
    assert "'hif_makeimages'" in ran.stderr
    ran = surgeline(*line(given, tmp_path / "session"))
    assert ran.returncode == 2
    assert "no copy of the CASA Pipeline can be imported" in ran.stderr
    ran = surgeline("casa-pipeline", "run", given / "procedure.xml", PYTHONPATH=STANDIN)
    assert ran.returncode == 2
    assert "no observation to reduce" in ran.stderr
    ran = surgeline(
        *line(given, tmp_path / "session", "--set=casa_pipeline.tasks.hif_makeimage.cluster=local"),
        PYTHONPATH=STANDIN,
    )
    assert ran.returncode == 3
    assert "casa_pipeline.tasks.hif_makeimage" in ran.stderr
    assert not (tmp_path / "session").exists()


def test_a_plan_tells_the_stages_and_where_their_jobs_would_run(given: Path, tmp_path: Path) -> None:
    asked = line(given, tmp_path / "session", "--set=casa_pipeline.tasks.hif_makeimages.backend=serial")
    asked[1] = "plan"
    told = succeeds(surgeline(*asked, PYTHONPATH=STANDIN))
    assert [
        text.partition(",")[0].partition(":")[0] for text in told.splitlines() if text[:2] in ("h_", "hi")
    ] == STAGES
    assert "hif_makeimages, after hifv_flagdata: one after the other" in told or "serial" in told
    assert not (tmp_path / "session").exists()


def test_a_request_names_its_data_and_tells_the_context_of_the_project(given: Path, tmp_path: Path) -> None:
    raw = tmp_path / "rawdata"
    raw.mkdir()
    (raw / "first.ms").symlink_to(given / "first.ms")
    inner = procedure(command("hifv_importdata"), command("hif_testBPdcals"))
    request = tmp_path / "working" / "request.xml"
    request.parent.mkdir()
    request.write_text(
        f"""<SciPipeRequest><ProcessingRequests><ProcessingRequest>
        <ProcessingIntents><Intents><Keyword>MOSAICS</Keyword><Value>true</Value></Intents>
        <Intents><Keyword>desired_angular_resolution</Keyword><Value>1arcsec</Value></Intents></ProcessingIntents>
        {inner}
        <DataSet><SchedBlockSet><SchedBlockIdentifier><RelativePath>somewhere</RelativePath>
        <AsdmIdentifier><AsdmDiskName>first.ms</AsdmDiskName></AsdmIdentifier>
        </SchedBlockIdentifier></SchedBlockSet></DataSet></ProcessingRequest></ProcessingRequests></SciPipeRequest>"""
    )
    workdir = tmp_path / "session"
    ran = surgeline(
        "casa-pipeline", "run", request, f"--workdir={workdir}", "--set=backend=serial", PYTHONPATH=STANDIN
    )
    assert "hif_testBPdcals failed: ValueError: no calibrator is bright enough" in ran.stderr
    assert commits(workdir) == ["h_init", "hifv_importdata"]
    seen = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pickle, sys; c = pickle.load(open(sys.argv[1], 'rb'))\n"
            "print(c.processing_intents, c.project_structure.recipe_name, "
            "c.project_performance_parameters.desired_angular_resolution)",
            str(workdir / known(workdir, PipelineStage)[-1].context),
        ],
        env={**os.environ, "PYTHONPATH": STANDIN},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.split("\n")[0] == "{'CUBES': True, 'MOSAICS': 'true'} test_procedure 1arcsec"
