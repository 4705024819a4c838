"""Runs a command, and turns whatever goes wrong into one clear message and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import NoReturn

import typer

from surgeline.cli import machine
from surgeline.cli.commands import app
from surgeline.cli.sessioncommands import session_command
from surgeline.errors import BadInput, Interrupted, SurgelineError
from surgeline.parallel.mpinotes import find_supervisor, tell_ending

# As shells tell of a program that wrote to a reader who had gone.
_BROKEN_PIPE = 128 + signal.SIGPIPE


def run_command() -> NoReturn:
    """Run what the command line of this process asks for."""
    arguments = sys.argv[1:]
    if session_command(arguments):
        # Servers of an MPI session serve it.
        from surgeline.parallel.mpiserver import serve_if_server

        serve_if_server()
    find_supervisor()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Where a terminal has fewer letters than a name, it is shown without them.
            stream.reconfigure(errors="replace")
    debug = "--debug" in arguments
    if machine.is_asked(arguments):
        machine.claim()
    if not debug:
        threading.excepthook = _complain_of_thread
    try:
        # The exit code of a command that raises typer.Exit; commands return nothing.
        code = app(standalone_mode=False, prog_name="surgeline") or 0
        sys.stdout.flush()
    except BaseException as error:
        code = _code_of(error)
        if debug and not _is_quiet(error):
            tell_ending(code)
            raise
        _tell(error, code)
    _flush()
    tell_ending(code)
    # A CASA call that a signal left running in a thread cannot be stopped; it must not hold up the exit.
    os._exit(code)


def _code_of(error: BaseException) -> int:
    if isinstance(error, SurgelineError):
        return error.exit_code
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        return Interrupted.exit_code
    # Click and rich make an exit of it themselves.
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return _BROKEN_PIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    # A wrong command line, told by click.
    return BadInput.exit_code if hasattr(error, "format_message") else SurgelineError.exit_code


def _is_quiet(error: BaseException) -> bool:
    """Whether it is nothing that went wrong: the user, or whoever read the output, had enough."""
    return isinstance(error, (typer.Abort, KeyboardInterrupt, SystemExit, BrokenPipeError))


def _tell(error: BaseException, code: int) -> None:
    # Once more Ctrl-C would cut the message short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.tell_error(error, code)
    if isinstance(error, (SystemExit, BrokenPipeError)):
        return
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        _complain("interrupted")
    elif isinstance(error, SurgelineError):
        _complain(str(error))
    elif type(error).__name__ == "NoArgsIsHelpError":
        # No command was given: what is told is the help itself.
        typer.echo(str(error), err=True)
    elif isinstance(error, OSError) and error.filename is not None:
        way_out = "see to it, and try again; where it was wanted is told by --debug"
        _complain(f"{error.filename}: {error.strerror}\n  {way_out}")
    elif hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "surgeline"
        _complain(f"{error.format_message()}\n  see: {path} --help")
    else:
        _complain(f"Surgeline itself failed: {type(error).__name__}: {error}\n  see where: --debug; please report it")


def _complain_of_thread(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread.name if failure.thread else "a thread"
    cause = f"{failure.exc_type.__name__}: {failure.exc_value}"
    _complain(f"{name} of Surgeline itself failed: {cause}\n  see where: --debug; please report it")


def _complain(text: str) -> None:
    with suppress(OSError, ValueError):
        typer.echo(f"surgeline: {text}", err=True)


def _flush() -> None:
    """Write out what is left to be written; a reader who has gone is not missed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
