"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeline.cli.completion import complete_recipes, complete_settings, complete_stages

if TYPE_CHECKING:
    from surgeline.config import Configuration

# Where a session is unless somebody says otherwise.
WORKDIR = Path("surgeline-session")

Workdir = Annotated[Path, typer.Option("--workdir", "-w", help="The session's working folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a configuration key: --set dask.n_workers=4; repeatable.",
        autocompletion=complete_settings,
    ),
]
Vis = Annotated[
    list[str] | None,
    typer.Option("--vis", help="An observation: MS, ASDM, UVFITS or casadata:demo/…; repeatable."),
]
StartFrom = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Run this stage and all after it again, on the data as it found them.",
        autocompletion=complete_stages,
    ),
]
Force = Annotated[
    list[str] | None,
    typer.Option(
        "--force", help="Run this stage again, and what depends on it; repeatable.", autocompletion=complete_stages
    ),
]
RecipeName = Annotated[
    str,
    typer.Argument(help="A recipe's YAML file, or a packaged one such as calimage.", autocompletion=complete_recipes),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EventsAsJson = Annotated[
    bool, typer.Option("--json", help="Print events for machines, one JSON object a line, and nothing else.")
]


def configuration_of(workdir: Path, overrides: list[str] | None) -> Configuration:
    """The configuration that counts in a working folder.

    Raises:
        ConfigError: it is wrong.
    """
    from surgeline.config import load

    return load(workdir, overrides or ())


def absolute(reference: str) -> str:
    """An observation's name as it can be used from another current directory."""
    return reference if ":" in reference.split("/")[0] else str(Path(reference).expanduser().absolute())
