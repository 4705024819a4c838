"""The commands that look at a session, or end it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeline.cli.completion import complete_jobs, complete_stages
from surgeline.cli.options import WORKDIR, AsJson, Workdir
from surgeline.paths import SessionPaths

if TYPE_CHECKING:
    from surgeline.workflow.status import Status

# More failed jobs than these are told by their number.
_MOST_FAILED = 10


def status(workdir: Workdir = WORKDIR, as_json: AsJson = False) -> None:
    """Show whether a session runs, how its stages stand, what waits for what, and what failed."""
    from rich.console import Console

    from surgeline.workflow.liveview import View
    from surgeline.workflow.status import status_of

    found = status_of(SessionPaths(workdir.absolute()))
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    # What is not a terminal has lines as long as they have to be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for line in _headings(found, workdir):
        console.print(line, markup=False, soft_wrap=True)
    console.print()
    console.print(View(found.now, folds=False))
    for line in _failures(found, workdir):
        console.print(line, markup=False, soft_wrap=True)


def logs(
    stage: Annotated[str, typer.Argument(help="A stage of the session.", autocompletion=complete_stages)],
    job: Annotated[
        str | None, typer.Argument(help="One of its jobs; all of them unless given.", autocompletion=complete_jobs)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what comes, too, until the stage or the job has ended.")
    ] = False,
    workdir: Workdir = WORKDIR,
) -> None:
    """Print what CASA logged in a stage, or in one of its jobs."""
    from surgeline.workflow.joblogs import Asked, log_lines

    for line in log_lines(SessionPaths(workdir.absolute()), Asked(stage, job), follow):
        sys.stdout.write(line + "\n")
        if follow:
            sys.stdout.flush()


def cancel(workdir: Workdir = WORKDIR) -> None:
    """End the session that runs in a working folder, and take all that sessions have in queues out of them."""
    from surgeline.workflow.cancelling import cancel_session

    cancel_session(SessionPaths(workdir.absolute()), typer.echo)


def report(
    workdir: Workdir = WORKDIR,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    compare: Annotated[
        Path | None, typer.Option("--compare", help="Another session's working folder, to be shown side by side.")
    ] = None,
) -> None:
    """Make the weblog of a session anew, or a page that compares it with another session."""
    from surgeline.workflow.reporting import compare_sessions, make_report

    paths = SessionPaths(workdir.absolute())
    page = make_report(paths) if compare is None else compare_sessions(paths, SessionPaths(compare.absolute()))
    typer.echo(page)
    if show and not _open_in_browser(page):
        typer.echo("there is no browser here; copy its folder to where there is one, or: surgeline serve", err=True)


def _open_in_browser(page: Path) -> bool:
    """Open a page where the user has a screen; whether there was one."""
    import webbrowser

    # Without a display, a browser for terminals would be started, if any.
    if sys.platform == "linux" and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    ):
        return False
    return webbrowser.open(page.as_uri())


def _headings(found: Status, workdir: Path) -> list[str]:
    from surgeline.cli.showing import time_in_words
    from surgeline.workflow.timeleft import duration

    session = found.session
    lines = [f"{session.recipe or 'a session'} in {workdir}"]
    option = f" --workdir {shlex.quote(str(workdir))}"
    if session.state == "running":
        for_how_long = f", for {duration(found.now.time - found.now.began)}" if found.now.workers else ""
        lines.append(f"running as process {found.process} on {session.host}{for_how_long}")
    elif session.state in ("finished", "failed", "interrupted"):
        when = f", {time_in_words(session.ended)}" if session.ended else ""
        lines.append(f"{session.state}{when}{f': {session.error}' if session.error else ''}")
        if session.state != "finished":
            lines.append(f"  go on with: surgeline resume{option}")
    else:
        lines.append(f"it has not run yet; surgeline resume{option}")
    return lines


def _failures(found: Status, workdir: Path) -> list[str]:
    if not found.failed_jobs:
        return []
    lines = ["", "failed jobs"]
    for failed in found.failed_jobs[:_MOST_FAILED]:
        where = f" on {failed.worker} ({failed.host})" if failed.worker else ""
        lines += [f"  {failed.stage}: {failed.job}{where}", f"    {failed.message}"]
    more = len(found.failed_jobs) - _MOST_FAILED
    lines += [f"  and {more} more"] if more > 0 else []
    first = found.failed_jobs[0]
    words = shlex.join(["surgeline", "logs", first.stage, first.job, "--workdir", str(workdir)])
    return [*lines, f"  see the log of one: {words}"]
