"""The Dask backend: start, use and stop a cluster, wherever its workers are."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from surgeline.config import Configuration
from surgeline.errors import ClusterError
from surgeline.parallel.casampi_session import NestedSettings, nested_settings
from surgeline.parallel.crew import Crew, Worker
from surgeline.parallel.dispatch import LOOK, OUT_OF_MEMORY, WORKER_DIED, Bundle, Dispatcher, described_exit
from surgeline.parallel.environment import without_mpi
from surgeline.parallel.standstill import STOPPED_SECONDS, Standstills
from surgeline.parallel.waiting import Pending
from surgeline.work.outcome import Failure, Loss, Outcome
from surgeline.work.surroundings import Ask

if TYPE_CHECKING:
    from surgeline.parallel.othertasks import Attempt, OtherTasks

# How long the news of how a worker died may take to follow the news that it did.
_DEATH_NEWS_SECONDS = 3.0
# How long Dask may take to tell of the job of a worker that it has told to be gone.
_LOST_JOB_SECONDS = 1.0
_LOOK_SECONDS = 0.02


class DaskBackend(Dispatcher):
    """Runs jobs on the workers of a Dask cluster.

    Each job goes to the worker that is best for it, which this backend chooses itself. A result leaves its worker as
    soon as it is there, and nothing of it is held on the cluster.
    """

    name = "dask"
    # Whether there is none yet when the backend is opened.
    workers_come_later = False
    # Where results of others' tasks are kept for other workers; 0: at any port.
    results_port = 0

    def __init__(
        self,
        configuration: Configuration,
        cluster_name: str,
        folder: Path,
        logs: Path,
        lost: Callable[[str, Loss], None] | None = None,
        ask: Ask | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Start a cluster and connect to it.

        Args:
            configuration: the whole configuration.
            cluster_name: which of its named clusters.
            folder: the current directory of jobs.
            logs: where workers write their logs.
            lost: called with a job's name and its Loss when a worker dies running it.
            ask: answers jobs that ask for facts of the session's context.
            tell: called with what a user wants to know.

        Raises:
            ClusterError: the workers cannot be started, or CASA does not start there.
        """
        from surgeline.parallel.workerprocess import CasaWorker

        settings = configuration.settings
        super().__init__(settings.dask.retries, lost)
        self._ask = ask
        self._tell = tell or (lambda _: None)
        self._stopped = Standstills(
            "stopped by a signal", STOPPED_SECONDS, settings.worker.standstill_limit, self._tell
        )
        self._start_timeout = settings.dask.start_timeout
        self._crew = Crew()
        self._others: OtherTasks | None = None
        self._nested = self._nested_settings(configuration)
        self._latest_nested = ""
        self._deaths: dict[str, str] = {}
        self._departed: set[str] = set()
        self._latest_address: dict[Any, str] = {}
        self._names: dict[str, str] = {}
        self._death_news = threading.Condition()
        logs.mkdir(parents=True, exist_ok=True)
        # Dask's own log is for those who debug Dask; what matters of it is told in outcomes.
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            with without_mpi():
                self._cluster = self._start_cluster()
        except ClusterError:
            self._clean_up()
            raise
        except Exception as error:
            self._clean_up()
            raise ClusterError(
                f"cluster {cluster_name!r} could not be started: {error}", "see dask.host and dask.dashboard_address"
            ) from error
        self._plugin = CasaWorker(
            self._folder_of_workers(folder),
            logs,
            dict(settings.casaconfig),
            settings.worker.threads,
            self._memory_of_each(),
            self._nested,
            ends_unfit=self.workers_come_later,
        )
        import dask

        from surgeline.clusters.daskoptions import dask_options

        try:
            with dask.config.set(dask_options(settings.worker.threads)):
                self._client = self._connect()
            self._await_workers(configuration, cluster_name, logs)
        except BaseException as error:
            self._cluster.close()
            self._clean_up()
            if isinstance(error, ClusterError) or not isinstance(error, Exception):
                raise
            raise ClusterError(
                f"the workers of cluster {cluster_name!r} could not be set up for CASA: {error}",
                f"see {logs}, and `casaconfig:` in the configuration",
            ) from error
        self._collector.start()

    def _connect(self) -> Any:
        """A client of the scheduler, who hears what workers do; each of these is set up for CASA."""
        from surgeline.parallel.workerprocess import EXIT_TOPIC, PULSE_TOPIC, READY_TOPIC

        client = self._new_client(self._ask)
        client.loop.asyncio_loop.set_exception_handler(_log_for_dask)
        client.subscribe_topic(EXIT_TOPIC, self._hear_of_exit)
        client.subscribe_topic("worker-restart-memory", self._hear_of_memory)
        client.subscribe_topic(READY_TOPIC, self._hear_of_worker)
        client.subscribe_topic("all", self._hear_of_departure)
        client.subscribe_topic(PULSE_TOPIC, self._hear_of_pulse)
        # Dask itself would wait for ever for a worker that was stopped in the midst of it.
        within(self._start_timeout, lambda: client.register_plugin(self._plugin))
        return client

    def _new_client(self, ask: Ask | None) -> Any:
        """A client, and answers to workers' questions for facts."""
        from distributed import Client

        from surgeline.parallel.workerprocess import answer_on_scheduler

        if ask is not None:
            answer_on_scheduler(self._cluster.scheduler, ask)
        return Client(self._cluster, set_as_default=False)

    def admit_others(self) -> Any:
        """Take what others submit to Dask's scheduler for jobs; without this, Dask itself would give it to workers.

        Their tasks wait in the same queue as jobs, and ask for workers by `dask.annotate(resources=…)`. Their results
        are kept in this process.

        Returns:
            the cluster, for Dask's clients, of a scheduler that is in this process.

        Raises:
            ClusterError: results cannot be kept here.
        """
        from surgeline.parallel.othertasks import OtherTasks

        if self._others is not None:
            return self._cluster
        others = OtherTasks(self._cluster, self._client.id, self.submit, self._withdraw, self._news.put)
        try:
            self._cluster.sync(others.open, self.results_port)
        except OSError as error:
            raise ClusterError(
                f"results of tasks cannot be kept at {self._cluster.scheduler_address}, port {self.results_port}: "
                f"{error}",
                "give the cluster another port, of which the next one is free, too",
            ) from error
        self._others = others
        return self._cluster

    @abstractmethod
    def _start_cluster(self) -> Any:
        """Start Dask's scheduler, and what workers are to be there from the first."""

    @abstractmethod
    def _await_workers(self, configuration: Configuration, cluster_name: str, logs: Path) -> None:
        """Wait for those workers that are to be there from the first.

        Raises:
            ClusterError: they did not come.
        """

    @abstractmethod
    def _clean_up(self) -> None:
        """Remove what was made for workers, after the last has ended or when none was started."""

    @abstractmethod
    def _recruit(self, message: Mapping[str, Any]) -> Worker:
        """What is known of a worker that says that it is ready."""

    @abstractmethod
    def _memory_of_each(self) -> int | None:
        """The bytes that each worker may use, where that is the same for all; None for no limit."""

    def _nested_settings(self, configuration: Configuration) -> NestedSettings:
        """What MPI sessions that workers start are started with."""
        return nested_settings(configuration, None)

    def _folder_of_workers(self, folder: Path) -> Path | None:
        """The current directory of jobs; None: each worker's own."""
        return folder

    def _places(self, pending: Pending) -> int:
        """How many workers' places a job takes."""
        return 1

    def _asked(self, pending: Pending) -> Any:
        """What a worker has to offer for a job."""
        return pending.resources

    def _seconds_of(self, pending: Pending) -> float | None:
        """How long a job is expected to run, where that is known."""
        return pending.seconds

    def cancel(self, tickets: Iterable[str]) -> None:
        """Stop jobs; a worker that runs one of them is replaced, since CASA cannot be interrupted."""
        stopped = self._withdraw(set(tickets))
        # They are gone from here on: no other job is to share their fate.
        with self._lock:
            given = [bundle.place[0] for bundle in stopped.values() if not bundle.ended]
            busy = [address for address in given if self._crew.leave(address)]
        self._client.cancel([bundle.handle for bundle in stopped.values()], force=True)
        if busy:
            with suppress(TimeoutError, KeyError):
                self._client.restart_workers(busy, timeout=30, raise_for_error=False)

    def close(self) -> None:
        """Stop the cluster. No process is left behind."""
        self._stop_collecting()
        if self._others is not None:
            self._cluster.sync(self._others.end)
        with suppress(TimeoutError, OSError):
            self._client.close(timeout=5)
        with suppress(TimeoutError, OSError):
            self._cluster.close(timeout=20)
        self._clean_up()

    def _at_hand(self) -> int:
        return len(self._crew)

    def _take(self, key: str, pending: Pending) -> list[str] | None:
        asked = self._asked(pending)
        near = pending.job.declared.near
        if self._about_to_be_idle(near):
            return None
        seconds = self._seconds_of(pending)
        return self._crew.take(key, asked, seconds, pending.avoid, self._places(pending), near) or None

    def _about_to_be_idle(self, near: str) -> bool:
        """Whether the worker that had the last job of this name has ended what it has now, and is given back next."""
        last = self._crew.last(near)
        bundle = self._sent.get(last.busy) if last is not None and last.busy is not None else None
        return bundle is not None and bundle.ended

    def _give_back(self, bundle: Bundle) -> None:
        self._crew.give_back(bundle.place)

    def _next_bundle(self, head: Pending) -> list[Pending]:
        if self._others is not None and self._others.stands_for(head.job):
            return self._waiting.pop(head)
        return super()._next_bundle(head)

    def _start(self, bundle: Bundle) -> None:
        if self._others is not None and self._others.stands_for(bundle.jobs[0].job):
            self._others.send(bundle)
            return
        pickled = [pending.pickled for pending in bundle.jobs]
        mpi = bundle.jobs[0].job.declared.mpi
        # An MPI session that is idle there saves the next one's start.
        if mpi and self._latest_nested in bundle.place:
            bundle.place.sort(key=lambda address: address != self._latest_nested)
        # pure=False: jobs have side effects, so equal ones are not the same one.
        bundle.handle = self._client.submit(
            _run_on_worker,
            pickled,
            mpi,
            key=bundle.key,
            pure=False,
            workers=bundle.place[:1],
        )
        bundle.handle.add_done_callback(lambda done: self._news.put(done.key))

    def _run_everywhere(self, pickled: bytes) -> Sequence[bytes]:
        with self._lock:
            addresses = sorted(worker.address for worker in self._crew)
        found = self._client.run(_run_directly, pickled, workers=addresses, on_error="return")
        return [self._found_everywhere(address, found[address]) for address in addresses]

    def _found_everywhere(self, address: str, found: bytes | Exception) -> bytes:
        """What came of a job for all workers at one of them; that it died is an outcome, too."""
        if isinstance(found, bytes):
            return found
        if isinstance(found, OSError):
            how = self._told_death(address, _DEATH_NEWS_SECONDS) or "its connection broke"
            failure = Failure(WORKER_DIED, f"its worker died: {how}")
        else:
            failure = Failure("exception", f"it could not be run: {found!r}")
        now = time.time()
        pickled: bytes = cloudpickle.dumps(Outcome("", "", failure=failure, started=now, ended=now, worker=address))
        return pickled

    # The next five are called from Dask's event loop: they must not wait for Dask.

    def _hear_of_exit(self, event: tuple[float, Any]) -> None:
        message = event[1]
        with self._death_news:
            # One that dies as soon as it has an address dies before its nanny knows that; which then tells none, or
            # that of the one before.
            worker = self._latest_address.get(message["name"]) or message["worker"] or ""
            how = described_exit(message["exitcode"])
            if message["out_of_memory"]:
                how = f"{OUT_OF_MEMORY}: the kernel killed it, since its control group had no more"
            self._deaths.setdefault(worker, how)
            self._death_news.notify_all()

    def _hear_of_memory(self, event: tuple[float, Any]) -> None:
        message = event[1]
        with self._lock:
            worker = self._crew.find(message["worker"])
        memory = worker.offers.memory if worker else self._memory_of_each()
        limit = f" of the {memory / 1e9:.2f} GB that it may use" if memory else ""
        with self._death_news:
            self._deaths[message["worker"]] = f"{OUT_OF_MEMORY}: it used {message['rss'] / 1e9:.2f} GB{limit}"
            self._death_news.notify_all()

    def _hear_of_worker(self, event: tuple[float, Any]) -> None:
        message = event[1]
        self.environments[message["environment_id"]] = message["environment"]
        self._latest_address[message["name"]] = message["worker"]
        self._names[message["worker"]] = str(message["name"])
        # One that had its address before is another one.
        with self._death_news:
            self._deaths.pop(message["worker"], None)
        with self._lock:
            self._departed.discard(message["worker"])
            self._crew.join(self._recruit(message))
        self._news.put(LOOK)

    def _hear_of_departure(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict) and event[1].get("action") == "remove-worker":
            self._discharge(event[1]["worker"])

    def _hear_of_pulse(self, event: tuple[float, Any]) -> None:
        """A nanny says that it is there, and for how long its worker's process has been stopped."""
        address, seconds = event[1]["worker"], event[1]["stopped"]
        with self._lock:
            worker = self._crew.find(address)
            if worker is None:
                return
            went_on = worker.stopped and not seconds
            worker.stopped = bool(seconds)
            called = self._called(worker)
        if went_on:
            self._news.put(LOOK)
        how = self._stopped.hear(address, called, seconds)
        with self._death_news:
            end = bool(how) and address not in self._deaths
            if end:
                self._deaths[address] = how
        if end:
            self._restart([address])

    def _called(self, worker: Worker) -> str:
        """What a worker is called, and what it has to do; the lock is held."""
        bundle = self._sent.get(worker.busy or "")
        return f"worker-{worker.name}" + (f", which has {bundle.names}" if bundle else "")

    def _discharge(self, address: str) -> None:
        """A worker is gone: what it was given has ended, too, whatever Dask still expects of it."""
        with self._lock:
            worker = self._crew.leave(address)
            self._departed.add(address)
        if worker is not None and worker.busy is not None:
            self._news.put(worker.busy)

    # What follows runs in the collector's thread.

    def _receive(self, bundle: Bundle) -> None:
        from distributed import KilledWorker
        from distributed.comm import CommClosedError

        if self._others is not None and self._others.stands_for(bundle.jobs[0].job):
            self._receive_from_others(bundle, self._others)
            return
        try:
            worker, results = self._gather(bundle)
        except KilledWorker:
            self._bury(bundle)
        except _WorkerGone:
            self._client.cancel([bundle.handle], force=True)
            self._bury(bundle)
        except CancelledError:
            for pending in bundle.jobs:
                if pending.cancelled:
                    self._deliver_failure(pending, Failure("cancelled", "it was cancelled"))
            left = [pending for pending in bundle.jobs if not pending.cancelled]
            if len(left) < len(bundle.jobs):
                self._put_first(left)
            else:
                # The client was closed that waited for it.
                self._lose_scheduler(bundle.handle.client)
                self._after_death(left, bundle.place[0], "the scheduler of its cluster was lost", blamed=False)
        except CommClosedError:
            # What is between this and the scheduler, as a forwarded port: nothing that a job could be blamed for.
            self._lose_scheduler(bundle.handle.client)
            how = "the connection to the scheduler of its cluster broke"
            self._after_death(bundle.jobs, bundle.place[0], how, blamed=False)
        # Whatever else it is, it is these jobs' outcome.
        except Exception as error:  # noqa: BLE001
            for pending in bundle.jobs:
                self._deliver_failure(pending, Failure("exception", f"it could not be run: {error!r}"))
        else:
            if bundle.jobs[0].job.declared.mpi:
                self._latest_nested = worker
            self._deliver_results(bundle, results)
        bundle.handle.release()

    def _lose_scheduler(self, client: Any) -> None:
        """What a client waits for is lost with its scheduler, which, where that is in this process, never is."""

    def _receive_from_others(self, bundle: Bundle, others: OtherTasks) -> None:
        """A task of others has ended; its result, or its exception, is theirs to fetch."""
        attempt: Attempt = bundle.handle
        # Where its worker's end was told first, its own is about to be.
        attempt.over.wait()
        (pending,) = bundle.jobs
        if attempt.end == "lost":
            self._bury(bundle)
        elif attempt.end == "finished":
            name, call = pending.job.declared.name, str(pending.job)
            outcome = Outcome(name, call, started=attempt.started, ended=time.time())
            self._deliver_result(pending, cloudpickle.dumps(outcome))
        else:
            self._deliver_failure(pending, Failure("cancelled", "it was cancelled"))
            if attempt.end == "stopped" and not others.knows(attempt.key):
                self._replace(bundle.place)

    def _replace(self, addresses: Sequence[str]) -> None:
        """Have workers replaced that run what nobody waits for any more, since CASA cannot be interrupted."""
        with self._lock:
            busy = [address for address in addresses if self._crew.leave(address)]
        if busy:
            self._restart(busy)

    def _restart(self, addresses: Sequence[str]) -> None:
        """Have workers' nannies kill and replace them; does not wait for it."""

        def restart() -> None:
            # As the cluster closes, too.
            with suppress(TimeoutError, KeyError, OSError, RuntimeError):
                self._client.restart_workers(list(addresses), timeout=30, raise_for_error=False)

        threading.Thread(target=restart, name="replace-workers", daemon=True).start()

    def _gather(self, bundle: Bundle) -> tuple[str, list[bytes]]:
        """Fetch what came of a bundle from its worker: its address, and the outcomes.

        Raises:
            _WorkerGone: Dask would wait for a worker that will not come again.
        """
        handle, until = bundle.handle, time.monotonic() + _LOST_JOB_SECONDS
        # What was finished may be lost with its worker at any moment until it is fetched.
        while (status := handle.status) != "finished":
            if status in ("error", "cancelled"):
                # It raises, at once.
                handle.result()
            if time.monotonic() > until and self._departed.intersection(bundle.place):
                raise _WorkerGone
            time.sleep(_LOOK_SECONDS)
        gathering = asyncio.run_coroutine_threadsafe(
            self._client.gather(handle, asynchronous=True), self._client.loop.asyncio_loop
        )
        while True:
            try:
                found: tuple[str, list[bytes]] = gathering.result(timeout=_LOST_JOB_SECONDS)
                return found
            except TimeoutError:
                if self._departed.intersection(bundle.place):
                    gathering.cancel()
                    raise _WorkerGone from None

    def _bury(self, bundle: Bundle) -> None:
        """A bundle's worker died: find out how, and have its jobs run again."""
        worker = bundle.place[0]
        self._discharge(worker)
        self._after_death(
            bundle.jobs, worker, self._told_death(worker, _DEATH_NEWS_SECONDS) or "its connection broke"
        )

    def _told_death(self, worker: str, seconds: float) -> str | None:
        """How a worker died as its nanny tells it, waiting so long for that."""
        with self._death_news:
            self._death_news.wait_for(lambda: worker in self._deaths, timeout=seconds)
            return self._deaths.get(worker)


def within(seconds: float, call: Callable[[], Any]) -> None:
    """Wait so long for a call, which goes on when time is over.

    Raises:
        TimeoutError: time is over.
    """
    ended: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            ended.set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run, name="bounded-wait", daemon=True).start()
    try:
        ended.result(timeout=seconds)
    except TimeoutError as error:
        raise TimeoutError(f"they did not answer within {seconds:g} s") from error


def _log_for_dask(_: Any, context: Mapping[str, Any]) -> None:
    """What nobody waited for in Dask's own event loop, such as results that were lost with their worker."""
    logging.getLogger("distributed").error(context["message"], exc_info=context.get("exception"))


class _WorkerGone(Exception):
    """The worker that a bundle was given to is not there any more."""


def _run_on_worker(pickled_jobs: list[bytes], mpi: bool) -> tuple[str, list[bytes]]:
    """Run jobs on the Dask worker that this is; its address, and their outcomes."""
    from distributed import get_worker

    from surgeline.parallel.workerprocess import CasaWorker

    worker = get_worker()
    return worker.address, worker.plugins[CasaWorker.name].run(pickled_jobs, mpi)


def _run_directly(pickled: bytes, dask_worker: Any) -> bytes:
    from surgeline.parallel.workerprocess import CasaWorker

    results: list[bytes] = dask_worker.plugins[CasaWorker.name].run([pickled], mpi=False)
    return results[0]
