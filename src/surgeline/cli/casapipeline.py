"""The commands `surgeline casa-pipeline …`: procedures of an existing CASA Pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeline.cli.options import (
    WORKDIR,
    EventsAsJson,
    Force,
    Overrides,
    StartFrom,
    Vis,
    Workdir,
    absolute,
    configuration_of,
)
from surgeline.cli.running import run_session

if TYPE_CHECKING:
    from surgeline.config import Configuration
    from surgeline.workflow.recipe import Recipe

app = typer.Typer(help="Run procedures of an existing CASA Pipeline.", no_args_is_help=True, rich_markup_mode=None)

ProcedureFile = Annotated[
    Path,
    typer.Argument(metavar="PROCEDURE.xml", help="A procedure of the Pipeline's, or a processing request (PPR)."),
]


@app.command()
def run(
    procedure: ProcedureFile,
    vis: Vis = None,
    workdir: Workdir = WORKDIR,
    overrides: Overrides = None,
    start_from: StartFrom = None,
    force: Force = None,
    as_json: EventsAsJson = False,
) -> None:
    """Run a procedure on one or more observations, each of its tasks a stage; resume goes on with it."""
    from surgeline.workflow.session import Session

    configuration = configuration_of(workdir, overrides)
    recipe = _recipe(procedure, vis, configuration)
    run_session(
        workdir,
        as_json,
        lambda observer: Session(recipe, workdir, configuration, observer, tuple(force or ()), start_from),
    )


@app.command()
def plan(
    procedure: ProcedureFile,
    vis: Vis = None,
    workdir: Workdir = WORKDIR,
    overrides: Overrides = None,
    start_from: StartFrom = None,
    force: Force = None,
) -> None:
    """Show the stages of a procedure and where their jobs would run; start nothing."""
    from surgeline.workflow.planning import plan_session

    configuration = configuration_of(workdir, overrides)
    recipe = _recipe(procedure, vis, configuration)
    typer.echo(str(plan_session(recipe, workdir, configuration, tuple(force or ()), start_from)))


def _recipe(procedure: Path, vis: list[str] | None, configuration: Configuration) -> Recipe:
    """The recipe of a procedure.

    Raises:
        SurgelineError: see `recipe_of`, or an observation is not there.
    """
    from surgeline.errors import BadInput
    from surgeline.workflow.casapipeline import recipe_of

    observations = [absolute(name) for name in vis or ()]
    for path in observations:
        if not Path(path).exists():
            raise BadInput(f"there is no observation {path}", "give the path of an MS or ASDM with --vis")
    return recipe_of(procedure, observations, configuration)
