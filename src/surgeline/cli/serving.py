"""The commands that bring sessions to others: by HTTP, or to Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeline.cli.completion import complete_stages
from surgeline.cli.options import WORKDIR, Overrides, RecipeName, Vis, Workdir, absolute, configuration_of


def serve(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Working folders, and URLs of databases that hold contexts.")
    ] = None,
    host: Annotated[str, typer.Option(help="The name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0: any that is free.")] = 8765,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file that holds the token; else SURGELINE_SERVE_TOKEN counts, else one is made."),
    ] = None,
    without_token: Annotated[
        bool, typer.Option("--without-token", help="Let every user of this machine read, without a token.")
    ] = False,
) -> None:
    """Serve what sessions do, know and made over HTTP, to be read only."""
    from surgeline.serve.start import find_token
    from surgeline.serve.start import serve as serve_sources

    serve_sources(sources or ["surgeline-session"], host, port, find_token(token_file), typer.echo, without_token)


def deploy(
    recipe: RecipeName,
    vis: Vis = None,
    workdir: Workdir = WORKDIR,
    overrides: Overrides = None,
    cluster: Annotated[str, typer.Option(help="A cluster of type kubernetes: its image, its folders.")] = "pods",
    worker_class: Annotated[
        str | None, typer.Option("--class", help="Its worker class, for the size; the first unless given.")
    ] = None,
    pool: Annotated[str, typer.Option(help="The work pool of Prefect's, made if there is none.")] = "surgeline",
    stage: Annotated[
        str | None,
        typer.Option(help="Only this stage, by its name; all unless given.", autocompletion=complete_stages),
    ] = None,
) -> None:
    """Register a session, or a stage, with Prefect, to be run as a Job of a work pool on Kubernetes; start nothing.

    Observations and the working folder are named as the Job sees them, in folders that it shares with others.
    """
    from surgeline.workflow import recipe as recipes
    from surgeline.workflow.prefect_deploy import deploy as register
    from surgeline.workflow.prefect_deploy import place_of

    loaded = recipes.load(recipe, tuple(absolute(name) for name in vis or ()))
    found, namespace = place_of(configuration_of(workdir, overrides), cluster, worker_class)
    name = register(loaded, workdir.absolute(), overrides or [], found, namespace, pool, stage)
    typer.echo(f"deployed; to have somebody start its Jobs: prefect worker start --pool {pool} --type kubernetes")
    typer.echo(f"to run it: prefect deployment run '{name}'")
