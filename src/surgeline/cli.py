"""The command line. Every command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from surgeline.context_commands import app as context_app
from surgeline.errors import BadInput, Interrupted, SurgelineError
from surgeline.parallel.mpinotes import find_supervisor, tell_begun, tell_ending

if TYPE_CHECKING:
    from surgeline.config import Configuration
    from surgeline.work.jobs import Job
    from surgeline.work.taskqueue import Backend
    from surgeline.workflow.observer import Observer
    from surgeline.workflow.session import Session

EXIT_CODES = """Exit codes: 0 done; 1 an error of Surgeline itself; 2 wrong command line or argument;
3 configuration; 4 recipe; 5 observation; 6 working folder (not writable, in use, disk full);
7 a job failed; 8 workers; 9 the context's database; 130 interrupted; 143 terminated."""

app = typer.Typer(
    name="surgeline",
    help="Runs CASA data-reduction pipelines in parallel, each stage on the resources that it needs.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Show or begin a configuration.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")
app.add_typer(context_app, name="context")

Workdir = Annotated[Path, typer.Option("--workdir", "-w", help="The session's working folder.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a configuration key: --set dask.n_workers=4.")
]
Vis = Annotated[
    list[str] | None,
    typer.Option("--vis", help="An observation: MS, ASDM, UVFITS or casadata:demo/…; repeatable."),
]
StartFrom = Annotated[
    str | None, typer.Option("--from", help="Run this stage and all after it again, on the data as it found them.")
]
Force = Annotated[
    list[str] | None, typer.Option("--force", help="Run this stage again, and what depends on it; repeatable.")
]
RecipeName = Annotated[str, typer.Argument(help="A recipe's YAML file, or a packaged one such as calimage.")]


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    context.obj = debug


@app.command()
def run(
    recipe: RecipeName,
    vis: Vis = None,
    workdir: Workdir = Path("surgeline-session"),
    overrides: Overrides = None,
    start_from: StartFrom = None,
    force: Force = None,
) -> None:
    """Run a recipe on one or more observations; of a session that there is, what a change of it concerns."""
    from surgeline.workflow import recipe as recipes
    from surgeline.workflow.session import Session

    loaded = recipes.load(recipe, tuple(_absolute(name) for name in vis or ()))
    _run(
        lambda observer: Session(
            loaded, workdir, _configuration(workdir, overrides), observer, tuple(force or ()), start_from
        )
    )


@app.command()
def resume(
    workdir: Workdir = Path("surgeline-session"),
    overrides: Overrides = None,
    start_from: StartFrom = None,
    force: Force = None,
) -> None:
    """Go on with a session after its last finished stage."""
    from surgeline.workflow.session import Session

    _run(
        lambda observer: Session.resume(
            workdir, _configuration(workdir, overrides), observer, tuple(force or ()), start_from
        )
    )


@app.command()
def plan(
    recipe: RecipeName,
    vis: Vis = None,
    workdir: Workdir = Path("surgeline-session"),
    overrides: Overrides = None,
    start_from: StartFrom = None,
    force: Force = None,
) -> None:
    """Show the stages of a recipe, their jobs where heuristics can tell, and where they would run; start nothing."""
    from rich.console import Console

    from surgeline.workflow import recipe as recipes
    from surgeline.workflow.planning import plan_session

    loaded = recipes.load(recipe, tuple(_absolute(name) for name in vis or ()))
    planned = plan_session(loaded, workdir, _configuration(workdir, overrides), tuple(force or ()), start_from)
    Console(soft_wrap=True).print(planned, markup=False)


@app.command()
def deploy(
    recipe: RecipeName,
    vis: Vis = None,
    workdir: Workdir = Path("surgeline-session"),
    overrides: Overrides = None,
    cluster: Annotated[str, typer.Option(help="A cluster of type kubernetes: its image, its folders.")] = "pods",
    worker_class: Annotated[
        str | None, typer.Option("--class", help="Its worker class, for the size; the first unless given.")
    ] = None,
    pool: Annotated[str, typer.Option(help="The work pool of Prefect's, made if there is none.")] = "surgeline",
    stage: Annotated[str | None, typer.Option(help="Only this stage, by its name; all unless given.")] = None,
) -> None:
    """Register a session, or a stage, with Prefect, to be run as a Job of a work pool on Kubernetes; start nothing.

    Observations and the working folder are named as the Job sees them, in folders that it shares with others.
    """
    from surgeline.workflow import recipe as recipes
    from surgeline.workflow.prefect_deploy import deploy as register
    from surgeline.workflow.prefect_deploy import place_of

    loaded = recipes.load(recipe, tuple(_absolute(name) for name in vis or ()))
    found, namespace = place_of(_configuration(workdir, overrides), cluster, worker_class)
    name = register(loaded, workdir.absolute(), overrides or [], found, namespace, pool, stage)
    typer.echo(f"deployed; to have somebody start its Jobs: prefect worker start --pool {pool} --type kubernetes")
    typer.echo(f"to run it: prefect deployment run '{name}'")


@app.command()
def cancel(workdir: Workdir = Path("surgeline-session")) -> None:
    """End the session that runs in a working folder, and take all that sessions have in queues out of them."""
    from surgeline.paths import SessionPaths
    from surgeline.workflow.cancelling import cancel_session

    cancel_session(SessionPaths(workdir.absolute()), typer.echo)


@app.command()
def mpirun(
    arguments: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND", help="run or resume, with what belongs to it, after --.")
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


@app.command()
def doctor(workdir: Workdir = Path("surgeline-session"), overrides: Overrides = None) -> None:
    """Check what sessions need on this machine."""
    from surgeline.workflow.doctor import examine

    healthy = True
    for finding in examine(workdir, _configuration(workdir, overrides)):
        mark = "ok  " if finding.well else "BAD "
        typer.echo(
            f"{mark} {finding.what}: {finding.found}" + ("" if finding.well else f"\n       {finding.way_out}")
        )
        healthy = healthy and finding.well
    if not healthy:
        raise typer.Exit(1)


@app.command()
def serve(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Working folders, and URLs of databases that hold contexts.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The name or address to listen on; elsewhere a token is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0: any that is free.")] = 8765,
    token_file: Annotated[
        Path | None, typer.Option(help="A file that holds the token; else SURGELINE_SERVE_TOKEN counts.")
    ] = None,
) -> None:
    """Serve what sessions do, know and made over HTTP, to be read only."""
    from surgeline.serve.start import find_token
    from surgeline.serve.start import serve as serve_sources

    serve_sources(sources or ["surgeline-session"], host, port, find_token(token_file), typer.echo)


@app.command()
def init(
    vis: Annotated[str, typer.Argument(help="The observation that the recipe is for.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe to write.")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe for an observation, to edit and run."""
    from surgeline.workflow.template import recipe_for

    _write_new(output, recipe_for(_absolute(vis)))
    typer.echo(f"wrote {output}; edit it, then: surgeline run {output}")


@app.command()
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
def config_show(workdir: Workdir = Path("surgeline-session"), overrides: Overrides = None) -> None:
    """Print every value of the configuration with its origin."""
    configuration = _configuration(workdir, overrides)
    for value in configuration.values:
        typer.echo(f"{'.'.join(value.key)} = {value.value!r}    # {value.origin}")
    for value in configuration.ignored:
        typer.echo(f"# {'.'.join(value.key)} = {value.value!r} is not used here    # {value.origin}")


@config_app.command("init")
def config_init(
    output: Annotated[Path, typer.Argument(help="The file to write.")] = Path("config.yaml"),
) -> None:
    """Write a configuration with every key and its explanation, all commented out."""
    from surgeline.config import commented_template

    _write_new(output, commented_template())
    typer.echo(f"wrote {output}; it counts in a working folder, or as ~/.casa/config.yaml")


def main() -> NoReturn:
    """The console script: runs a command, and turns errors into one clear message and an exit code."""
    if _begins_session(sys.argv[1:]):
        from surgeline.parallel.mpiserver import serve_if_server

        serve_if_server()
    find_supervisor()
    debug = "--debug" in sys.argv
    try:
        # The exit code of a command that raises typer.Exit; commands return nothing.
        code = app(standalone_mode=False) or 0
    except typer.Abort:
        code = Interrupted.exit_code
    except SurgelineError as error:
        if debug:
            tell_ending(1)
            raise
        _complain(str(error))
        code = error.exit_code
    except Exception as error:
        if debug:
            tell_ending(1)
            raise
        if hasattr(error, "format_message"):  # a wrong command line, told by click
            _complain(f"{error.format_message()}\n  see: surgeline --help")
            code = BadInput.exit_code
        else:
            _complain(
                f"Surgeline itself failed: {type(error).__name__}: {error}\n  see where: --debug; please report it"
            )
            code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    tell_ending(code)
    # A CASA call that a signal left running in a thread cannot be stopped; it must not hold up the exit.
    os._exit(code)


def _begins_session(arguments: list[str]) -> bool:
    """Whether a command line is of a session, which the servers of an MPI session then serve."""
    return next((argument for argument in arguments if not argument.startswith("-")), "") in ("run", "resume")


def _run(make: Callable[[Observer], Session]) -> None:
    from rich.console import Console

    from surgeline.workflow.progress import Progress

    class TellingProgress(Progress):
        """Tells `surgeline mpirun`, too, that the session has begun.

        It has when the first job goes to its backend: what runs again has been withdrawn by then, and servers are up.
        """

        def job_added(self, stage: str, ticket: str, job: Job, backend: Backend) -> None:
            tell_begun()
            super().job_added(stage, ticket, job, backend)

    console = Console(highlight=False)
    with _signals_interrupt():
        with ExitStack() as at_last, TellingProgress(console) as progress:
            session = make(progress)
            at_last.callback(lambda: console.print(f"workers:  {session.accounts}", soft_wrap=True))
            try:
                session.run()
            finally:
                session.close()
        console.print(f"products: {session.paths.products}\nweblog:   {session.paths.weblog}", soft_wrap=True)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into an Interrupted; further ones wait until all is closed."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Stopped(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Stopped as stop:
        raise stop.told() from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stopped(BaseException):
    """Raised in the main thread by a signal; not an Exception, so that nothing on its way takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"

    def told(self) -> Interrupted:
        error = Interrupted(f"{self}; what had finished is kept", "go on with: surgeline resume")
        error.exit_code = 128 + self.number  # type: ignore[misc]  # as shells have it
        return error


def _configuration_of_session(arguments: list[str]) -> Configuration:
    """The configuration of the session that a command line is for; what is wrong with the line is told at once."""
    name, *rest = [argument for argument in arguments if argument != "--debug"]
    if name not in ("run", "resume"):
        raise BadInput(f"mpirun starts sessions, and {name!r} is none", "surgeline mpirun -- run …, or -- resume …")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parsed = commands[name].make_context(name, rest).params
    return _configuration(parsed["workdir"], parsed["overrides"])


def _configuration(workdir: Path, overrides: list[str] | None) -> Configuration:
    from surgeline.config import load

    return load(workdir, overrides or ())


def _absolute(reference: str) -> str:
    return reference if ":" in reference.split("/")[0] else str(Path(reference).expanduser().absolute())


def _write_new(path: Path, text: str) -> None:
    if path.exists():
        raise BadInput(f"{path} already exists", "give another name, or remove it")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "give another name") from error


def _complain(text: str) -> None:
    typer.echo(f"surgeline: {text}", err=True)


if __name__ == "__main__":
    main()
