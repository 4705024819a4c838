"""Makes a weblog in a process of its own, which takes all the memory that this needs with it when it ends.

Run as `python -m surgeline.report.apart`, told by a line of input which session's; it ends when its input does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from surgeline.context.store import Context
from surgeline.errors import WorkfolderError
from surgeline.parallel.environment import clean_environment
from surgeline.paths import SessionPaths

# Jobs and the session itself come first.
_NICENESS = 10


def write_apart(paths: SessionPaths, context: Context) -> float:
    """Write the pages of what is saved of a session, in another process.

    Args:
        paths: of the session.
        context: what its stages committed; the other process opens it for itself.

    Returns:
        the processor time that it took, in seconds.

    Raises:
        WorkfolderError: they could not be written.
    """
    # By its input, since the URL of a database may have a password in it.
    asked = {
        "workdir": str(paths.workdir),
        "context": str(context.where),
        "is_file": isinstance(context.where, Path),
        "identifier": context.identifier,
    }
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        # Ctrl-C is for the session.
        start_new_session=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        answer, complaint = process.stdout.read(), process.stderr.read()
    if process.returncode:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise WorkfolderError(
            f"the process that makes the weblog ended with {process.returncode}: {lines[-1] if lines else 'no word'}",
            f"make it when the session has ended: surgeline report --workdir {paths.workdir}",
        )
    return float(answer)


def _write() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_session, daemon=True).start()
    os.nice(_NICENESS)
    from surgeline.report.weblog import write_weblog

    paths = SessionPaths(Path(asked["workdir"]))
    where = Path(asked["context"]) if asked["is_file"] else asked["context"]
    with closing(Context(where, asked["identifier"], read_only=True)) as context:
        write_weblog(paths, json.loads(paths.record.read_text(encoding="utf-8")), context)
    print(time.process_time())


def _end_with_session() -> None:
    # Not by the buffered file, whose lock the end of Python would wait for.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    _write()
