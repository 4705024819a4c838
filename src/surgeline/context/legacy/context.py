"""The existing pipeline's context as a face of the system of record, and how its tasks run upon it.

Reading goes to the store. What a task changes goes into a draft and becomes one commit when its result is accepted,
or vanishes when it is not. The context pickles as a reference, with what was not accepted yet: a job reads the facts
that it asks for.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

from surgeline.context.legacy.attributes import Attributes
from surgeline.context.legacy.calibrations import CalibrationLibrary
from surgeline.context.legacy.draft import Changes, Remembered, TaskDraft
from surgeline.context.legacy.lists import ImageLibrary, Results
from surgeline.context.legacy.observing import ObservingRun
from surgeline.context.legacy.project import PerformanceParameters, ProjectStructure, ProjectSummary
from surgeline.context.legacy.values import Keeper
from surgeline.context.records import Fact, subject_of
from surgeline.context.reference import ContextReference, answer
from surgeline.context.store import Context, Snapshot
from surgeline.errors import BadInput, ContextError
from surgeline.paths import partial as partial_path
from surgeline.work.surroundings import Answer, FactQuery, Surroundings, job_in
from surgeline.work.taskqueue import TaskQueue

_REGISTRIES = ("sciimlist", "calimlist", "rmsimlist", "subimlist")


class LegacyContext(Keeper):
    """A context with the face that tasks of the existing pipeline know.

    Attributes that tasks set are kept, whatever their names; changes made in them in place are noticed. It stands
    upon a version: what others commit meanwhile is seen once something is accepted or discarded.
    """

    _base: Snapshot | ContextReference
    attributes: Attributes
    observing_run: ObservingRun
    callibrary: CalibrationLibrary
    sciimlist: ImageLibrary
    calimlist: ImageLibrary
    rmsimlist: ImageLibrary
    subimlist: ImageLibrary

    # What attributes are before a task sets them.
    begin: ClassVar[Mapping[str, Callable[[LegacyContext], Any]]] = {
        "name": lambda self: f"pipeline-{self.identifier[:12]}",
        "output_dir": lambda _: "",
        "report_dir": lambda self: str(Path(self.output_dir) / self.name / "html"),
        "logs": lambda _: {
            "casa_commands": "casa_commands.log",
            "pipeline_script": "casa_pipescript.py",
            "pipeline_restore_script": "casa_piperestorescript.py",
            "aqua_report": "pipeline_aquareport.xml",
        },
        "contfile": lambda _: "cont.dat",
        "linesfile": lambda _: "lines.dat",
        "imaging_mode": lambda _: None,
        **dict.fromkeys(("task_counter", "subtask_counter"), lambda _: 0),
        **dict.fromkeys(
            ("clean_list_pending", "selfcal_targets", "selfcal_resources", "findroi_resources"), lambda _: []
        ),
        **dict.fromkeys(
            (
                *("clean_list_info", "clean_masks", "clean_thresholds", "imaging_parameters"),
                *("processing_intents", "size_mitigation_parameters"),
            ),
            lambda _: {},
        ),
        **dict.fromkeys(
            ("per_spw_cont_sensitivities_all_chan", "synthesized_beams"), lambda _: {"robust": None, "uvtaper": None}
        ),
    }

    def __init__(
        self, base: Context | Snapshot | ContextReference, where: str = "", folder: str | Path | None = None
    ) -> None:
        """Stand upon a context.

        Args:
            base: the context as it is now, as it was at a version, or as a job knows it.
            where: a database's URL, or a file, that jobs read themselves; empty: they ask the session.
            folder: where values too large for the store are kept; beside a store in a file unless given.
        """
        self._stand_on(base.at() if isinstance(base, Context) else base, where, folder, Changes())

    def _stand_on(
        self, base: Snapshot | ContextReference, where: str, folder: str | Path | None, changes: Changes
    ) -> None:
        if isinstance(base, Snapshot) and not where and isinstance(base.context.where, str):
            where = base.context.where
        if folder is None:
            store = base.context.where if isinstance(base, Snapshot) else None
            folder = store.with_suffix(".values") if isinstance(store, Path) else Path("context.values")
        # Attributes of a task's own cannot be called like these.
        vars(self).update(
            _where=where,
            _folder=Path(folder).absolute(),
            attributes=Attributes(self, "legacy", "the context"),
            observing_run=ObservingRun(self),
            callibrary=CalibrationLibrary(self),
            _results=Results(self),
            _shown=None,
            **{name: ImageLibrary(self, name) for name in _REGISTRIES},
        )
        self._begin_draft(base, changes)

    def _begin_draft(self, base: Snapshot | ContextReference, changes: Changes) -> None:
        vars(self).update(_base=base, _draft=TaskDraft(Remembered(base), self._commit, changes))

    def __reduce__(self) -> tuple[Any, ...]:
        reference = ContextReference(self.identifier, self._base.version, self._where)
        return _arrived, (type(self), reference, str(self._folder), self.changes())

    def __getattr__(self, name: str) -> Any:
        # Before there is anything to ask, while it is unpickled or copied, it has no attributes.
        if name.startswith("__") or "attributes" not in vars(self):
            raise AttributeError(name)
        begin = self.begin.get(name)
        return self.attribute(name, None if begin is None else partial(begin, self))

    def __setattr__(self, name: str, value: Any) -> None:
        found = getattr(type(self), name, None)
        if isinstance(found, property) and found.fset:
            found.fset(self, value)
        elif found is not None or name in vars(self):
            raise AttributeError(f"{name} of the context cannot be replaced, only changed")
        else:
            self.attributes.set(name, value)

    def __delattr__(self, name: str) -> None:
        try:
            self.attributes.delete(name)
        except KeyError:
            raise AttributeError(f"the context has no attribute {name!r} that a task has set") from None

    def __str__(self) -> str:
        names = ", ".join(ms.basename for ms in self.observing_run.measurement_sets) or "no MS"
        return f"{self.name} at version {self.version}: {names}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at version {self.version}>"

    @property
    def identifier(self) -> str:
        return self._base.context.identifier if isinstance(self._base, Snapshot) else str(self._base.context)

    @property
    def version(self) -> int:
        return int(self._base.version)

    @property
    def draft(self) -> TaskDraft:
        found: TaskDraft = self._draft
        return found

    @property
    def folder(self) -> Path:
        return Path(self._folder)

    @property
    def stage(self) -> str:
        return f"{self.task_counter}_{self.subtask_counter}"

    @property
    def results(self) -> Any:
        return self._results if self._shown is None else self._shown

    @results.setter
    def results(self, value: Any) -> None:
        """Show something else for a while, as who makes a weblog does; what is kept are the entries."""
        vars(self).update(_shown=None if value is self._results else value)

    @property
    def products_dir(self) -> str:
        return str(self.attribute("products_dir", lambda: "products"))

    @products_dir.setter
    def products_dir(self, value: str | None) -> None:
        """Where products go; None for where they go otherwise."""
        self.attributes.set("products_dir", value or "products")

    @property
    def project_summary(self) -> ProjectSummary:
        return ProjectSummary(self)

    @property
    def project_structure(self) -> ProjectStructure:
        return ProjectStructure(self)

    @property
    def project_performance_parameters(self) -> PerformanceParameters:
        return PerformanceParameters(self)

    def attribute(self, name: str, begin: Callable[[], Any] | None = None) -> Any:
        """An attribute that a task set; what `begin` gives where none did.

        Raises:
            AttributeError: there is none.
        """
        try:
            return self.attributes.get(name, begin)
        except KeyError:
            raise AttributeError(f"the context has no attribute {name!r}, and no task has set it") from None

    def extensions(self) -> dict[str, Any]:
        """The attributes that tasks have set, by name; those of project records and the observing run with theirs."""
        return {name: self.attributes.get(name) for name in self.attributes.names()}

    def set_state(self, cls: str, name: str, value: Any) -> None:
        """Set a value of a project record that is named by its class.

        Raises:
            KeyError: there is no such record.
        """
        records = (self.project_summary, self.project_structure, self.project_performance_parameters)
        setattr({type(record).__name__: record for record in records}[cls], name, value)

    def get_oussid(self) -> str:
        """The identifier of the observing unit set's status, as file names take it."""
        return str(self.project_structure.ousstatus_entity_id).translate(str.maketrans(":/", "__"))

    def get_recipe_name(self) -> str:
        """The name of the recipe, or empty when it is not known."""
        name = str(self.project_structure.recipe_name)
        return "" if name == "Undefined" else name

    def save(self, filename: str | None = None) -> None:
        """Write a pickle of the context, which refers to the store; what was accepted is in the store already."""
        path = Path(filename or f"{self.name}.context")
        where = self._where
        if not where and isinstance(self._base, Snapshot) and isinstance(self._base.context.where, Path):
            # Whoever opens it has no session to ask.
            where = str(self._base.context.where.absolute())
        saved = self.copy()
        vars(saved).update(_where=where)
        temporary = partial_path(path)
        temporary.write_bytes(pickle.dumps(saved))
        temporary.replace(path)

    def changes(self) -> Changes:
        """What was said since the last accept, values whole: what travels with the context."""
        draft = TaskDraft(Remembered(self._base), self._commit, self.draft.changes())
        _say(draft, self._unsaid(None))
        return draft.changes()

    def copy(self) -> Self:
        """The same context with the same changes; what is changed in one of them is not in the other."""
        copied = type(self).__new__(type(self))
        copied._stand_on(self._base, self._where, self._folder, self.changes())
        return copied

    def accept(self, stage: str = "", **details: Any) -> int:
        """Make one commit of everything that was changed; returns the new version, upon which it stands from now on.

        Args:
            stage: who says it; the context's stage unless given.
            details: what to record of who says it.

        Raises:
            ConflictError: others have said something else of the same subjects since.
            ContextError: this context is in a job, or a value cannot be stored.
        """
        if not isinstance(self._base, Snapshot):
            raise ContextError(
                "a context that came with a job cannot be accepted there",
                "return a result, and accept it in the session",
            )
        accepting = TaskDraft(Remembered(self._base), self._commit, self.draft.changes())
        _say(accepting, self._unsaid(self.folder))
        vars(self).update(_committing=stage or f"stage {self.stage}")
        accepting.accept(**details)
        self._begin_draft(self._newest(), Changes())
        for kept in self._keeping():
            kept.renew() if isinstance(kept, Attributes) else kept.forget()
        return self.version

    def discard(self) -> None:
        """Forget everything that was changed since the last accept, and stand upon the newest version."""
        for kept in self._keeping():
            kept.forget()
        self._begin_draft(self._newest(), Changes())

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let what refers to this context be read in this process, as if in a job."""
        if not isinstance(self._base, Snapshot):
            yield
            return
        with job_in(Surroundings("session", partial(_answer, self._base.context), environment={})):
            yield

    def _newest(self) -> Snapshot | ContextReference:
        return self._base.context.at() if isinstance(self._base, Snapshot) else self._base

    def _commit(self, **content: Any) -> int:
        assert isinstance(self._base, Snapshot)
        return self._base.context.commit(self._committing, **content)

    def _keeping(self) -> list[Attributes | Results | ImageLibrary]:
        """All that notices what tasks change in place."""
        sets = [ms.attributes for ms in self.observing_run.made_so_far()]
        return [self.attributes, *sets, self._results, *(getattr(self, name) for name in _REGISTRIES)]

    def _unsaid(self, folder: Path | None) -> Iterator[tuple[Fact, bool]]:
        return chain.from_iterable(kept.unsaid(folder) for kept in self._keeping())


def run_task(context: LegacyContext, task_class: type[Any], arguments: Mapping[str, Any], queue: TaskQueue) -> Any:
    """Run a task of the existing pipeline on a worker, and merge its result into the context; returns the result.

    Raises:
        as `run_tasks`.
    """
    (result,) = run_tasks(context, [(task_class, arguments)], queue)
    return result


def run_tasks(
    context: LegacyContext, tasks: Iterable[tuple[type[Any], Mapping[str, Any]]], queue: TaskQueue
) -> list[Any]:
    """Run tasks of the existing pipeline side by side, and merge their results in order, each by one commit.

    Each is a stage: the context that it is given counts it. Its `Inputs` and itself live on a worker; its result
    comes back, and its `accept(context)` is called here. When one of the tasks fails, nothing is merged; when a
    result cannot be merged, it and those after it are not, and what it had changed vanishes, as does whatever
    else was changed since the last accept.

    Raises:
        JobFailed: a task failed.
        BadInput: the queue has other jobs, or a result cannot be accepted by its own word.
        ConflictError: others have said something else of the same subjects meanwhile.
    """
    if len(queue):
        raise BadInput(
            f"the queue has {len(queue)} other jobs, whose outcomes would be lost", "give it a queue of its own"
        )
    asked = list(tasks)
    first = context.task_counter + 1
    for number, (task_class, arguments) in enumerate(asked, first):
        travelling = context.copy()
        travelling.task_counter, travelling.subtask_counter = number, 0
        queue.add_pipelinetask(task_class, arguments, travelling)
    results = [outcome.result() for outcome in queue.get_results()]
    for number, ((task_class, _), result) in enumerate(zip(asked, results, strict=True), first):
        _merge(context, task_class.__name__, number, result)
    return results


def _merge(context: LegacyContext, task: str, number: int, result: Any) -> None:
    try:
        if not callable(getattr(result, "accept", None)):
            raise BadInput(
                f"{task} returned a {type(result).__name__}, which has no accept(context)", "return a result that has"
            )
        context.task_counter, context.subtask_counter = number, 0
        with context.here():
            result.accept(context)
        context.accept(task, number=context.stage)
    except BaseException:
        context.discard()
        raise


def _say(draft: TaskDraft, facts: Iterable[tuple[Fact, bool]]) -> None:
    for fact, holds in facts:
        if holds:
            draft.add(fact)
        else:
            draft.take_back([(type(fact), subject_of(fact))])


def _answer(context: Context, query: FactQuery) -> Answer:
    if query.context != context.identifier:
        raise ContextError(
            f"facts of context {query.context} are asked for while those of {context.identifier} are at hand",
            "open that context, or ask within a job",
        )
    return answer(context, query)


def _arrived(cls: type[LegacyContext], reference: ContextReference, folder: str, changes: Changes) -> LegacyContext:
    context = cls.__new__(cls)
    context._stand_on(reference, reference.where, folder, changes)
    return context
