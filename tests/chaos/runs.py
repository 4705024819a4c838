"""A session to which things happen: it is started, watched, resumed, and held against one to which nothing did."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import yaml
from astropy.io import fits

from chaos import chaos_stages
from support import RECIPE, wait_until
from surgeline.context.store import Context
from surgeline.paths import SessionPaths

# Those who clean up after a session that was killed are given so long: an undertaker looks twice, ten seconds apart.
CLEAN_SECONDS = 60.0
_MARK = "SURGELINE_CHAOS_RUN"
_INTERRUPTED = 130
# Names the file that says how wrong the clocks of workers are.
CLOCK = "SURGELINE_CHAOS_CLOCK"
# What nobody may find after a session has ended: what was half written or only for those who watch it.
_SCRATCH = re.compile(r"(^|/)(\.[^/]+|[^/]*\.(partial|arriving)|cancel\.json|now\.json|export-[^/]*|end-\d+)(/|$)")


@dataclass(frozen=True)
class Site:
    """Where sessions run.

    Attributes:
        name: what faults know it by.
        settings: the configuration of a session there.
        ranks: as how many ranks of an MPI job; 0: it is a process of its own.
        environment: variables that a session is started with.
        queue: what a workload manager's queue holds.
        services: daemons that faults may stop, by name.
        database: the context's database, where it is not a file.
        apart: whether a session has a network and rights of its own, of which faults take some away.
        pods: where workers are pods, which do not carry the mark of a session, a folder that they share with it.
    """

    name: str
    settings: tuple[str, ...]
    ranks: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    queue: Callable[[], Sequence[str]] = list
    services: dict[str, Any] = field(default_factory=dict)
    database: str = ""
    apart: bool = os.geteuid() == 0
    pods: Path | None = None


# What Dask has on each machine: two empty files by which its processes agree, and what is left of workers that were
# ended, which its next worker there removes.
_OF_DASK = re.compile(r"dask-scratch-space(/(global|purge)\.lock|/worker-\w+(\.dirlock)?)?")

_PRODUCT_DIGEST = re.compile(r'"sha256":"\w+"')
_HOW = '"what":"how to make '


class Work:
    """The generated recipe: hundreds of jobs whose results follow from their names."""

    name: ClassVar[str] = "generated"
    # Whether its jobs do what is wished of them.
    misbehaves: ClassVar[bool] = True
    # A session that has not ended so many seconds after the last fault was undone hangs.
    patience: ClassVar[float] = 180.0

    def __init__(self, count: int = 250) -> None:
        """So many files, which are as many jobs; and some jobs more."""
        stages: list[dict[str, Any]] = [
            {"task": "scatter", "name": "many", "needs": [], "arguments": {"count": count}},
            {
                "task": "scatter", "name": "slow", "needs": [],
                "arguments": {"count": 20, "seconds": 0.05, "everywhere": True},
            },
            {"task": "table", "needs": []},
            {"task": "change", "needs": ["many", "table"], "arguments": {"seconds": 0.1}},
            {"task": "ask_for_facts", "needs": ["many", "slow"]},
            {"task": "gather", "needs": ["change", "slow", "ask_for_facts"]},
        ]  # fmt: skip
        self.jobs = count + 57
        self._recipe = {"name": "chaos", "stages": stages}

    def recipe(self, folder: Path) -> Path:
        """Its file, made in a folder."""
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self._recipe))
        return path

    def begun(self, run: Run) -> int:
        """How many jobs have begun so far."""
        return sum(1 for _ in (run.folder / "begun").iterdir())

    def found(self, run: Run) -> dict[str, Any]:
        """All that has to be equal: facts, and the bytes of data and products."""
        workdir = run.workdir
        return {**_facts(run), **_files(workdir, "data"), **_files(workdir, "products")}


class Galaxy(Work):
    """NGC 5921: a real observation, whose facts and pixels have to be equal."""

    name = "NGC 5921"
    misbehaves = False
    patience = 900.0

    def __init__(self) -> None:
        """As the demo."""
        self.jobs = 60

    def recipe(self, folder: Path) -> Path:
        """That of the demo."""
        return RECIPE

    def begun(self, run: Run) -> int:
        """How many jobs have ended, as the record says it."""
        try:
            record = json.loads(SessionPaths(run.workdir).record.read_text())
        except (OSError, ValueError):
            return 0
        return sum(len(stage["jobs"]) for stage in record["stages"])

    def found(self, run: Run) -> dict[str, Any]:
        """Facts, and the pixels of all products.

        Headers have the time of writing, and so a product's digest; and how images are made follows from the workers.
        """
        facts = {name: _PRODUCT_DIGEST.sub("", body) for name, body in _facts(run).items() if _HOW not in body}
        pixels = {
            path.name: hashlib.sha256(np.ascontiguousarray(fits.getdata(path)).tobytes()).hexdigest()
            for path in sorted((run.workdir / "products").glob("*.fits"))
        }
        return {**facts, **pixels}


class Run:
    """One session with all its attempts, in a folder of its own; everything of it carries a mark."""

    def __init__(self, folder: Path, site: Site, work: Work) -> None:
        """Prepare; nothing is started."""
        self.folder, self.site, self.work = folder, site, work
        self.workdir = folder / "session"
        for name in ("begun", "wishes", "taken", "tmp", "cache", "home"):
            (folder / name).mkdir(parents=True)
        chaos_stages.install(folder / "plugins")
        (folder / "clock").write_text("+0\n")
        self._recipe = work.recipe(folder)
        self.mark = folder.name + os.urandom(8).hex()
        self.attempt = 0
        self.story: list[str] = []
        self.codes: list[int] = []
        # The services that are stopped at this moment.
        self.away: set[str] = set()
        self._began = time.monotonic()
        self.process: psutil.Popen = None

    def tell(self, what: str) -> None:
        """Add to what happened."""
        self.story.append(f"{time.monotonic() - self._began:6.1f} s  {what}")

    def start(self) -> None:
        """Start the session, or take it up again where it can be."""
        self.attempt += 1
        for wish in (self.folder / "wishes").iterdir():
            # Of the attempt before.
            wish.unlink()
        resume = self.attempt > 1 and SessionPaths(self.workdir).recipe.exists()
        asked = ["resume"] if resume else ["run", str(self._recipe)]
        asked += ["--workdir", str(self.workdir)]
        asked += [part for setting in self.site.settings for part in ("--set", setting)]
        command = [sys.executable, "-m", "surgeline.cli"]
        command += ["mpirun", "-n", str(self.site.ranks), "--", *asked] if self.site.ranks else asked
        if self.site.apart:
            # A network of its own, which faults may cut; and root may not write what is read-only.
            bounds = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
            command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *bounds, *command]
        environment = {
            **os.environ,
            **self.site.environment,
            "PYTHONPATH": os.pathsep.join(
                [str(self.folder / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "PYTHONFAULTHANDLER": "1",
            "TMPDIR": str(self.folder / "tmp"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "HOME": str(self.folder / "home"),
            chaos_stages.ATTEMPT: str(self.attempt),
            _MARK: self.mark,
            CLOCK: str(self.folder / "clock"),
        }
        self.tell(f"attempt {self.attempt}: {'resume' if resume else 'run'}")
        (self.folder / "attempt").write_text(str(self.attempt))
        with self.output.open("ab") as output:
            self.process = psutil.Popen(command, stdout=output, stderr=output, env=environment, cwd=self.folder)

    @property
    def output(self) -> Path:
        """What the attempt that runs, or ran last, has said."""
        return self.folder / f"output-{self.attempt}"

    def runs(self) -> bool:
        """Whether the session has not ended."""
        return self.process.poll() is None

    def wait_for_moment(self, part: float, meanwhile: Callable[[], None]) -> None:
        """Wait until so large a part of the jobs, 0 to 1, has begun, or the session has ended."""
        deadline = time.monotonic() + self.work.patience
        while self.runs() and self.work.begun(self) < part * self.work.jobs:
            if time.monotonic() > deadline:
                self.show_threads()
                raise AssertionError(self.told(f"{part:.0%} of the jobs have not begun"))
            meanwhile()
            time.sleep(0.01)

    def wait(self) -> int:
        """Wait for the session's end; its exit code."""
        try:
            code = self.process.wait(self.work.patience)
        except psutil.TimeoutExpired:
            self.show_threads()
            raise AssertionError(self.told("the session hangs")) from None
        self.codes.append(code)
        self.tell(f"it ended with exit code {code}")
        return int(code)

    def show_threads(self) -> None:
        """Have Python's fault handler write where each thread of each process is, which ends them."""
        for process in self.processes():
            with suppress(psutil.Error):
                self.tell(f"still there: {process.pid} {process.status()} {' '.join(process.cmdline())[:200]}")
                process.resume()
                process.send_signal(signal.SIGABRT)
        with suppress(psutil.TimeoutExpired):
            self.process.wait(10)

    def processes(self) -> list[psutil.Process]:
        """Every process that the session started, or that what it started did."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def session(self) -> psutil.Process | None:
        """The process of the session itself: of an MPI job, the client."""
        if not self.site.ranks:
            return self.process if self.runs() else None
        return next(iter(self.ranks(0)), None)

    def ranks(self, *numbers: int) -> list[psutil.Process]:
        """The processes of ranks, keepers among them; without numbers those of all servers."""
        wanted = {str(number) for number in numbers or range(1, self.site.ranks)}
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if process.environ().get("OMPI_COMM_WORLD_RANK") in wanted:
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that jobs run in."""
        session = self.session()
        found = []
        for process in psutil.process_iter() if self.site.pods else self.processes():
            with suppress(psutil.Error, OSError):
                here = self.workdir in (Path(process.cwd()), Path(process.cwd()).parent)
                if here and process != session and "python" in process.name():
                    found.append(process)
        return found

    def told(self, problem: str) -> str:
        """A problem, with all that has happened."""
        said = "\n".join(
            f"--- output {number}\n{path.read_text(errors='replace')[-6000:]}"
            for number in range(1, self.attempt + 1)
            if (path := self.folder / f"output-{number}").exists()
        )
        story = "\n".join(self.story)
        return f"{problem}\nat {self.site.name}, {self.work.name}, in {self.folder}\n{story}\n{said}"

    def check(self, expected: dict[str, Any]) -> None:
        """See that it came out as if nothing had happened, that it left nothing, and that it tells of it."""
        self._check_words()
        found = self.work.found(self)
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        assert not wrong, self.told(f"not as in an undisturbed run: {wrong[:10]}")
        self._check_record()
        self.check_nothing_left()

    def _check_words(self) -> None:
        for number in range(1, self.attempt + 1):
            said = (self.folder / f"output-{number}").read_text(errors="replace")
            assert "Traceback" not in said, self.told("it said a traceback")
        for code, number in zip(self.codes, range(1, self.attempt + 1), strict=True):
            if code > 0:
                said = (self.folder / f"output-{number}").read_text(errors="replace")
                # Whoever interrupts a program that has only just been started knows why it ends.
                began = any(line.startswith("[") for line in said.splitlines())
                assert "surgeline: " in said or (code == _INTERRUPTED and not began), self.told(
                    f"attempt {number} did not say why it ended"
                )

    def _check_record(self) -> None:
        record = json.loads(SessionPaths(self.workdir).record.read_text())
        assert record["state"] == "finished", self.told(f"run.json says {record['state']}")
        states = {stage["name"]: stage["state"] for stage in record["stages"]}
        assert set(states.values()) == {"finished"}, self.told(f"run.json says {states}")
        if not self.site.ranks:
            # Who watches mpirun starts a session again by itself.
            assert len(record["sessions"]) <= self.attempt, self.told("run.json tells of more runs than there were")
        page = SessionPaths(self.workdir).weblog
        assert page.exists() and "finished" in page.read_text(), self.told("there is no weblog that says so")
        self._check_losses(record)

    def _check_losses(self, record: dict[str, Any]) -> None:
        """Each time that a job was begun again within an attempt is told."""
        if len(record["sessions"]) > self.attempt:
            # Who watches mpirun has started the session again.
            return
        told = Counter[str]()
        for stage in record["stages"]:
            for job in stage["jobs"]:
                told[job["name"]] += len(job["losses"])
        latest: dict[str, tuple[str, int]] = {}
        for path in sorted((self.folder / "begun").iterdir()):
            attempt, _, what = path.name.partition(" ")
            latest[what] = (attempt, len(path.read_text().splitlines()))
        again = Counter[str]()
        for what, (_, times) in latest.items():
            if what.startswith("data|") and "table" not in what:
                stage, _, _ = what.removeprefix("data|").partition("-")
                changed = what.replace("|", "/")
                again[f"change {changed}" if " " in what else f"write {stage}"] += times - 1
        silent = {name: number for name, number in again.items() if number > told[name]}
        assert not silent, self.told(f"jobs ran again, and run.json does not tell why: {silent}")

    def check_nothing_left(self) -> None:
        """See that no process, queue job or scratch file is left."""

        def is_clean() -> bool:
            return not self.processes() and not self.site.queue()

        try:
            wait_until(is_clean, CLEAN_SECONDS, "nothing is left")
        except AssertionError:
            left = [f"{process.pid} {' '.join(process.cmdline())[:150]}" for process in self.processes()]
            self.kill_all()
            raise AssertionError(self.told(f"left running {left}, in the queue {list(self.site.queue())}")) from None
        temporary = [name for name in _names_in(self.folder / "tmp") if not _OF_DASK.fullmatch(name)]
        scratch = [*temporary, *filter(_SCRATCH.search, _names_in(self.workdir))]
        assert not scratch, self.told(f"scratch files are left: {scratch}")

    def kill_all(self) -> None:
        """End whatever is left of it."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


def _facts(run: Run) -> dict[str, Any]:
    paths = SessionPaths(run.workdir)
    identifier = paths.identifier.read_text().strip() if run.site.database else None
    with closing(Context(run.site.database or paths.context, identifier, read_only=True)) as context:
        held = context.holding(context.version)
    return {f"fact {fact.kind} {fact.subject}": fact.body for fact in held}


def _files(workdir: Path, folder: str) -> dict[str, str]:
    return {
        f"{folder}/{path.relative_to(workdir / folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((workdir / folder).rglob("*"))
        if path.is_file()
    }


def _names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
