"""Standard output for machines: events of a session, one JSON object a line, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from surgeline.cli.sessioncommands import session_command
from surgeline.errors import SurgelineError

_events: TextIO | None = None


def is_asked(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a session's events."""
    return "--json" in arguments and bool(session_command(arguments))


def claim() -> None:
    """Keep standard output for events: whatever else this process prints goes to standard error from now on."""
    global _events
    sys.stdout.flush()
    _events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def events() -> TextIO:
    """Where events go."""
    return _events or sys.stdout


def tell_error(error: BaseException, exit_code: int) -> None:
    """Tell, as the last event, why the command ends otherwise than well; where events are told at all."""
    if _events is None:
        return
    from surgeline.workflow.events import ErrorEvent

    if isinstance(error, SurgelineError):
        message, way_out = error.message, error.way_out
    elif hasattr(error, "format_message"):
        message, way_out = error.format_message(), "see: surgeline run --help"
    else:
        message, way_out = f"{type(error).__name__}: {error}", "see where: --debug; please report it"
    event = ErrorEvent(kind=type(error).__name__, message=message, way_out=way_out, exit_code=exit_code)
    with suppress(OSError, ValueError):
        _events.write(event.model_dump_json() + "\n")
        _events.flush()
