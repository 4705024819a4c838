"""Every file name that a session makes, formed here and nowhere else."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

# Names are put together of several, and file systems take 255 bytes.
_LONGEST_NAME = 90


@dataclass(frozen=True)
class SessionPaths:
    """The layout of one session's working folder.

    Jobs run with the working folder as their current directory, so what they are given are the *relative*
    names that the methods below return; the properties are absolute, for the session itself.
    """

    workdir: Path

    @property
    def lock(self) -> Path:
        return self.workdir / "session.lock"

    @property
    def recipe(self) -> Path:
        return self.workdir / "recipe.yaml"

    @property
    def context(self) -> Path:
        return self.workdir / "context.db"

    @property
    def identifier(self) -> Path:
        return self.workdir / "context.id"

    @property
    def record(self) -> Path:
        return self.workdir / "run.json"

    @property
    def now(self) -> Path:
        return self.logs / "now.json"

    @property
    def logs(self) -> Path:
        return self.workdir / "logs"

    @property
    def products(self) -> Path:
        return self.workdir / "products"

    @property
    def weblog(self) -> Path:
        return self.workdir / "weblog" / "index.html"

    @property
    def script(self) -> Path:
        return self.workdir / "weblog" / "commands.py"

    @property
    def prefect(self) -> Path:
        return self.workdir / "prefect"

    @property
    def flow_run(self) -> Path:
        return self.workdir / "flow_run.json"

    @property
    def states(self) -> Path:
        return self.workdir / "states"

    @property
    def replaced(self) -> Path:
        return self.workdir / "replaced"

    def make(self) -> None:
        """Create the folders that stages write to."""
        for name in ("data", "calibration", "images", "products", "pictures", "logs", "weblog"):
            (self.workdir / name).mkdir(parents=True, exist_ok=True)


def comparison_folder(paths: SessionPaths, other: Path) -> Path:
    """Where the pages are that compare a session with that of another working folder."""
    return paths.weblog.parent / f"compared-with-{safe_name(other.name)}"


def casa_log(folder: Path, worker: str) -> Path:
    """The CASA log file of one worker process."""
    return folder / f"casa-{safe_name(worker)}.log"


def queue_folder(logs: Path, name: str) -> Path:
    """Where the queue jobs of a session write, and what lets their workers in; `name` is the jobs' own."""
    return logs / name


def cancel_note(folder: Path) -> Path:
    """What says how to cancel the queue jobs that write to a folder."""
    return folder / "cancel.json"


def store_note(logs: Path, name: str) -> Path:
    """What says where a session leaves files for its workers, so that they can be removed after it; `name` is their
    folder's there."""
    return logs / f"{name}.json"


def arriving(path: Path) -> Path:
    """Where what comes back for a path is until it is complete, beside it."""
    return path.with_name(f".{path.name}.arriving")


def mpi_notes(logs: Path) -> Path:
    """Where the servers of an MPI session leave notes of deaths, and large parcels."""
    return logs / "mpi"


def nested_folder(logs: Path, name: str) -> Path:
    """Where a nested MPI session and the process that started it leave files for each other."""
    return logs / f"mpi-{name}"


def server_note(notes: Path, rank: int) -> Path:
    """Where a server's keeper says how it died."""
    return notes / f"server-{rank}.json"


def server_end_request(notes: Path, rank: int) -> Path:
    """What asks a server's keeper to end it."""
    return notes / f"end-{rank}"


def dataset(name: str) -> str:
    """A MeasurementSet of the session, relative to the working folder."""
    return f"data/{name}"


def caltable(stage: str, vis: str, kind: str) -> str:
    """A calibration table, named by its MS, the stage that made it and its kind (B, G, ...)."""
    return f"calibration/{Path(vis).stem}.{safe_name(stage)}.{kind}"


def image(name: str) -> str:
    """The stem of an image's products, as tclean's `imagename`."""
    return f"images/{name}"


def product(name: str) -> str:
    """A file for people."""
    return f"products/{name}"


def picture(name: str) -> str:
    """A plot or picture for the weblog."""
    return f"pictures/{safe_name(name)}.png"


def saved_state(stage: str, number: int, path: str, turn: int) -> str:
    """Where the state of data is kept as it was before a stage's commit of a number changed it."""
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    return f"states/{safe_name(stage)}.{number}/{turn}.{safe_name(path)}.{digest}"


# Where the CASA Pipeline works; it puts its products into `products/` beside it.
PIPELINE_FOLDER = "working"


def pipeline_context(stage: str, version: int) -> str:
    """Where the CASA Pipeline's context is kept as a stage left it that began at a version of the session's own."""
    return f"contexts/{version:04d}.{safe_name(stage)}.context"


def pipeline_note(stage: str, version: int) -> str:
    """What says which names there were in the CASA Pipeline's folder before and after a stage."""
    return f"contexts/{version:04d}.{safe_name(stage)}.names.json"


def pipeline_notes(workdir: Path) -> list[tuple[int, Path]]:
    """All such notes of a session, each with the version that its stage began at."""
    return [(int(path.name.partition(".")[0]), path) for path in sorted(workdir.glob("contexts/*.names.json"))]


def set_aside_of(name: str, version: int) -> str:
    """Where what an attempt left in the CASA Pipeline's folder is moved, when the stage begins anew at a version."""
    return f"replaced/{version}/{PIPELINE_FOLDER}/{name}"


def safe_name(text: str) -> str:
    """A file name that any file system and CASA accept, from any text (a field's name, say)."""
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", text).strip("_.") or "unnamed"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - len(digest) - 1]}-{digest}"


def partial(path: str | Path) -> Path:
    """The name that a file or table has while it is being written, beside the final one."""
    final = Path(path)
    return final.with_name(f"{final.name}.partial")


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears under its name only once it is complete: write, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(paths: SessionPaths) -> None:
    """Remove what processes that were killed had half written by `write_text`."""
    written = (paths.recipe, paths.identifier, paths.record, paths.flow_run)
    # In the working folder itself there may be files of the user's.
    own = (path for file in written for path in paths.workdir.glob(f".{file.name}.*"))
    for path in itertools.chain(own, paths.logs.glob(".*"), paths.weblog.parent.rglob(".*")):
        process = path.suffix.removeprefix(".")
        if process.isdecimal() and not Path("/proc", process).exists():
            path.unlink(missing_ok=True)
