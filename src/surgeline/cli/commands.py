"""All commands, in the order in which `--help` lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

import surgeline
from surgeline.cli import casapipeline, context, making, running, serving, sessions
from surgeline.errors import EXIT_CODES

# The mark has click keep the lines as they are.
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="surgeline",
    help="Runs CASA data-reduction pipelines in parallel, each stage on the resources that it needs.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    *(running.run, running.resume, running.plan),
    *(sessions.status, sessions.logs, sessions.cancel, sessions.report),
    *(making.doctor, making.init, making.simulate),
    *(running.mpirun, serving.serve, serving.deploy),
)
for command in _COMMANDS:
    app.command()(command)
app.add_typer(context.app, name="context")
app.add_typer(making.config_app, name="config")
app.add_typer(casapipeline.app, name="casa-pipeline")


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"surgeline {surgeline.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""
    context.obj = debug
