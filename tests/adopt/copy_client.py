"""What a test runs with a copy of the CASA Pipeline: `copy_client.py KIND FOLDER PATHS`.

The folder has two observations. The Pipeline imports them and works on both, on the backend of this kind; what came
of it is noted in results.json there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from surgeline.parallel.mpiserver import serve_if_server

VIS = ["first.ms", "second.ms"]


def main() -> None:
    serve_if_server()
    kind, folder = sys.argv[1], Path(sys.argv[2])
    os.chdir(folder)
    from surgeline import adopt, open_backend
    from surgeline.config import load
    from surgeline.work.casaprocess import CasaProcess

    CasaProcess(folder, folder / "logs" / "client.log").prepare()
    sys.path[1:1] = sys.argv[3].split(os.pathsep)
    backend = open_backend(load(overrides=[f"backend={kind}", "dask.n_workers=2"]), folder=folder)
    adopt.install(backend)
    try:
        seen = run(Path(sys.argv[3].split(os.pathsep)[0]), kind)
    finally:
        adopt.uninstall()
        backend.close()
    (folder / "results.json").write_text(json.dumps(seen))


def run(home: Path, kind: str) -> dict[str, Any]:
    import pipeline.cli
    from pipeline.h.cli.h_importdata import h_importdata
    from pipeline.h.cli.utils import get_context
    from pipeline.infrastructure import casa_tasks, launcher
    from pipeline.infrastructure.basetask import Executor
    from pipeline.infrastructure.mpihelpers import TaskQueue

    seen: dict[str, Any] = {"layer": TaskQueue.__module__}
    saved: list[str] = []
    save = launcher.Context.save

    def counted(context: Any, filename: str | None = None) -> None:
        saved.append(str(filename))
        save(context, filename)

    launcher.Context.save = counted
    pipeline.cli.h_init()
    context = get_context()
    h_importdata(vis=VIS)
    saved.clear()
    seen["antennas"] = [str(result) for result in pipeline.cli.hif_refant(parallel="automatic")]
    seen["saved"] = len(saved)
    pipeline.cli.hif_rawflagchans(parallel="automatic")
    log = Path(context.report_dir, context.logs["casa_commands"])
    seen["commands"] = [line for line in log.read_text().splitlines() if not line.startswith("#")]
    with TaskQueue(executor=Executor(context)) as queue:
        for number in range(3):
            queue.add_jobrequest(casa_tasks.copyfile, {"src": str(log), "dst": f"copy {number}"})
    seen["requests"] = queue.get_results()
    if kind == "dask":
        import pytest

        seen["own tests"] = pytest.main(
            ["-q", "-p", "no:cacheprovider", str(home / "pipeline" / "infrastructure" / "daskhelpers_test.py")]
        )
    return seen


if __name__ == "__main__":
    main()
