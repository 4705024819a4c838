"""The commands that run sessions, or say what they would do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeline.cli import machine
from surgeline.cli.options import (
    WORKDIR,
    EventsAsJson,
    Force,
    Overrides,
    RecipeName,
    StartFrom,
    Vis,
    Workdir,
    absolute,
    configuration_of,
)
from surgeline.cli.sessioncommands import SESSION_COMMANDS, session_command
from surgeline.cli.signals import signals_interrupt
from surgeline.errors import BadInput
from surgeline.parallel.mpinotes import tell_begun

if TYPE_CHECKING:
    from surgeline.config import Configuration
    from surgeline.workflow.observer import Observer
    from surgeline.workflow.session import Session


def run(
    recipe: RecipeName,
    vis: Vis = None,
    workdir: Workdir = WORKDIR,
    overrides: Overrides = None,
    start_from: StartFrom = None,
    force: Force = None,
    as_json: EventsAsJson = False,
) -> None:
    """Run a recipe on one or more observations; of a session that there is, what a change of it concerns."""
    from surgeline.workflow import recipe as recipes
    from surgeline.workflow.session import Session

    loaded = recipes.load(recipe, tuple(absolute(name) for name in vis or ()))
    run_session(
        workdir,
        as_json,
        lambda observer: Session(
            loaded, workdir, configuration_of(workdir, overrides), observer, tuple(force or ()), start_from
        ),
    )


def resume(
    workdir: Workdir = WORKDIR,
    overrides: Overrides = None,
    start_from: StartFrom = None,
    force: Force = None,
    as_json: EventsAsJson = False,
) -> None:
    """Go on with a session after its last finished stage."""
    from surgeline.workflow.session import Session

    run_session(
        workdir,
        as_json,
        lambda observer: Session.resume(
            workdir, configuration_of(workdir, overrides), observer, tuple(force or ()), start_from
        ),
    )


def plan(
    recipe: RecipeName,
    vis: Vis = None,
    workdir: Workdir = WORKDIR,
    overrides: Overrides = None,
    start_from: StartFrom = None,
    force: Force = None,
    dag: Annotated[bool, typer.Option("--dag", help="Draw the graph of the stages instead.")] = False,
) -> None:
    """Show the stages of a recipe, their jobs where heuristics can tell, and where they would run; start nothing."""
    from surgeline.workflow import recipe as recipes
    from surgeline.workflow.drawing import draw
    from surgeline.workflow.planning import plan_session

    loaded = recipes.load(recipe, tuple(absolute(name) for name in vis or ()))
    planned = plan_session(loaded, workdir, configuration_of(workdir, overrides), tuple(force or ()), start_from)
    ascii_only = not sys.stdout.encoding.lower().startswith("utf")
    typer.echo(draw(planned, ascii_only) if dag else str(planned))


def mpirun(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="-- COMMAND", help="run, resume or casa-pipeline run, with what belongs to it, after --."
        ),
    ],
    ranks: Annotated[
        int | None, typer.Option("-n", help="Processes; unless given, a server for each core and the session.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the command line, and start nothing.")] = False,
) -> None:
    """Run a session as an MPI job, and start it again when mpirun took it down: surgeline mpirun -n 5 -- run ..."""
    import shlex
    from functools import partial

    from surgeline.clusters.local import workers_that_fit
    from surgeline.parallel.mpirun import command, find_launcher
    from surgeline.parallel.supervisor import supervise

    configuration = _configuration_of_session(arguments)
    settings = configuration.settings
    launcher = find_launcher(settings.mpi.mpirun)
    ranks = ranks if ranks is not None else workers_that_fit(configuration) + 1
    program = [sys.executable, "-m", "surgeline.cli"]
    if show:
        line = command(launcher, ranks, [*program, *arguments], os.environ, root=os.geteuid() == 0)
        typer.echo(shlex.join(line))
        return
    say = partial(typer.echo, err=True)
    raise typer.Exit(supervise(launcher, ranks, program, arguments, settings.mpi.restarts, say))


def _configuration_of_session(arguments: list[str]) -> Configuration:
    """The configuration of the session that a command line is for; what is wrong with the line is told at once."""
    # It runs sessions by what is here.
    from surgeline.cli import casapipeline

    functions: tuple[Callable[..., None], ...] = (run, resume, casapipeline.run)
    commands = dict(zip(SESSION_COMMANDS, functions, strict=True))
    said = [argument for argument in arguments if argument != "--debug"]
    name = session_command(said)
    if not name:
        raise BadInput(
            f"mpirun starts sessions, and {' '.join(said[:2])!r} starts none",
            f"surgeline mpirun -- {' …, or -- '.join(commands)} …",
        )
    session = typer.Typer(add_completion=False)
    session.command()(commands[name])
    parsed = typer.main.get_command(session).make_context(name, said[len(name.split()) :]).params
    return configuration_of(parsed["workdir"], parsed["overrides"])


def run_session(workdir: Path, as_json: bool, make: Callable[[Observer], Session]) -> None:
    """Run a session and show how it goes.

    Args:
        workdir: its working folder.
        as_json: show events for machines.
        make: makes the session, which tells an observer what happens.
    """
    from rich.console import Console

    from surgeline.cli.steadyoutput import SteadyOutput
    from surgeline.work.estimates import Estimates, default_file
    from surgeline.workflow.eventlines import EventLines
    from surgeline.workflow.graph import needs
    from surgeline.workflow.nowfile import NowFile
    from surgeline.workflow.progress import Progress

    console = Console(file=SteadyOutput.of(sys.stdout), highlight=False)
    # It has begun when the first job goes to its backend: what runs again has been withdrawn by then, and servers are
    # up.
    told: EventLines | Progress = (
        EventLines(machine.events(), workdir, tell_begun) if as_json else Progress(console, tell_begun)
    )
    with signals_interrupt(workdir, told.stop) as signals:
        with ExitStack() as at_last, told:
            session = make(told)
            told.know(session.recipe.name, needs(session.recipe), Estimates(default_file(os.environ)))
            if not as_json:
                at_last.callback(lambda: console.print(f"workers:  {session.accounts}", markup=False, soft_wrap=True))
            try:
                signals.stop_by(session.stop)
                with NowFile(session.paths, told):
                    session.run()
            finally:
                session.close()
        if not as_json:
            made = f"products: {session.paths.products}\nweblog:   {session.paths.weblog}"
            console.print(made, markup=False, emoji=False, soft_wrap=True)
