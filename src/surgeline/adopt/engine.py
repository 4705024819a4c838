"""What the Pipeline's jobs go through in this process, as long as Surgeline is installed in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import cloudpickle

from surgeline.errors import BadInput
from surgeline.parallel.daskhelpers import DaskBackend
from surgeline.parallel.podworkers import PodWorkers
from surgeline.work.procedure import StageWorkers
from surgeline.work.taskqueue import Backend, TaskQueue

# What the Pipeline's package is called, and where in it the two modules are that Surgeline supplies.
PIPELINE = "pipeline"
INFRASTRUCTURE = f"{PIPELINE}.infrastructure"


@dataclass
class Engine:
    """The backend of a client process, and what the Pipeline is told of it.

    The Pipeline asks for Dask first, then for MPI, and runs jobs in its own process where it has neither.

    Attributes:
        backend: where jobs go; None in a worker, which gives none away.
        home: the folder that the Pipeline is imported from.
        started: whether the Pipeline has workers; false after it was told to stop them.
        everywhere: the calls that every worker has to have made before a job, each pickled, by their function.
        holds: the digest of the context that the Pipeline has in memory, where a stage of a session left it there.
    """

    backend: Backend | None
    home: str
    started: bool = True
    everywhere: dict[str, bytes] = field(default_factory=dict)
    holds: str = ""
    _client: Any = None
    _open_queue: Callable[[], TaskQueue] | None = None

    def queue(self) -> TaskQueue:
        """A queue for jobs of the Pipeline."""
        assert self.backend is not None
        return self._open_queue() if self._open_queue is not None else TaskQueue(self.backend)

    @contextmanager
    def on(self, workers: StageWorkers) -> Iterator[None]:
        """A block in which jobs go to the workers of a stage."""
        before = self.backend
        self.backend, self._open_queue = workers.backend, workers.open_queue
        try:
            yield
        finally:
            self.close_client()
            self.backend, self._open_queue = before, None

    @property
    def slot(self) -> str:
        """As what the Pipeline knows the workers: `dask`, `mpi`, or `serial` where there are none."""
        if self.backend is None or not self.started or self.backend.name == "serial":
            return "serial"
        return "mpi" if self.backend.name == "mpi" else "dask"

    @property
    def client(self) -> Any:
        """What stands for the workers as Dask's; None where they are not."""
        if self.slot != "dask" or self.backend is None:
            return None
        return self._client or Workers(self.backend)

    def open_client(self) -> None:
        """Let users submit to Dask what they like; its scheduler may be out of reach of this process, though."""
        self.started = True
        if self._client is None and self.slot == "dask":
            self._client = _client_of(self.backend)

    def close_client(self) -> None:
        """Let go of the client; the workers stay with whoever opened them."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def remember(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Have workers that come later make a call, too; of calls of one function, the latest."""
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
        self.everywhere.pop(name, None)
        # Two equal calls are two.
        self.everywhere[name] = cloudpickle.dumps((uuid.uuid4().hex, function, arguments, dict(keywords)))


@dataclass(frozen=True)
class Workers:
    """What stands for Dask's client as long as nobody needs one: jobs of the Pipeline go without."""

    backend: Backend
    dashboard_link: None = None

    def close(self) -> None:
        """Nothing was opened."""

    def __str__(self) -> str:
        return f"{self.backend.workers} workers of Surgeline's"


_engine: Engine | None = None


def current() -> Engine | None:
    """The engine of this process; None where Surgeline is not installed in it."""
    return _engine


def make_current(engine: Engine | None) -> None:
    """Have the Pipeline's jobs of this process go through an engine, or through none."""
    global _engine
    _engine = engine


def needed() -> Engine:
    """The engine of this process.

    Raises:
        BadInput: Surgeline is not installed in it.
    """
    if _engine is None:
        raise BadInput(
            "a job of the Pipeline was made after surgeline.adopt.uninstall()", "import the Pipeline anew, or install"
        )
    return _engine


def slot() -> str:
    """As what the Pipeline knows the workers of this process: `dask`, `mpi` or `serial`."""
    return _engine.slot if _engine is not None else "serial"


def pipeline_exception() -> type[Exception]:
    """The kind of error that the Pipeline's callers expect of a job."""
    found: type[Exception] = import_module(f"{INFRASTRUCTURE}.exceptions").PipelineException
    return found


def _client_of(backend: Backend | None) -> Any:
    assert backend is not None
    # The scheduler of pods is a pod itself.
    if not isinstance(backend, DaskBackend) or isinstance(backend, PodWorkers):
        return Workers(backend)
    from distributed import Client

    return Client(backend.admit_others())
