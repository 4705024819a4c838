"""Run one job in this process and say what came of it. Every backend's workers end up here."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cloudpickle
import psutil

from surgeline.errors import DataError
from surgeline.work.allocator import give_memory_back
from surgeline.work.casaprocess import current_log_file, log_size, read_log
from surgeline.work.epochs import forget_epochs
from surgeline.work.fingerprint import Fingerprint, Fingerprints
from surgeline.work.jobs import Job, JobRequest
from surgeline.work.locks import wait_until_unlocked
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.surroundings import Surroundings, job_in

_LOCK_TIMEOUT = 10.0


def execute(job: Job, surroundings: Surroundings) -> Outcome:
    """Run a job in this process; whatever it raises becomes a Failure in its Outcome.

    A file that the job says it writes and does not is a failure. `sys.exit` in a job ends the job, not the worker,
    and another current directory is the job's own.
    """
    log_file = current_log_file()
    offset = log_size(log_file)
    folder = Path.cwd()
    started = time.time()
    cpu = _cpu_seconds()
    _reset_peak_memory()
    value = failure = None
    inputs: tuple[Fingerprint, ...] = ()
    outputs: tuple[Fingerprint, ...] = ()
    fingerprints = surroundings.fingerprints
    try:
        forget_epochs()
        _make_ready(job)
        inputs = _taken((*job.declared.reads, *job.declared.changes), fingerprints)
        try:
            with job_in(surroundings):
                value = job.run()
        finally:
            os.chdir(folder)
        failure = _reported_failure(job, value, offset)
        outputs = _taken((*job.declared.writes, *job.declared.changes), fingerprints)
    except SystemExit as stop:
        failure = Failure("exit", f"the job called sys.exit({stop.code!r})", traceback.format_exc())
    except BaseException as error:  # noqa: BLE001 - whatever a job raises is its outcome
        cause = str(error) if hasattr(error, "way_out") else f"{type(error).__name__}: {error}"
        failure = Failure("exception", cause, traceback.format_exc())
    lines, commands = read_log(current_log_file(), offset)
    peak_memory = _peak_memory()
    give_memory_back()
    return Outcome(
        job=job.declared.name,
        call=str(job),
        value=None if failure else value,
        failure=failure,
        started=started,
        ended=time.time(),
        host=socket.gethostname(),
        worker=surroundings.worker,
        process=os.getpid(),
        peak_memory=peak_memory,
        cpu_seconds=_cpu_seconds() - cpu,
        commands=tuple(commands),
        log=tuple(lines),
        environment=surroundings.environment_id,
        inputs=inputs,
        outputs=outputs,
    )


def execute_pickled(pickled_job: bytes, surroundings: Surroundings) -> bytes:
    """Run a pickled job and pickle its Outcome; a value that cannot be pickled is a failure of that job."""
    try:
        job = cloudpickle.loads(pickled_job)
    except Exception as error:  # noqa: BLE001 - unpickling runs code of the arguments' own
        message = f"it cannot be unpickled on its worker: {type(error).__name__}: {error}"
        failure = Failure("unpicklable", message, traceback.format_exc())
        return cloudpickle.dumps(never_run(failure, surroundings))  # type: ignore[no-any-return]
    outcome = execute(job, surroundings)
    try:
        pickled: bytes = cloudpickle.dumps(outcome)
    except Exception as error:  # noqa: BLE001 - pickling runs code of the value's own
        message = f"its value, a {type(outcome.value).__name__}, cannot be pickled: {error}"
        failure = Failure("unpicklable", message, traceback.format_exc())
        pickled = cloudpickle.dumps(replace(outcome, value=None, failure=failure))
    return pickled


def never_run(failure: Failure, surroundings: Surroundings) -> Outcome:
    """The outcome of a job that could not begin on this worker; whoever sent it knows its name."""
    now = time.time()
    host = socket.gethostname()
    return Outcome(
        "",
        "",
        None,
        failure,
        now,
        now,
        host=host,
        worker=surroundings.worker,
        process=os.getpid(),
        environment=surroundings.environment_id,
    )


def _taken(paths: Iterable[str], fingerprints: Fingerprints) -> tuple[Fingerprint, ...]:
    found = []
    for path in paths:
        try:
            found.append(fingerprints.of(path))
        except DataError:
            # What cannot be read is the job's own to complain of.
            continue
    return tuple(found)


def _make_ready(job: Job) -> None:
    for mend in job.declared.mends if job.declared.again else ():
        mend.run()
    for path in map(Path, (*job.declared.reads, *job.declared.changes)):
        if (path / "table.lock").exists():
            wait_until_unlocked(path, _LOCK_TIMEOUT)
    for path in map(Path, job.declared.writes if job.declared.overwrite else ()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _reported_failure(job: Job, value: object, offset: int) -> Failure | None:
    """A failure that was told otherwise than by raising: False from a task, or a file that was not written.

    Args:
        job: what was run.
        value: what it returned.
        offset: where in CASA's log the job began.
    """
    if isinstance(job, JobRequest) and value is False:
        return Failure("reported", f"{job.task} returned False{_last_severe_line(offset)}")
    missing = [path for path in job.declared.writes if not Path(path).exists()]
    if missing:
        return Failure("reported", f"it ended without writing {', '.join(missing)}{_last_severe_line(offset)}")
    return None


def _last_severe_line(offset: int) -> str:
    lines, _ = read_log(current_log_file(), offset)
    severe = [line for line in lines if "\tSEVERE\t" in line]
    return f"; CASA's log says: {severe[-1].split(chr(9))[-1].strip()}" if severe else ""


def _cpu_seconds() -> float:
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Not Linux, or not allowed: the peak is then that of the process since it began.
        return


def _peak_memory() -> int:
    """The largest resident size of this process since the last reset, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return int(psutil.Process().memory_info().rss)
    return 0
