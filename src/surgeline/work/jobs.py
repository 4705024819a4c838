"""One unit of work that can travel: a function call, a casatasks call, or a task of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from surgeline.errors import BadInput
from surgeline.work.casapaths import check_names
from surgeline.work.casasignature import signature
from surgeline.work.ownfolder import own_folder
from surgeline.work.resources import Resources
from surgeline.work.selection import Selection, selections

# Arguments that name files which tasks read; `vis` and written ones are told apart below.
_READ_ARGUMENTS = ("caltable", "gaintable", "imagename", "fitsfile", "fitsimage", "asdm")
# Further ones of some tasks that name files, unless what they say is no path: a region, an expression, a command.
_MAY_READ = {
    "flagdata": ("inpfile",),
    "imregrid": ("template",),
    "setjy": ("model",),
    "tclean": ("mask", "startmodel"),
}
# Tasks that change the MeasurementSet that they are given.
_CHANGES_VIS = frozenset({"applycal", "clearcal", "delmod", "fixvis", "flagdata", "flagmanager", "ft", "initweights",
                          "setjy", "statwt"})  # fmt: skip
# Those of them that come to the same when they are run again on what they had half done.
_SAME_TWICE = frozenset({"applycal", "clearcal", "delmod", "ft", "initweights", "setjy", "tclean"})
# Tasks that work with the flags saved beside an MS, or save those that it comes with.
_SAVES_FLAGS = frozenset({"flagmanager", "importasdm", "importatca", "importmiriad", "importuvfits", "importvla"})
# Which argument names what a task makes.
_WRITTEN_ARGUMENT = {
    **dict.fromkeys(("bandpass", "blcal", "fringefit", "gaincal", "gencal", "polcal"), "caltable"),
    **dict.fromkeys(("importasdm", "importatca", "importmiriad", "importuvfits", "importvla"), "vis"),
    **dict.fromkeys(("cvel2", "hanningsmooth", "mstransform", "phaseshift", "split", "uvcontsub"), "outputvis"),
    **dict.fromkeys(
        ("imcollapse", "imcontsub", "immath", "impbcor", "imregrid", "imsmooth", "imsubimage"), "outfile"
    ),
    "exportfits": "fitsimage",
    "fluxscale": "fluxtable",
    "importfits": "imagename",
}


@dataclass(frozen=True)
class Declaration:
    """What a job says that it needs.

    Attributes:
        name: what the job is called in progress, logs and errors.
        resources: cores, memory, GPUs, walltime.
        reads: files that it only reads.
        writes: files that it makes whole.
        changes: files that it changes in place.
        keeps: names and patterns (`images/a.*`) of what it may find and may leave without more being said of it: what
            one job leaves for the next, further products of an image, saved flags.
        selects: of which MSs among `reads` it reads only some rows. Where it has to be brought its files it may find
            no others.
        overwrite: remove what there is of `writes` before the job runs, as left by an interrupted attempt.
        seconds: how long it is expected to run; None where that is not known.
        memory: how many bytes it is estimated to take; None where that is not known. What its like took puts this
            right in time; where `resources` name an amount, that holds.
        estimated_seconds: how long it is estimated to run; the same holds of it, and `seconds` count for more.
        near: a name for what workers keep in memory for the next of such jobs: a job goes to the worker that had the
            last one of the same name, if that is idle.
        mpi: run it in the client process of an MPI session, which has a server for each of the job's cores.
        again: it may have been begun before, on a worker that died.
        mends: jobs that put back what it changes as that was before, run in its place first when it runs again.
    """

    name: str
    resources: Resources = field(default_factory=Resources)
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    selects: Mapping[str, Selection] = field(default_factory=dict)
    overwrite: bool = False
    mpi: bool = False
    seconds: float | None = None
    memory: int | None = None
    estimated_seconds: float | None = None
    near: str = ""
    again: bool = False
    mends: tuple[Job, ...] = ()


# A job that is made without a declaration derives its own.
_UNDECLARED = Declaration("")


class Job:
    """What the three kinds of job have in common."""

    declared: Declaration

    @property
    def called(self) -> str:
        """What it calls, by name: the same for all jobs that differ in their arguments alone."""
        return type(self).__name__

    @property
    def may_run_again(self) -> bool:
        """Whether it does what it should wherever an attempt before it ended: on data half changed it may not."""
        return not self.declared.changes or bool(self.declared.mends)

    def run(self) -> Any:
        """Do the work in this process and return its value."""
        raise AssertionError("each kind of job says how it runs")

    def _content(self) -> tuple[Any, ...]:
        raise AssertionError("each kind of job says what it consists of")

    def content_hash(self) -> str:
        """The same for two jobs that do the same; arguments may be anything that Dask can identify."""
        from dask.tokenize import tokenize

        return str(tokenize(type(self).__name__, *self._content()))

    def declare(
        self,
        name: str | None = None,
        resources: Resources | None = None,
        reads: Iterable[str] | None = None,
        writes: Iterable[str] | None = None,
        changes: Iterable[str] | None = None,
        keeps: Iterable[str] | None = None,
        selects: Mapping[str, Selection] | None = None,
        overwrite: bool | None = None,
        mpi: bool | None = None,
        seconds: float | None = None,
        memory: int | None = None,
        estimated_seconds: float | None = None,
        near: str | None = None,
        again: bool | None = None,
        mends: Iterable[Job] | None = None,
    ) -> Self:
        """A copy of the job that says more of what it needs."""
        old = self.declared
        declared = Declaration(
            name=old.name if name is None else name,
            resources=old.resources if resources is None else resources,
            reads=old.reads if reads is None else tuple(reads),
            writes=old.writes if writes is None else tuple(writes),
            changes=old.changes if changes is None else tuple(changes),
            keeps=old.keeps if keeps is None else tuple(keeps),
            selects=old.selects if selects is None else dict(selects),
            overwrite=old.overwrite if overwrite is None else overwrite,
            mpi=old.mpi if mpi is None else mpi,
            seconds=old.seconds if seconds is None else seconds,
            memory=old.memory if memory is None else memory,
            estimated_seconds=old.estimated_seconds if estimated_seconds is None else estimated_seconds,
            near=old.near if near is None else near,
            again=old.again if again is None else again,
            mends=old.mends if mends is None else tuple(mends),
        )
        declaring = copy(self)
        object.__setattr__(declaring, "declared", declared)
        return declaring


@dataclass(frozen=True, init=False)
class FunctionCall(Job):
    """A call of any picklable function: `FunctionCall(function, *arguments, **keywords)`."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    declared: Declaration

    def __init__(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> None:
        """Of a function and its arguments.

        Raises:
            BadInput: it cannot be called.
        """
        if not callable(function):
            raise BadInput(f"{function!r} cannot be called", "give FunctionCall a function and then its arguments")
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "arguments", arguments)
        object.__setattr__(self, "keywords", dict(keywords))
        object.__setattr__(self, "declared", Declaration(_name_of(function)))

    @property
    def called(self) -> str:
        return _name_of(self.function)

    def _content(self) -> tuple[Any, ...]:
        return (self.function, self.arguments, sorted(self.keywords.items()))

    def run(self) -> Any:
        return self.function(*self.arguments, **self.keywords)

    def __str__(self) -> str:
        return _as_call(self.called, self.arguments, self.keywords)


@dataclass(frozen=True)
class JobRequest(Job):
    """One call of a casatasks task; names and types of its arguments are checked when it is made.

    Raises:
        BadInput: the task or an argument does not exist, or a value has a type that the task does not take.
        DataError: the name of a file would be a command to CASA.
    """

    task: str
    arguments: Mapping[str, Any]
    declared: Declaration = _UNDECLARED

    def __post_init__(self) -> None:
        arguments = {name: _plain(value) for name, value in self.arguments.items()}
        signature(self.task).check(arguments)
        object.__setattr__(self, "arguments", arguments)
        if self.declared is _UNDECLARED:
            object.__setattr__(self, "declared", self._declaration())
        check_names(self.task, (*self.declared.reads, *self.declared.writes, *self.declared.changes))

    def _declaration(self) -> Declaration:
        def named(names: Iterable[str]) -> tuple[str, ...]:
            values = (self.arguments.get(name) for name in names)
            return tuple(
                item
                for value in values
                for item in (value if isinstance(value, list) else [value])
                if isinstance(item, str) and item
            )

        written = _WRITTEN_ARGUMENT.get(self.task, "")
        vis = named(("vis",)) if written != "vis" else ()
        # tclean's `imagename` is a stem of many products; who plans an image declares them.
        ignored = {written} | ({"imagename"} if self.task == "tclean" else set())
        reads = named(name for name in _READ_ARGUMENTS if name not in ignored)
        reads += tuple(text for text in named(_MAY_READ.get(self.task, ())) if not set(text) & set("[='\""))
        mpi = self.task == "tclean" and self.arguments.get("parallel") is True
        # Beside the MS, where CASA looks for them.
        flags = [f"{path}.flagversions" for path in named(("vis",))] if self._saves_flags() else []
        # A summary of flags changes none, and tclean writes no model unless it is told to.
        saves_model = self.task == "tclean" and self.arguments.get("savemodel", "none") != "none"
        if saves_model or (self.task in _CHANGES_VIS and self.arguments.get("mode") != "summary"):
            return Declaration(
                self.task, reads=reads, writes=named((written,)), changes=vis, keeps=tuple(flags), mpi=mpi
            )
        return Declaration(
            self.task,
            reads=reads + vis,
            writes=named((written,)),
            keeps=tuple(flags),
            selects=selections(self.task, self.arguments),
            mpi=mpi,
        )

    def _saves_flags(self) -> bool:
        """Whether the task saves flags, or works with saved ones."""
        if self.task in ("applycal", "flagdata"):
            return self.arguments.get("flagbackup") is not False and self.arguments.get("mode") != "summary"
        return self.task in _SAVES_FLAGS

    @property
    def called(self) -> str:
        return self.task

    @property
    def may_run_again(self) -> bool:
        return super().may_run_again or self.task in _SAME_TWICE

    def _content(self) -> tuple[Any, ...]:
        return (self.task, sorted(self.arguments.items()))

    def run(self) -> Any:
        task = getattr(import_module("casatasks"), self.task)
        if self.task != "tclean":
            return task(**self.arguments)
        with own_folder(self.arguments.get("imagename", "")):
            return task(**self.arguments)

    def command(self) -> str:
        """The call in full, as a script can make it."""
        return f"{self.task}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def __str__(self) -> str:
        return _as_call(self.task, (), self.arguments)


@dataclass(frozen=True)
class PipelineTask(Job):
    """A task of a pipeline framework: `cls(cls.Inputs(context, **arguments)).execute()`.

    `context` is whatever the task's `Inputs` take first, and has to pickle.
    """

    cls: type[Any]
    arguments: Mapping[str, Any]
    context: Any
    declared: Declaration = _UNDECLARED

    def __post_init__(self) -> None:
        if not hasattr(self.cls, "Inputs"):
            raise BadInput(
                f"{_name_of(self.cls)} has no Inputs, so it is no pipeline task",
                "give a class with `Inputs(context, **arguments)` and `execute()`",
            )
        object.__setattr__(self, "arguments", dict(self.arguments))
        if self.declared is _UNDECLARED:
            object.__setattr__(self, "declared", Declaration(_name_of(self.cls)))

    @property
    def called(self) -> str:
        return _name_of(self.cls)

    def _content(self) -> tuple[Any, ...]:
        return (self.cls, sorted(self.arguments.items()), self.context)

    def run(self) -> Any:
        return self.cls(self.cls.Inputs(self.context, **self.arguments)).execute()

    def __str__(self) -> str:
        return _as_call(self.called, (), self.arguments)


def _plain(value: Any) -> Any:
    """Arguments as CASA and a printed script want them: paths as texts, tuples as lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)


def _as_call(name: str, arguments: Iterable[Any], keywords: Mapping[str, Any]) -> str:
    parts = [_short(value) for value in arguments]
    parts += [f"{key}={_short(value)}" for key, value in keywords.items()]
    return f"{name}({', '.join(parts)})"


def _short(value: Any) -> str:
    if isinstance(value, str | bytes | bytearray) and len(value) > 1000:
        # All of it would take longer to write than to send.
        return f"{repr(value[:150])[:150]}…{repr(value[-30:])[-30:]}"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]}…{text[-30:]}"
