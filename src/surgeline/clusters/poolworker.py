"""The flow that a flow run of a work pool runs: one worker of a session, until that ends it.

Imported only where Prefect is: by what a work pool starts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, states
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from surgeline.clusters import certificates, tied
from surgeline.clusters.commands import how_it_ended
from surgeline.clusters.poolruns import FLOW, SECRET

# How often Prefect is asked whether the worker is to end; where it started this process, it tells it at once.
_LOOK_SECONDS = 2.0
# A worker in the midst of a CASA call does not end by itself, however long it is given.
_GRACE_SECONDS = 5.0
_TAIL_LINES = 5
# What Dask's lines have that tell of nothing amiss.
_CHATTER = " - INFO - "
# Prefect's own, such as which flow run this is: what the worker's jobs do is no part of that.
_OF_THIS_RUN = "PREFECT__"


@flow(name=FLOW, persist_result=False)
def worker(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    secret: str | None = None,
    python: str | None = None,
) -> Any:
    """Run a worker in a process of its own, and end as it ends.

    Args:
        module: what it is, as `python -m`.
        arguments: of its command line, besides its name and folder.
        environment: its variables, besides those of this process.
        secret: the block of Prefect's that has what is in the files that let it in, see `Contact`; None without TLS.
        python: its interpreter; None: that of this process.
    """
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    flow_run = context.flow_run.id
    with tempfile.TemporaryDirectory(prefix="surgeline-worker-", ignore_cleanup_errors=True) as folder:
        files = _revealed(secret, Path(folder)) if secret else ()
        flags = ("--tls-ca-file", "--tls-cert", "--tls-key")
        process = subprocess.Popen(
            [
                *(python or sys.executable, "-m", tied.__name__, str(os.getpid()), module, *arguments),
                *("--name", f"prefect-{flow_run}", "--local-directory", folder),
                *(word for pair in zip(flags, files, strict=False) for word in pair),
            ],
            cwd=folder,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(_OF_THIS_RUN)},
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # To be ended with all that it started.
            start_new_session=True,
        )
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        reading = threading.Thread(target=_pass_on, args=(process, tail), daemon=True)
        reading.start()
        over, cancelled = threading.Event(), threading.Event()
        watch = threading.Thread(target=_watch, args=(flow_run, process, over, cancelled), daemon=True)
        watch.start()
        try:
            code = process.wait()
        finally:
            # By a signal, too, which Prefect makes an exception of.
            over.set()
            _end(process)
            reading.join(1)
    if cancelled.is_set():
        return states.Cancelled(message="its session did not need it any more, or somebody cancelled it")
    if code == 0:
        return states.Completed(message="ended by itself")
    told = how_it_ended(max(0, code), max(0, -code))
    return states.Failed(message=f"{told}; the end of its output: {' | '.join(tail)}" if tail else told)


def _revealed(secret: str, folder: Path) -> Sequence[str]:
    """Write the certificates that a block has to a folder that is nobody else's; their paths."""
    with get_client(sync_client=True) as client:
        content = json.loads(client.read_block_document_by_name(secret, SECRET).data["value"])
    written = certificates.write(dict(zip(certificates.NAMES, content, strict=True)), folder)
    return list(map(str, written))


def _pass_on(process: subprocess.Popen[str], tail: deque[str]) -> None:
    """What the worker writes goes where this process writes, and its last lines are kept."""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        if line.strip() and _CHATTER not in line:
            tail.append(line.strip())


def _watch(flow_run: UUID, process: subprocess.Popen[str], over: threading.Event, cancelled: threading.Event) -> None:
    """End the worker when its flow run is cancelled, or is there no more."""
    with get_client(sync_client=True) as client:
        while not over.wait(_LOOK_SECONDS):
            try:
                state = client.read_flow_run(flow_run).state
            except ObjectNotFound:
                state = None
            except httpx.HTTPError:
                # It may be starting again.
                continue
            if state is None or not state.is_running():
                cancelled.set()
                _end(process)
                return


def _end(process: subprocess.Popen[str]) -> None:
    """End the worker, and whatever it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
