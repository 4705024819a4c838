"""The commands that prepare a session: this machine, a recipe, a configuration, simulated data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from surgeline.cli.files import write_new
from surgeline.cli.options import WORKDIR, AsJson, Overrides, Workdir, absolute, configuration_of

config_app = typer.Typer(help="Show or begin a configuration.", no_args_is_help=True, rich_markup_mode=None)


def doctor(workdir: Workdir = WORKDIR, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check what sessions need on this machine; ends with 1 when something needs to be mended."""
    from surgeline.workflow.doctor import examine

    findings = []
    for finding in examine(workdir, configuration_of(workdir, overrides)):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{finding.state:8} {finding.what}: {finding.found}")
            if finding.way_out:
                typer.echo(f"{'':8} {finding.way_out}")
    well = all(finding.well for finding in findings)
    if as_json:
        told = [{**asdict(finding), "state": finding.state} for finding in findings]
        typer.echo(json.dumps({"well": well, "findings": told}, indent=1))
    if not well:
        raise typer.Exit(1)


def init(
    vis: Annotated[
        str | None, typer.Argument(help="The observation that the recipe is for, or an example that is to be copied.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe to write.")] = Path("recipe.yaml"),
    listed: Annotated[bool, typer.Option("--list", help="List the examples.")] = False,
) -> None:
    """Write a commented recipe for an observation, to edit and run; or copy one of the examples."""
    from surgeline.workflow.examples import copy_example, examples
    from surgeline.workflow.template import recipe_for

    known = examples()
    if listed or vis is None:
        width = max(map(len, known), default=0)
        for name, told in known.items():
            typer.echo(f"{name:{width}}  {told}")
    elif not Path(vis).exists() and {vis, f"{vis}.yaml"} & known.keys():
        typer.echo(f"wrote {copy_example(vis, Path())}")
    else:
        write_new(output, [recipe_for(absolute(vis))])
        typer.echo(f"wrote {output}; edit it, then: surgeline run {output}")


def simulate(
    path: Annotated[Path, typer.Argument(help="The MeasurementSet to make; its truth goes beside it as JSON.")],
    antennas: Annotated[int, typer.Option(help="4 to 27 antennas.")] = 15,
    configuration: Annotated[str, typer.Option(help="The VLA's configuration: A, B, C or D.")] = "D",
    spectral_windows: Annotated[int, typer.Option(help="Spectral windows.")] = 1,
    channels: Annotated[int, typer.Option(help="Channels in each spectral window.")] = 16,
    integration_seconds: Annotated[float, typer.Option(help="Seconds of one integration.")] = 10.0,
    target_scans: Annotated[int, typer.Option(help="Scans of the target, between those of its calibrator.")] = 2,
    noise_jy: Annotated[float, typer.Option(help="Noise of one visibility, in Jy.")] = 0.1,
    line: Annotated[bool, typer.Option(help="Give the target a spectral line.")] = True,
    intents: Annotated[bool, typer.Option(help="Write scan intents.")] = True,
    seed: Annotated[int, typer.Option(help="The same seed makes the same data.")] = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace an MS of the same name.")] = False,
) -> None:
    """Make an MS with calibrators and a target of known fluxes, with gains and noise."""
    import tempfile

    from surgeline.simulate import Simulation
    from surgeline.simulate import simulate as make
    from surgeline.work.casaprocess import CasaProcess, errors_to

    chosen = Simulation(
        antennas=antennas,
        configuration=configuration,
        spectral_windows=spectral_windows,
        channels=channels,
        integration_seconds=integration_seconds,
        target_scans=target_scans,
        noise_jy=noise_jy,
        line=line,
        intents=intents,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as scratch:
        CasaProcess(Path.cwd(), Path(scratch) / "casa.log").prepare()
        with errors_to(Path(scratch) / "casa.out"):
            make(path.absolute(), chosen, overwrite=overwrite)
    typer.echo(f"made {path} ({chosen.data_bytes / 1e6:.0f} MB of data) and {path}.truth.json")


@config_app.command("show")
def config_show(workdir: Workdir = WORKDIR, overrides: Overrides = None) -> None:
    """Print every value of the configuration with its origin; secrets are not shown."""
    from surgeline.masking import masked

    configuration = configuration_of(workdir, overrides)
    for value in configuration.values:
        typer.echo(f"{'.'.join(value.key)} = {masked(value.value, *value.key)!r}    # {value.origin}")
    for value in configuration.ignored:
        shown = masked(value.value, *value.key)
        typer.echo(f"# {'.'.join(value.key)} = {shown!r} is not used here    # {value.origin}")


@config_app.command("init")
def config_init(
    output: Annotated[Path, typer.Argument(help="The file to write.")] = Path("config.yaml"),
) -> None:
    """Write a configuration with every key and its explanation, all commented out."""
    from surgeline.config import commented_template

    write_new(output, [commented_template()])
    typer.echo(f"wrote {output}; it counts in a working folder, or as ~/.casa/config.yaml")
