"""What ranks run that a test starts by mpirun: `mpi_client.py FOLDER VIS`; results go to FOLDER/results.json.

Servers serve; the client imports the stand-in for the Pipeline, and calls what its callers call.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from surgeline.parallel.mpiserver import serve_if_server

VIS = ["a.ms", "b.ms", "bad.ms", "d.ms"]


def main() -> None:
    serve_if_server()
    folder, vis = Path(sys.argv[1]), sys.argv[2]
    os.chdir(folder)
    from surgeline import adopt, open_backend
    from surgeline.config import load

    (folder / "config.yaml").write_text("pipeconfig: {}")
    backend = open_backend(load(), folder=folder)
    adopt.install(backend)
    import pipeline

    seen = look(pipeline, folder, vis)
    seen["folders"] = folders_after_heuristics(backend, folder / "elsewhere")
    adopt.uninstall()
    casatasks = sys.modules["casatasks"]
    seen["tclean is CASA's again"] = not hasattr(casatasks.tclean, "plain")
    backend.close()
    partial = folder / "results.partial"
    partial.write_text(json.dumps(seen))
    partial.rename(folder / "results.json")


def look(pipeline: Any, folder: Path, vis: str) -> dict[str, Any]:
    mpi, dask = pipeline.infrastructure.mpihelpers, pipeline.infrastructure.daskhelpers
    context = pipeline.infrastructure.launcher.Context(folder)
    seen: dict[str, Any] = {"process": os.getpid()}
    environment = mpi.MPIEnvironment
    seen["client"] = [environment.is_mpi_enabled, environment.is_mpi_client, environment.mpi_server_rank_list()]
    seen["ready"] = [mpi.is_mpi_ready(), dask.is_dask_ready(), dask.daskclient, mpi.mpi_server_list]
    seen["automatic"] = [
        mpi.parse_mpi_input_parameter("automatic"),
        mpi.parse_parallel_input_parameter("automatic"),
    ]
    inputs = pipeline.tasks.Inputs(context, VIS, seconds=0.2)
    found = pipeline.tasks.ParallelCalibrate(inputs).execute()
    seen["calibrated"] = [
        [result.product, result.top, result.process, result.folder]
        if not isinstance(result, Exception)
        else [type(result).__name__, str(result)]
        for _, result in found
    ]
    seen["saved"] = pipeline.infrastructure.launcher.SAVED
    seen["plots"] = pipeline.callers.plot(["a", "b"])
    seen["self-calibrated"] = pipeline.callers.self_calibrate(context, ["one", "two"])
    seen["commands"] = context.commands
    with pipeline.callers.TaskQueue() as queue:
        for asked in (mpi.is_mpi_server, dask.is_worker, mpi.is_mpi_ready, dask.is_daskclient_allowed):
            queue.add_functioncall(asked)
    seen["a server"] = queue.get_results()
    seen["environments"] = pipeline.callers.environments()
    asked = mpi.mpiclient.push_command_request(
        "pipeline.infrastructure.levels.configured", block=True, target_server=mpi.mpi_server_list
    )
    seen["configured"] = [answer["ret"] for answer in asked]
    pipeline.infrastructure.set_logging_level("debug")
    (folder / "elsewhere").mkdir()
    with pipeline.callers.work_directory(str(folder / "elsewhere")), pipeline.callers.TaskQueue() as queue:
        queue.add_functioncall(pipeline.callers.told)
    seen["told"] = queue.get_results()[0]
    (number,) = mpi.mpiclient.push_command_request("1 + one", parameters={"one": 1})
    (answer,) = mpi.mpiclient.push_command_request("1 / 0", block=True)
    seen["lines"] = [answer["successful"], answer["traceback"], type(number).__name__]
    from pipeline.infrastructure.casa_tasks import tclean

    os.chdir(folder / "elsewhere")
    tclean(vis=vis, imagename="parallel", imsize=64, cell="8arcsec", niter=0, parallel=True).execute()
    tclean(vis=vis, imagename="alone", imsize=64, cell="8arcsec", niter=0).execute()
    os.chdir(folder)
    return seen


def folders_after_heuristics(backend: Any, elsewhere: Path) -> list[str]:
    """Where jobs run on the servers, after the Pipeline's heuristics have called CASA's parallel imaging directly."""
    from casatasks.private.imagerhelpers.parallel_imager_helper import PyParallelImagerHelper

    from surgeline.work.jobs import FunctionCall

    before = Path.cwd()
    os.chdir(elsewhere)
    PyParallelImagerHelper()
    os.chdir(before)
    return [outcome.value for outcome in backend.exec_everywhere(FunctionCall(os.getcwd).declare(name="where"))]


if __name__ == "__main__":
    main()
