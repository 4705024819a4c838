"""What the CASA Pipeline gains from this engine: dispatch and a procedure, on its own Dask layer and on this one.

- dispatch: no-op function calls, and no-op tasks with a context of 20 MB, through its TaskQueue;
- procedure: the wall time of one for the VLA on a simulated observation, with workers and without.

By whatever copy of the Pipeline can be imported, each layer in a process of its own with as many local workers. Runs
alone, too: `PYTHONPATH=/opt/casa-pipeline python benchmarks/adoption.py`, or with one of the parts `dispatch` and
`procedure`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from adoption_programs import WORKERS
from report import report
from surgeline.adopt import copies
from surgeline.errors import BadInput
from surgeline.parallel.environment import clean_environment
from surgeline.work.casaprocess import thread_environment

PROGRAMS = Path(__file__).with_name("adoption_programs.py")
CALLS, SINGLE, TASKS, ROUNDS = 500, 20, 20, 3
MEGABYTES = 20.0
PROCEDURE_ROUNDS = 2
# Its procedures for the VLA are for one execution block.
OBSERVATION = "first.ms"
LAYERS = {"own": "its own Dask", "surgeline": "this"}
# Where a task can be spread over workers, it is: no task does so unless it is told to.
SPREAD = {"parallel": "automatic"}
# From import to the images of an observatory's procedure for the VLA's continua, without what needs more of an
# observation than there is: its antennas' positions, weather and switched power.
COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("hifv_importdata", {"vis": [OBSERVATION], **SPREAD}),
    ("hifv_flagdata", {}),
    ("hifv_vlasetjy", {}),
    ("hifv_testBPdcals", {}),
    ("hifv_checkflag", {}),
    ("hifv_semiFinalBPdcals", {}),
    ("hifv_solint", {}),
    ("hifv_fluxboot", {}),
    ("hifv_finalcals", {}),
    ("hifv_applycals", {}),
    ("hifv_targetflag", {}),
    ("hifv_statwt", {}),
    ("hif_mstransform", SPREAD),
    ("hif_makeimlist", {"specmode": "cont"}),
    ("hif_makeimages", {}),
]


def why_not(folder: Path) -> str | None:
    """Why nothing can be measured; None where a copy of the Pipeline can be imported."""
    try:
        copies.find()
        run("imported", folder / "imported")
    except BadInput as error:
        return error.message
    except SystemExit as error:
        return str(error).strip().splitlines()[-1]
    return None


def run(program: str, folder: Path, **arguments: Any) -> dict[str, Any]:
    """What a program of adoption_programs.py says, and how long it took in all; each process has one thread."""
    folder.mkdir(exist_ok=True)
    home = folder / "home" / ".casa"
    home.mkdir(parents=True)
    # CASA's data are those that are installed, and nothing is fetched.
    (home / "config.py").write_text(
        "import casadata\ndatapath = [casadata.datapath]\nmeasurespath = casadata.datapath\n"
        "measures_auto_update = data_auto_update = False\nnogui = agg = True\n"
    )
    (folder / "config.yaml").write_text(yaml.safe_dump({"pipeconfig": {"dask": {"n_workers": WORKERS}}}))
    environment = {**clean_environment(), **thread_environment(1), "HOME": str(home.parent)}
    line = [sys.executable, str(PROGRAMS), program, json.dumps(arguments)]
    # A file, because a worker that outlived its client would keep a pipe open.
    with (folder / "output").open("wb") as output:
        began = time.perf_counter()
        code = subprocess.run(line, cwd=folder, env=environment, stdout=output, stderr=output).returncode
        seconds = time.perf_counter() - began
    if code:
        raise SystemExit(f"{program} failed:\n{(folder / 'output').read_text(errors='replace')[-3000:]}")
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return {**results, "seconds": seconds}


def dispatch_figures(folder: Path, megabytes: float = MEGABYTES) -> dict[str, float]:
    """What a job costs on both layers, the median of rounds."""
    asked = {"number": CALLS, "single": SINGLE, "of_tasks": TASKS, "megabytes": megabytes, "rounds": ROUNDS}
    seen = {layer: run("dispatch", folder / f"dispatch {layer}", layer=layer, **asked) for layer in LAYERS}
    middle = {
        layer: {what: statistics.median(ran[what]) for what in ("calls", "single", "tasks")}
        for layer, ran in seen.items()
    }
    figures = {"CASA Pipeline: its context, MB": seen["surgeline"]["bytes"] / 1e6}
    for layer, called in LAYERS.items():
        figures |= {
            f"CASA Pipeline on {called}: until its workers have made the first calls, s": seen[layer]["first"],
            f"CASA Pipeline on {called}: no-op calls a second, {CALLS} at once": middle[layer]["calls"],
            f"CASA Pipeline on {called}: no-op calls a second, one at a time": middle[layer]["single"],
            f"CASA Pipeline on {called}: a no-op task with its context, ms": 1e3 * middle[layer]["tasks"],
            f"CASA Pipeline on {called}: copies of the context left behind, MB": seen[layer]["left"] / 1e6,
        }
    own, ours = middle["own"], middle["surgeline"]
    return figures | {
        "CASA Pipeline, calls at once: this over its own Dask": ours["calls"] / own["calls"],
        "CASA Pipeline, calls one at a time: this over its own Dask": ours["single"] / own["single"],
        "CASA Pipeline, tasks: seconds of its own Dask over this": own["tasks"] / ours["tasks"],
    }


def procedure_figures(folder: Path, rounds: int = PROCEDURE_ROUNDS) -> dict[str, float]:
    """How long a procedure takes on both layers and without workers, in turns; the median of rounds."""
    given = folder / "observations"
    run("observations", given)
    ran: dict[str, list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for layer in (*LAYERS, "none"):
            place = folder / f"procedure {layer} {turn}"
            shutil.copytree(given / OBSERVATION, place / OBSERVATION)
            ran.setdefault(layer, []).append(run("procedure", place, layer=layer, commands=COMMANDS))
            shutil.rmtree(place)
    figures: dict[str, float] = {}
    for layer, called in {**LAYERS, "none": "one process"}.items():
        of_tasks = [sum(seen["tasks"].values()) for seen in ran[layer]]
        figures[f"CASA Pipeline, procedure on {called}: in all, s"] = statistics.median(
            seen["seconds"] for seen in ran[layer]
        )
        figures[f"CASA Pipeline, procedure on {called}: its tasks, s"] = statistics.median(of_tasks)
        for name in ran[layer][0]["tasks"]:
            figures[f"CASA Pipeline, procedure on {called}: {name}, s"] = statistics.median(
                seen["tasks"][name] for seen in ran[layer]
            )
    return figures


def adoption_figures(folder: Path) -> dict[str, float]:
    """All of these; none where no copy of the Pipeline can be imported."""
    folder.mkdir(exist_ok=True)
    if reason := why_not(folder):
        print(f"figures of the CASA Pipeline are left out: {reason}")
        return {}
    return dispatch_figures(folder) | procedure_figures(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the CASA Pipeline gains from this engine.")
    parser.add_argument("parts", nargs="*", help="some of: dispatch, procedure; all unless given")
    parser.add_argument("--megabytes", type=float, default=MEGABYTES, help="size of the context")
    parser.add_argument("--rounds", type=int, default=PROCEDURE_ROUNDS, help="how often the procedure runs")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as scratch:
        if reason := why_not(Path(scratch)):
            raise SystemExit(f"nothing can be measured: {reason}")
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "dispatch": lambda: dispatch_figures(Path(scratch), asked.megabytes),
            "procedure": lambda: procedure_figures(Path(scratch), asked.rounds),
        }
        if unknown := set(asked.parts) - parts.keys():
            parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(parts)}")
        figures: dict[str, float] = {}
        for part in asked.parts or parts:
            figures |= parts[part]()
    report(figures, "adoption")


if __name__ == "__main__":
    main()
