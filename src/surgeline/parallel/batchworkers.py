"""Dask workers that are jobs in a workload manager's queue: as many as the jobs at hand need, and no more."""

from __future__ import annotations

import re
import shutil
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from surgeline.clusters import cancelnote, certificates
from surgeline.clusters.batch import Contact, made_to_measure, most_workers, worker_classes, workload_manager
from surgeline.clusters.cancelnote import CancelNote
from surgeline.clusters.fleet import Berth, Fleet, Wish
from surgeline.clusters.scheduler import start_scheduler
from surgeline.clusters.settings import BatchSettings
from surgeline.clusters.surge import (
    STARTUP_SECONDS,
    Ahead,
    Decision,
    Demand,
    Headcount,
    class_asked_for,
    decide,
)
from surgeline.config import Configuration
from surgeline.parallel.crew import Worker
from surgeline.parallel.daskhelpers import DaskBackend
from surgeline.parallel.dispatch import LOOK, NOT_STARTED, OUT_OF_MEMORY, Bundle
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.foresight import Foreseen
from surgeline.parallel.standstill import SILENT_SECONDS, Silence, Standstills
from surgeline.parallel.waiting import Pending
from surgeline.paths import queue_folder
from surgeline.work.jobs import FunctionCall, Job
from surgeline.work.outcome import Failure, Loss, Outcome
from surgeline.work.resources import Resources
from surgeline.work.surroundings import Ask

# What a queue job runs, as `python -m`.
WORKER_MODULE = "surgeline.parallel.batchworker"
# How long the scheduler may take to say what became of a queue job whose worker is gone, and of one whose nanny has
# told how its worker ended.
_FATE_SECONDS = 8.0
_FATE_SECONDS_AFTER_NEWS = 1.0
# How long a nanny may take to replace a worker; after that its machine is taken to be gone, whatever the queue says.
_REPLACEMENT_SECONDS = 60.0
# What ends queue jobs without their jobs being the cause.
_BLAMELESS = frozenset({"", "cancelled", "preempted", "node failure", "requeued"})
# Investigations of deaths at the same time: they wait for the scheduler's tools.
_INVESTIGATIONS = 4
# A job with so little memory left over would only run out of it again.
_MORE_MEMORY = 2


class BatchWorkers(DaskBackend):
    """Workers of several classes, asked for when jobs need them and given back when none does.

    A worker that is lost is replaced as long as there is something for it to do. What killed it is found out from its
    nanny and from the workload manager.
    """

    # What a worker is in, in words.
    place = "queue job"
    workers_come_later = True

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
        """Start the scheduler, and ask the workload manager whether it would take workers; none is started yet.

        Args:
            configuration: the whole configuration.
            cluster_name: which of its named clusters.
            folder: the current directory of jobs.
            logs: where workers write their logs.
            lost: called with a job's name and its Loss when a worker is lost running it.
            ask: answers jobs that ask for facts of the session's context.
            tell: called with what a user wants to know.

        Raises:
            ClusterError: the workload manager refuses, in its own words, or is not there.
            ConfigError: the cluster's settings are wrong.
        """
        self.cluster = cluster_name
        environment = clean_environment()
        self._manager = workload_manager(configuration, cluster_name, environment)
        self._settings = self._manager.settings
        classes = worker_classes(configuration, cluster_name, environment)
        self.workers = most_workers(self._settings, classes)
        self.otherwise = self._settings.otherwise
        self._own_name = f"{self._settings.name}-{uuid.uuid4().hex[:8]}"
        self._own_folder = queue_folder(logs, self._own_name)
        self._dashboard = configuration.settings.dask.dashboard_address
        self._threads = configuration.settings.worker.threads
        self._silences = Standstills(
            "nothing is heard of it, nor of what watches it there,",
            SILENT_SECONDS,
            max(configuration.settings.worker.standstill_limit, SILENT_SECONDS),
            tell or (lambda _: None),
        )
        self._foreseen: Foreseen | None = None
        # Whether the core-hours of the configuration are used up.
        self._spent = False
        self._hungry: dict[Resources, float] = {}
        self._absent: dict[str, float] = {}
        self._silence = Silence()
        # By their addresses, why workers were taken out of the queue of which nothing was heard.
        self._given_up: dict[str, str] = {}
        # Whose workers died, and it is not known yet how.
        self._investigated: list[Bundle] = []
        self._investigations = ThreadPoolExecutor(_INVESTIGATIONS, thread_name_prefix="investigation")
        self._fleet: Fleet | None = None
        self._note: CancelNote | None = None
        self._classes = classes
        try:
            super().__init__(configuration, cluster_name, folder, logs, lost, ask, tell)
        except BaseException:
            self._close_fleet()
            raise

    @property
    def fleet(self) -> Fleet:
        """The queue jobs."""
        assert self._fleet is not None
        return self._fleet

    def foresee(self, foreseen: Foreseen) -> None:
        """Take what comes next into account: workers that it will use are kept, and asked for in time."""
        with self._lock:
            self._foreseen = foreseen
        self.fleet.consider()

    def waits(self) -> list[str]:
        """Why jobs wait for workers, in words: one line for each class of which workers are in the queue."""
        found = []
        now = time.time()
        counted = Counter(berth.kind for berth in self.fleet.berths() if berth.alive and berth.state == "waiting")
        for kind, number in counted.items():
            since = min(b.submitted for b in self.fleet.berths() if b.kind == kind and b.state == "waiting")
            reason = self.fleet.reason(kind)
            workers = f"{number} worker{'s' if number > 1 else ''} of class {kind!r}"
            found.append(f"{workers} in the queue for {now - since:.0f} s" + (f": {reason}" if reason else ""))
        return found

    def exec_everywhere(self, job: Job) -> list[Outcome]:
        """Run a job once on every worker that there is; where there is none yet, on the first that comes.

        Raises:
            ClusterError: the job cannot be pickled, or the workers were stopped.
        """
        if not len(self._crew):
            came = threading.Event()
            self.submit(FunctionCall(_nothing), lambda _: came.set())
            came.wait()
        return super().exec_everywhere(job)

    def close(self) -> None:
        """Take all workers out of the queue. No process is left behind."""
        try:
            self._close_fleet()
        finally:
            super().close()
            self._investigations.shutdown(cancel_futures=True)

    def _close_fleet(self) -> None:
        # Those that could not be taken out now are left to the undertaker, and to `surgeline cancel`.
        if self._fleet is not None and self._fleet.close() and self._note is not None:
            self._note.clear()

    def _start_cluster(self) -> Any:
        self._own_folder.mkdir(mode=0o700)
        contact = self._announce()
        try:
            for worker_class in self._classes:
                self._manager.check(worker_class, contact)
            self._note = cancelnote.leave(
                self._own_folder,
                self._own_name,
                self.cluster,
                self._manager.cancel_all(contact),
                anywhere=self._settings.of_any_machine,
            )
            self._fleet = Fleet(self._manager, contact, self._classes, self._decide, self._berth_lost, self._tell)
            cluster = self._open_scheduler()
            self._fleet.start()
        except BaseException:
            self._close_scheduler()
            if self._note is not None:
                self._note.clear()
            raise
        return cluster

    def _announce(self) -> Contact:
        """Say how workers will find their session."""
        settings = self._settings
        assert isinstance(settings, BatchSettings)
        self.results_port = settings.port + 1 if settings.port else 0
        security = files = None
        if settings.tls:
            security = certificates.make()
            files = certificates.write(certificates.contents(security), self._own_folder)
        self._scheduler = start_scheduler(
            settings.host, settings.interface, settings.port, security, self._dashboard, self._threads
        )
        return Contact(self._scheduler.scheduler_address, WORKER_MODULE, self._own_name, self._own_folder, files)

    def _open_scheduler(self) -> Any:
        """Dask's scheduler, to which workers can come."""
        return self._scheduler

    def _close_scheduler(self) -> None:
        """End it, when it is of no use."""
        self._scheduler.close()

    def _await_workers(self, configuration: Configuration, cluster_name: str, logs: Path) -> None:
        """None is there before it is needed."""

    def _clean_up(self) -> None:
        for name in certificates.NAMES:
            (self._own_folder / name).unlink(missing_ok=True)
        if self._own_folder.is_dir() and not any(self._own_folder.iterdir()):
            shutil.rmtree(self._own_folder)

    def _memory_of_each(self) -> int | None:
        return None

    def _folder_of_workers(self, folder: Path) -> Path | None:
        return folder if self._settings.shared_filesystem else None

    def _recruit(self, message: Mapping[str, Any]) -> Worker:
        identifier = _identifier(message["name"])
        self.fleet.arrived(identifier)
        berth = self.fleet.find(identifier)
        # One that nobody has asked for, or that was told to go in the meantime.
        if berth is None or not berth.alive:
            return Worker(message["worker"], message["name"], "", Resources(), leaving=True)
        offers = self.fleet.classes[berth.kind].offers
        ends = None if offers.walltime is None else time.monotonic() + offers.walltime - message["age"]
        return Worker(message["worker"], message["name"], berth.kind, offers, ends)

    def _expect(self, pending: Pending) -> None:
        super()._expect(pending)
        self._provide_class(pending.resources)

    def _provide_class(self, asked: Resources) -> None:
        """See to it that there is a class of workers that a job fits."""
        with self._lock:
            classes = list(self.fleet.classes.values())
            if not any(asked.fits(worker_class.offers) for worker_class in classes):
                self.fleet.add(made_to_measure(self._classes, asked, f"measured-{len(classes)}"))

    def submit(self, job: Job, deliver: Callable[[Outcome], None], urgent: bool = True) -> str:
        """Queue a job, and see to it that there will be a worker for it."""
        ticket = super().submit(job, deliver, urgent)
        self.fleet.consider()
        return ticket

    def _take(self, key: str, pending: Pending) -> list[str] | None:
        return None if self._spent else super()._take(key, pending)

    def _seconds_of(self, pending: Pending) -> float | None:
        """How long a job is expected to run: as others of its name did, as learnt before, or as it says itself."""
        of_name = self._mean_seconds.get(pending.job.declared.name, pending.seconds)
        return of_name if of_name is not None else pending.resources.walltime

    def _give_back(self, bundle: Bundle) -> None:
        super()._give_back(bundle)
        self.fleet.consider()

    def _more_memory(self, pending: Pending, worker: str) -> bool:
        berth = self.fleet.find(_identifier(next(iter(pending.avoid), "")))
        had = self.fleet.classes[berth.kind].offers.memory if berth is not None else pending.resources.memory
        if had is not None:
            more = _MORE_MEMORY * max(had, pending.resources.memory or 0)
            pending.resources = pending.resources.model_copy(update={"memory": more})
            self._provide_class(pending.resources)
        return True

    def _withdraw(self, named: set[str]) -> dict[str, Bundle]:
        with self._lock:
            for pending in (pending for bundle in self._investigated for pending in bundle.jobs):
                pending.cancelled |= pending.ticket in named
        return super()._withdraw(named)

    def _hear_of_pulse(self, event: tuple[float, Any]) -> None:
        with self._lock:
            self._silence.heard(event[1]["worker"])
        super()._hear_of_pulse(event)

    # The next three are called in the fleet's thread.

    def _decide(self, berths: Sequence[Berth]) -> Wish:
        alive = [berth for berth in berths if berth.alive]
        now = time.monotonic()
        with self._lock:
            demands, shortest = self._demands()
            present, idle, spent = self._present(alive, shortest)
            foreseen = self._foreseen
            left = self._core_seconds_left(berths)
            decision = decide(
                self.fleet.classes.values(),
                demands,
                present,
                self._ahead(),
                self._settings.maximum,
                left,
                _startup_seconds(berths),
                _queue_seconds(berths),
            )
            self._spent = left is not None and left <= 0
            # Nobody knows whether a user's own script comes with more.
            something_may_come = foreseen is None or foreseen.at_work or bool(foreseen.ahead)
            keep_for = self._settings.idle_seconds if something_may_come and not decision.crowded else 0.0
            going = list(spent)
            numbers = {}
            for kind, wanted in decision.wanted.items():
                count = present[kind]
                unneeded = count.busy + count.idle - wanted.workers
                # Those whose walltime ends first.
                candidates = sorted(idle[kind], key=lambda worker: worker.ends or float("inf"))
                candidates = [worker for worker in candidates if now - worker.idle_since >= keep_for]
                surplus = candidates[: max(0, unneeded)]
                going += surplus
                numbers[kind] = max(wanted.workers, count.busy + count.idle - len(surplus))
            for worker in going:
                worker.leaving = True
            abandoned = self._abandoned(alive, now)
        abandoned += self._silent()
        self._fail_hopeless(decision)
        return Wish(numbers, [*abandoned, *(_identifier(worker.name) for worker in going)])

    def _ahead(self) -> list[Ahead]:
        """What comes next, and when: as soon as the longest of the jobs that run has ended, where that is known."""
        now = time.monotonic()
        left = []
        for bundle in self._sent.values():
            expected = self._seconds_of(bundle.jobs[0])
            left.append(None if expected is None else max(0.0, expected - (now - bundle.sent)))
        known = [seconds for seconds in left if seconds is not None]
        begins_in = max(known) if known and len(known) == len(left) and not self._waiting else None
        return [replace(ahead, begins_in=begins_in) for ahead in (self._foreseen.ahead if self._foreseen else ())]

    def _abandoned(self, alive: Sequence[Berth], now: float) -> list[str]:
        """The queue jobs that are said to run, and of whose workers nothing is heard any more."""
        there = {_identifier(worker.name) for worker in self._crew}
        empty = {berth.identifier for berth in alive if berth.state == "running" and berth.came} - there
        self._absent = {name: self._absent.get(name, now) for name in empty}
        return [name for name, since in self._absent.items() if now - since > _REPLACEMENT_SECONDS]

    def _silent(self) -> list[str]:
        """The queue jobs of whose workers, and their nannies, nothing has been heard for too long."""
        with self._lock:
            workers = [(worker, self._called(worker)) for worker in self._crew if not worker.leaving]
            silent = self._silence.look([worker.address for worker, _ in workers])
        found = []
        for worker, called in workers:
            berth = self.fleet.find(_identifier(worker.name))
            why = berth.words if berth is not None else ""
            if how := self._silences.hear(worker.address, called, silent[worker.address], why):
                self._given_up[worker.address] = how
                found.append(_identifier(worker.name))
        return found

    def _demands(self) -> tuple[list[Demand], dict[Resources, float]]:
        """What jobs ask for, and the shortest that each kind of job that waits is expected to be."""
        waiting: Counter[Resources] = Counter()
        running: Counter[Resources] = Counter()
        seconds: dict[Resources, list[float]] = defaultdict(list)
        shortest: dict[Resources, float] = {}
        # Those whose workers died will want one again: none is given up meanwhile that they could have.
        lost = [pending for bundle in self._investigated for pending in bundle.jobs]
        jobs = {pending.ticket: pending for pending in (*self._waiting, *self._leisure, *lost)}
        for pending in jobs.values():
            waiting[pending.resources] += 1
            expected = self._seconds_of(pending)
            if expected is not None:
                seconds[pending.resources].append(expected)
            shortest[pending.resources] = min(shortest.get(pending.resources, float("inf")), expected or 0.0)
        for bundle in self._sent.values():
            if bundle.jobs[0].ticket not in jobs:
                running[bundle.jobs[0].resources] += 1
        demands = [
            Demand(asked, waiting[asked], running[asked], _mean_of_all(seconds[asked], waiting[asked]))
            for asked in waiting.keys() | running.keys()
        ]
        return demands, shortest

    def _present(
        self, alive: Sequence[Berth], shortest: Mapping[Resources, float]
    ) -> tuple[dict[str, Headcount], dict[str, list[Worker]], list[Worker]]:
        """The workers that there are, those of them that have nothing to do, and those that will not have again."""
        idle: dict[str, list[Worker]] = defaultdict(list)
        spent = []
        busy: Counter[str] = Counter()
        identifiers = {berth.identifier for berth in alive}
        for worker in self._crew:
            if worker.leaving:
                # The scheduler did not answer when it was to be told to go.
                if _identifier(worker.name) in identifiers:
                    spent.append(worker)
                continue
            if worker.busy is not None or worker.stopped:
                busy[worker.kind] += 1
                continue
            fitting = [seconds for asked, seconds in shortest.items() if asked.fits(worker.offers)]
            if worker.lasts(min(fitting, default=0.0)):
                idle[worker.kind].append(worker)
            else:
                spent.append(worker)
        berths = Counter(berth.kind for berth in alive)
        for worker in spent:
            berths[worker.kind] -= 1
        present = {
            kind: Headcount(len(idle[kind]), busy[kind], max(0, berths[kind] - len(idle[kind]) - busy[kind]))
            for kind in self.fleet.classes
        }
        return present, idle, spent

    def _core_seconds_left(self, berths: Sequence[Berth]) -> float | None:
        if self._settings.core_hours is None:
            return None
        now = time.time()
        spent = sum(
            ((berth.ended or now) - berth.started) * self.fleet.classes[berth.kind].offers.cores
            for berth in berths
            if berth.started is not None
        )
        return max(0.0, self._settings.core_hours * 3600 - spent)

    def _fail_hopeless(self, decision: Decision) -> None:
        """Fail the jobs for which no worker will come, or for which none came in time."""
        with self._lock:
            lines = {pending.resources for jobs in (self._waiting, self._leisure) for pending in jobs}
            served = {asked for asked in lines if any(asked.fits(w.offers) for w in self._crew if not w.leaving)}
        now = time.monotonic()
        reasons = {unserved.asked: unserved.reason for unserved in decision.unserved if unserved.for_ever}
        for asked in lines - served:
            since = self._hungry.setdefault(asked, now)
            home = class_asked_for(self.fleet.classes.values(), asked)
            kind = home.name if home else None
            reason = reasons.get(asked) or (self.fleet.trouble(kind) if kind else None)
            deadline = self._settings.queue_deadline
            if reason is None and deadline is not None and now - since > deadline:
                why = self.fleet.reason(kind) if kind else ""
                reason = f"no worker came within {deadline:g} s" + (f": {why}" if why else "")
            if reason is not None:
                self._fail_waiting(asked, reason)
        for asked in self._hungry.keys() - (lines - served):
            del self._hungry[asked]

    def _fail_waiting(self, asked: Resources, reason: str) -> None:
        with self._lock:
            failed = [
                pending
                for jobs in (self._waiting, self._leisure)
                for pending in jobs.drop(lambda pending: pending.resources == asked)
            ]
        self._hungry.pop(asked, None)
        for pending in failed:
            self._deliver_failure(pending, Failure(NOT_STARTED, f"no worker of cluster {self.cluster!r}: {reason}"))

    def _berth_lost(self, berth: Berth) -> None:
        """A queue job has ended: what Dask still takes for its worker is gone, too."""
        with self._lock:
            gone = [worker.address for worker in self._crew if _identifier(worker.name) == berth.identifier]
        for address in gone:
            self._forget_worker(address)

    def _forget_worker(self, address: str) -> None:
        """Have the scheduler know that a worker is gone; does not wait for it."""
        self._cluster.loop.add_callback(self._remove_from_scheduler, address)

    async def _remove_from_scheduler(self, address: str) -> None:
        await self._cluster.scheduler.remove_worker(address, stimulus_id="queue-job-ended", close=False)

    # What follows runs in the collector's thread, or in that of an investigation.

    def _bury(self, bundle: Bundle) -> None:
        self._discharge(bundle.place[0])
        with self._lock:
            self._investigated.append(bundle)
        self._investigations.submit(self._investigate, bundle)

    def _investigate(self, bundle: Bundle) -> None:
        try:
            self._find_out(bundle)
        finally:
            with self._lock:
                self._investigated.remove(bundle)
            self.fleet.consider()

    def _find_out(self, bundle: Bundle) -> None:
        """Find out how a bundle's worker died, and have its jobs run again."""
        address = bundle.place[0]
        name = self._names.get(address, "")
        identifier = _identifier(name)
        told = self._told_death(address, 0.5)
        berth = self.fleet.fate(identifier, _FATE_SECONDS_AFTER_NEWS if told else _FATE_SECONDS)
        told = told or self._told_death(address, 0.0)
        how, blamed = told or "its connection broke", True
        if berth is not None and berth.state != "running":
            cause, words = berth.lost
            how = f"its {self.place} {identifier}: {words}"
            if cause == "out of memory":
                how = f"{OUT_OF_MEMORY}: {how}"
            elif told is not None and cause in ("completed", "failed"):
                how = told
            blamed = cause not in _BLAMELESS
        elif berth is not None and told is None:
            # A job that ends its worker, or its nanny, is told of: this is its machine, or the network.
            how, blamed = f"its connection broke, and nothing is heard of {berth.host or 'its machine'}", False
            with self._lock:
                self._absent[identifier] = 0.0
            self.fleet.consider()
        if given_up := self._given_up.pop(address, ""):
            how, blamed = given_up, False
        self._after_death(bundle.jobs, address, how, name, blamed)
        self._news.put(LOOK)


def _nothing() -> None:
    """What is run to have a worker come."""


def _identifier(worker: str) -> str:
    """What the scheduler knows the queue job of a worker by: slurm-12_3-r1 is the second start of 12_3.

    A pod's name stands behind an @.
    """
    return re.sub(r"^[a-z]+-|-r\d+$|@.*$", "", str(worker))


def _mean_of_all(seconds: Sequence[float], number: int) -> float | None:
    """The mean, where all are known."""
    return sum(seconds) / number if number and len(seconds) == number else None


def _startup_seconds(berths: Sequence[Berth]) -> float:
    """How long workers took to come since their queue jobs began."""
    took = [berth.came - berth.started for berth in berths if berth.came is not None and berth.started is not None]
    return median(took) if took else STARTUP_SECONDS


def _queue_seconds(berths: Sequence[Berth]) -> float:
    """How long queue jobs waited before they began."""
    took = [berth.started - berth.submitted for berth in berths if berth.started is not None]
    return median(took) if took else 0.0
