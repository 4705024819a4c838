"""Surgeline in the place of the CASA Pipeline's parallel layer, for a stand-in with the same contract."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest

from surgeline import FunctionCall, adopt, open_backend
from surgeline.adopt import snapshots
from surgeline.adopt.installing import AdoptionWarning
from surgeline.config import load
from surgeline.errors import BadInput
from surgeline.work.taskqueue import Backend

STANDIN = Path(__file__).with_name("standin")
only_with_workers = pytest.mark.parametrize("backend", ["dask"], indirect=True)
# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
OBSERVATIONS = ["a.ms", "b.ms", "c.ms", "d.ms"]


@pytest.fixture(scope="module", params=["serial", "dask"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp(request.param)
    overrides = [f"backend={request.param}", "dask.n_workers=2"]
    opened = open_backend(load(overrides=overrides, environment={}, home=folder), folder=folder)
    yield opened
    opened.close()


@pytest.fixture
def pipeline(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in, imported after Surgeline was installed."""
    monkeypatch.syspath_prepend(STANDIN)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="error"):
        adopt.install(backend)
    try:
        import pipeline

        yield pipeline
    finally:
        adopt.uninstall()


@pytest.fixture
def context(pipeline: ModuleType, tmp_path: Path) -> object:
    return pipeline.infrastructure.launcher.Context(tmp_path)


def calibrated(pipeline: ModuleType, context: object, vis: list[str], **arguments: object) -> list:
    inputs = pipeline.tasks.Inputs(context, vis, **arguments)
    return pipeline.tasks.ParallelCalibrate(inputs).execute()


def is_parallel(backend: Backend) -> bool:
    return backend.name != "serial"


def test_each_observation_is_a_job_and_its_products_are_named_as_in_one_process(
    pipeline: ModuleType, context: object, backend: Backend, tmp_path: Path
) -> None:
    found = calibrated(pipeline, context, OBSERVATIONS, seconds=0.2)
    assert [vis for vis, _ in found] == OBSERVATIONS
    results = [result for _, result in found]
    assert [result.solved for result in results] == [f"phases.tbl of {vis}" for vis in OBSERVATIONS]
    assert [result.product for result in results] == [f"h_calibrate.{vis}" for vis in OBSERVATIONS]
    assert {result.folder for result in results} == {str(tmp_path)}
    assert not any(result.top for result in results)
    processes = {result.process for result in results}
    assert (
        (os.getpid() not in processes and len(processes) == 2) if is_parallel(backend) else processes == {os.getpid()}
    )
    results[0].merge_with_context(context)
    assert context.results == ["a.ms"]
    assert pipeline.infrastructure.filenamer.NamingTemplate.task is None


def test_casa_commands_stand_in_the_log_in_the_order_of_jobs(pipeline: ModuleType, context: object) -> None:
    calibrated(pipeline, context, OBSERVATIONS)
    pipeline.callers.requests(context, ["x.ms", "y.ms"])
    assert [line.partition(",")[0] for line in context.commands] == [
        f"gaincal(vis='{vis}'" for vis in [*OBSERVATIONS, "x.ms", "y.ms"]
    ]


def test_logs_that_are_begun_by_an_import_are_each_processs_own(
    pipeline: ModuleType, context: object, backend: Backend
) -> None:
    calibrated(pipeline, context, ["here.ms"])
    calibrated(pipeline, context, ["a.ms", "b.ms"])
    pipeline.callers.transform(context, ["here.ms"], parallel=False)
    here = pipeline.infrastructure.levels.calls.read_text().splitlines()
    assert len(here) == (2 if is_parallel(backend) else 4)
    if is_parallel(backend):
        with pipeline.callers.TaskQueue() as queue:
            queue.add_functioncall(pipeline.callers.calls_file)
        assert queue.get_results()[0].parent.parent.name == "logs"


def test_one_observation_that_fails_says_why_and_spoils_no_other(
    pipeline: ModuleType, context: object, backend: Backend
) -> None:
    found = dict(calibrated(pipeline, context, ["a.ms", "bad.ms", "c.ms"]))
    assert found["a.ms"].vis == "a.ms"
    assert found["c.ms"].vis == "c.ms"
    assert type(found["bad.ms"]) is pipeline.infrastructure.exceptions.PipelineException
    said = str(found["bad.ms"])
    assert "ValueError: no scan of a calibrator in bad.ms" in said
    assert "tasks.py" in said
    assert "Calibrate" in said
    if is_parallel(backend):
        assert "vis='bad.ms'" in said
        assert "on worker-" in said


def test_a_single_observation_and_parallel_false_run_in_this_process(pipeline: ModuleType, context: object) -> None:
    for vis, arguments in ((["a.ms"], {}), (["a.ms", "b.ms"], {"parallel": False})):
        found = calibrated(pipeline, context, vis, **arguments)
        assert {result.process for _, result in found} == {os.getpid()}


def test_jobs_of_a_version_share_one_snapshot_that_is_read_once_by_a_worker(
    pipeline: ModuleType, context: object, backend: Backend, tmp_path: Path
) -> None:
    launcher = pipeline.infrastructure.launcher
    if not is_parallel(backend):
        pipeline.callers.transform(context, OBSERVATIONS)
        assert launcher.SAVED == 0
        return
    before = reads_of_workers(backend)
    first = pipeline.callers.transform(context, OBSERVATIONS * 3)
    assert launcher.SAVED == 1
    assert max(now - then for now, then in zip(reads_of_workers(backend), before, strict=True)) == 1
    # No job finds what another did to its copy.
    assert {result.touched for result in first} == {1}
    first[0].merge_with_context(context)
    second = pipeline.callers.transform(context, OBSERVATIONS)
    assert launcher.SAVED == 2
    assert [result.results for result in first + second] == [[]] * 12 + [["a.ms"]] * 4
    assert max(now - then for now, then in zip(reads_of_workers(backend), before, strict=True)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"html", "calls.txt"}


def reads_of_workers(backend: Backend) -> list[int]:
    return [outcome.result() for outcome in backend.exec_everywhere(FunctionCall(reads_here))]


def reads_here() -> int:
    from surgeline.adopt import snapshots

    return snapshots.content.cache_info().misses


def test_what_a_queue_may_be_asked_for(pipeline: ModuleType, context: object, backend: Backend) -> None:
    calls = pipeline.callers
    assert [result.vis for result in calls.transform(context, OBSERVATIONS)] == OBSERVATIONS
    assert calls.plot(["a", "b"]) == ["a.png of a", "b.png of b"]
    assert calls.spread([9, 8, 9, 7]) == [(3, 0), (2, 2), (2, 1)]
    assert calls.self_calibrate(context, ["one", "two"]) == [("one", 0, "one"), ("two", 1, "two")]
    assert context.commands[-2:] == ["gaincal(vis='one', caltable='0.tbl')", "gaincal(vis='two', caltable='1.tbl')"]
    assert calls.TaskQueue().is_async() is is_parallel(backend)
    assert calls.TaskQueue(parallel=False).is_async() is False
    assert [result.process for result in calls.transform(context, ["a.ms"], parallel=False)] == [os.getpid()]
    queue = calls.TaskQueue()
    assert queue.done() == []
    queue.add_functioncall(lambda: [1])
    assert queue.get_results(clear=True) == [[1]]
    assert queue.get_results() == []


def test_a_queue_waits_for_all_jobs_and_then_tells_of_all_that_failed(pipeline: ModuleType, backend: Backend) -> None:
    failure = pipeline.infrastructure.exceptions.PipelineException
    queue = pipeline.callers.TaskQueue()
    for divisor in (0, 1, "a"):
        queue.add_functioncall(divmod, 1, divisor)
    for _ in range(2):
        with pytest.raises(failure, match=r"(?s)2 of 3 jobs failed.*ZeroDivisionError.*TypeError"):
            queue.get_results()
    with pytest.raises(KeyError), pipeline.callers.TaskQueue() as queue:
        queue.add_functioncall(divmod, 1, 0)
        queue.add_functioncall(Path("ended").touch)
        raise KeyError("the caller's own")
    assert Path("ended").exists() is is_parallel(backend)
    if is_parallel(backend):
        with pytest.raises(failure, match="cannot travel"):
            pipeline.callers.TaskQueue().add_functioncall(print, sys._getframe())


def test_arguments_that_have_no_hash_and_functions_without_signature_are_taken(pipeline: ModuleType) -> None:
    import numpy as np

    for unique in (False, True):
        with pipeline.callers.TaskQueue(unique=unique) as queue:
            for _ in range(2):
                queue.add_functioncall(max, np.arange(3))
        assert queue.get_results() == [2] * (1 if unique else 2)


def test_equal_calls_are_each_made(pipeline: ModuleType) -> None:
    import uuid

    with pipeline.callers.TaskQueue() as queue:
        for _ in range(6):
            queue.add_functioncall(uuid.uuid4)
    assert len(set(queue.get_results())) == 6


def test_a_folder_and_what_is_set_everywhere_hold_for_jobs_that_follow(
    pipeline: ModuleType, backend: Backend, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pipeline.callers.work_directory(str(elsewhere)), pipeline.callers.TaskQueue() as queue:
        queue.add_functioncall(pipeline.callers.told)
    ((where, folder, _, process),) = queue.get_results()
    assert folder == str(elsewhere)
    if is_parallel(backend):
        assert process != os.getpid()
        assert where[-1] == str(elsewhere)
        with pipeline.callers.TaskQueue() as queue:
            queue.add_functioncall(pipeline.callers.told)
        ((where, folder, _, _),) = queue.get_results()
        assert where[-2:] == [str(elsewhere), str(tmp_path)]
        assert folder == str(tmp_path)


@only_with_workers
def test_a_worker_that_dies_costs_its_job_nothing_and_the_next_worker_is_told_what_it_was(
    pipeline: ModuleType, context: object
) -> None:
    with pipeline.callers.work_directory(str(Path.cwd())):
        found = dict(calibrated(pipeline, context, ["a.ms", "deadly.ms"]))
        with pipeline.callers.TaskQueue() as queue:
            for _ in range(8):
                queue.add_functioncall(pipeline.callers.told)
    assert found["deadly.ms"].vis == "deadly.ms"
    assert all(where[-1] == str(Path.cwd()) for where, *_ in queue.get_results())


def test_what_callers_ask_of_the_two_modules(pipeline: ModuleType, backend: Backend) -> None:
    mpi, dask = pipeline.infrastructure.mpihelpers, pipeline.infrastructure.daskhelpers
    assert not hasattr(mpi, "OWN")
    assert not hasattr(dask, "OWN")
    for parse in (mpi.parse_mpi_input_parameter, mpi.parse_parallel_input_parameter):
        assert [parse(said) for said in (True, "True", "false", False)] == [True, True, False, False]
        with pytest.raises(ValueError, match="maybe"):
            parse("maybe")
    parallel = is_parallel(backend)
    assert mpi.parse_parallel_input_parameter("automatic") is parallel
    assert mpi.parse_mpi_input_parameter("automatic") is False
    assert (mpi.is_mpi_ready(), mpi.is_mpi_server(), mpi.mpiclient, mpi.mpi_server_list) == (False, False, None, None)
    assert (mpi.MPIEnvironment.is_mpi_enabled, mpi.MPIEnvironment.mpi_server_rank_list()) == (False, [])
    assert bool(dask.daskclient) is dask.is_dask_ready() is parallel
    assert (dask.is_worker(), dask.is_dask_worker(), dask.is_daskclient_allowed()) == (False, False, True)
    assert pipeline.callers.environments() == ["stand-in"]
    os.environ["OMPI_COMM_WORLD_NODE_RANK"] = "0"
    try:
        with dask.sanitized_env():
            assert "OMPI_COMM_WORLD_NODE_RANK" not in os.environ
        assert os.environ["OMPI_COMM_WORLD_NODE_RANK"] == "0"
    finally:
        del os.environ["OMPI_COMM_WORLD_NODE_RANK"]


def test_a_caller_may_switch_workers_off(
    pipeline: ModuleType, context: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.infrastructure.daskhelpers, "tier0futures", False)
    found = calibrated(pipeline, context, OBSERVATIONS)
    assert {result.process for _, result in found} == {os.getpid()}


def test_the_clients_own_calls_of_dask_run_on_the_same_workers(
    pipeline: ModuleType, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    helpers = pipeline.infrastructure.daskhelpers
    with caplog.at_level(logging.WARNING, "surgeline"):
        client = helpers.start_daskcluster({"n_workers": 7})
    assert "own configuration" in caplog.text
    if not is_parallel(backend):
        assert client is None
        return
    import dask

    assert client is helpers.daskclient
    processes = dask.compute(*[dask.delayed(os.getpid)() for _ in range(4)])
    assert os.getpid() not in processes
    helpers.stop_daskcluster()
    assert helpers.daskclient is None
    assert not helpers.is_dask_ready()
    assert helpers.start_daskcluster() is helpers.daskclient is not None


@only_with_workers
def test_a_worker_knows_what_it_is(pipeline: ModuleType) -> None:
    helpers = pipeline.infrastructure.daskhelpers
    with pipeline.callers.TaskQueue() as queue:
        for asked in (
            helpers.is_worker,
            helpers.is_dask_worker,
            helpers.is_daskclient_allowed,
            helpers.is_dask_ready,
        ):
            queue.add_functioncall(asked)
    assert queue.get_results() == [True, True, False, False]


def test_what_was_there_is_put_back(backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(STANDIN)
    monkeypatch.chdir(tmp_path)
    finders = list(sys.meta_path)
    adopt.install(backend)
    with pytest.raises(BadInput, match="already"):
        adopt.install(backend)
    with pytest.raises(BadInput, match="takes no jobs"):
        adopt.install("local")
    import pipeline

    queue = pipeline.callers.TaskQueue
    context = pipeline.infrastructure.launcher.Context(tmp_path)
    adopt.uninstall()
    adopt.uninstall()
    assert sys.meta_path == finders
    assert not [name for name in sys.modules if name.partition(".")[0] == "pipeline"]
    # What was imported before goes on, in this process.
    assert queue().is_async() is False
    assert [result.vis for result in pipeline.callers.transform(context, ["a.ms"])] == ["a.ms"]
    import pipeline.infrastructure.mpihelpers as own

    try:
        assert own.OWN
        with pytest.raises(BadInput, match="imported before"):
            adopt.install(backend)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
            del sys.modules[name]


def test_without_a_copy_of_the_pipeline_that_is_said(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "pipeline").exists()])
    with pytest.raises(BadInput, match="no copy of the CASA Pipeline"):
        adopt.install(backend)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match="is no CASA Pipeline"):
        adopt.install(backend)


def test_names_that_differ_are_told(backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    infrastructure = tmp_path / "pipeline" / "infrastructure"
    infrastructure.mkdir(parents=True)
    (tmp_path / "pipeline" / "__init__.py").write_text(
        "from .infrastructure import mpihelpers as helpers\nhelpers.is_mpi_ready()\nhelpers.push_everywhere\n"
    )
    (infrastructure / "__init__.py").touch()
    (infrastructure / "mpihelpers.py").write_text("def is_mpi_ready(): ...\n\n\ndef push_everywhere(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.warns(AdoptionWarning) as told:
            adopt.install(backend)
    finally:
        adopt.uninstall()
    said = str(told[0].message)
    assert "mpihelpers.push_everywhere, which it uses in __init__.py, is not supplied" in said
    assert "its mpihelpers has no " in said
    assert "TaskQueue" in said
    assert "it has no daskhelpers" in said


def test_a_snapshot_that_cannot_be_taken_leaves_nothing(tmp_path: Path) -> None:
    class Unsaved:
        output_dir = str(tmp_path)

        def save(self, path: str) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        snapshots.save(Unsaved())
    assert list(tmp_path.iterdir()) == []


def test_the_script_of_the_manual_runs(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "casa-pipeline.md"
    script = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert script is not None
    asked = (
        "assert pipeline.callers.spread([4, 5]) == [(1, 1), (1, 2)]; print(pipeline.callers.TaskQueue().is_async())"
    )
    (tmp_path / "script.py").write_text(script[1].replace("...", asked, 1))
    ran = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(STANDIN), "SURGELINE__DASK__N_WORKERS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ran.stdout, ran.returncode) == ("True\n", 0), ran.stderr


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, surgeline.adopt; print({'dask', 'distributed', 'casatasks', 'mpi4py'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_requests_for_imaging_keep_their_arguments(casa: Path, pipeline: ModuleType) -> None:
    from pipeline.infrastructure import casa_tasks

    request = casa_tasks.tclean(vis="a.ms", imagename="a", niter=0, unknown=1)
    assert request.keywords == {"vis": "a.ms", "imagename": "a", "niter": 0}


def azimuth(epoch: str) -> float:
    """Of one direction at the VLA, in radians."""
    from casatools import measures

    tool = measures()
    tool.doframe(tool.epoch("UTC", epoch))
    tool.doframe(tool.observatory("VLA"))
    seen: float = tool.measure(tool.direction("J2000", "15h22m00s", "5d04m00s"), "AZEL")["m0"]["value"]
    return seen


def test_what_a_job_computes_does_not_depend_on_the_jobs_before_it(casa: Path, pipeline: ModuleType) -> None:
    def last_of(*epochs: str) -> float:
        with pipeline.callers.TaskQueue() as queue:
            queue.map(azimuth, [(epoch,) for epoch in epochs])
        return float(queue.get_results()[-1])

    # CASA takes what it knows of the Earth's rotation for all of an hour, which is 9e-9 here.
    long_before, before, then = "1975/01/01/00:00:00", "1995/04/13/08:00:00", "1995/04/13/08:30:00"
    assert last_of(long_before, before, then) == pytest.approx(last_of(long_before, then), rel=0, abs=1e-12)
