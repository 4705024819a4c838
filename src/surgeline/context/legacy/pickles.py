"""Contexts that the existing pipeline has pickled: read when they are trusted, and translated into facts.

The file's own classes are never looked for. In their place stands what is left of an object without its class: what
it was made of, and its state. So nothing has to be installed, and reading runs nothing but what is listed here.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

from surgeline.context.calibration import register_part
from surgeline.context.legacy.domain import pipeline_intents
from surgeline.context.legacy.draft import Changes, TaskDraft
from surgeline.context.legacy.facts import ListedImage, TableType
from surgeline.context.legacy.translation import observation_from
from surgeline.context.legacy.values import Keeper, encode
from surgeline.context.records import (
    AnyFact,
    CalibrationApplication,
    DataColumns,
    Extension,
    Fact,
    Observation,
    Project,
    ReferenceAntenna,
)
from surgeline.context.selection import Layout, Part, Selection, joined_parts
from surgeline.errors import BadInput, ContextError

# What is taken for what it is: data that hold data, and do nothing when they are made.
_KNOWN = {
    "builtins": {"bytearray", "complex", "dict", "frozenset", "list", "object", "range", "set", "slice", "tuple"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "numpy": {"dtype", "ndarray"},
    **{f"numpy.{core}.multiarray": {"_reconstruct", "scalar"} for core in ("core", "_core")},
    **{f"numpy.{core}.numeric": {"_frombuffer"} for core in ("core", "_core")},
    "uuid": {"UUID"},
}
# The state of classes that pickle it as a tuple.
_STATES = {
    "ArithmeticProgression": ("start", "delta", "num_terms"),
    "CalFrom": ("caltype", "calwt", "gainfield", "gaintable", "interp", "spwmap"),
    "CalTo": ("antenna", "intent", "field", "spw", "vis"),
    "SpectralWindow": (
        *("id", "band", "bandwidth", "type", "intents", "ref_frequency", "name", "baseband", "sideband", "receiver"),
        *("freq_lo", "mean_frequency", "min_frequency", "max_frequency", "centre_frequency", "channels", "frame"),
        *("spectralspec", "transitions", "sdm_num_bin", "correlation_bits", "median_receptor_angle"),
        *("specline_window", "grouping_id", "chan_resolutions"),
    ),
    **{f"State{of}": ("id", "obs_mode") for of in ("", "ALMA", "ALMACycle0", "VLA", "APEX", "SMT", "NAOJ")},
    **dict.fromkeys(("Distance", "EquatorialArc", "FileSize", "FluxDensity", "Frequency"), ("value", "units")),
}
# The names of data types by their numbers, which is what pickles of later Pythons have of them.
_DATA_TYPES = (
    *("RAW", "REGCAL_CONTLINE_ALL", "ATMCORR", "BASELINED", "REGCAL_CONTLINE_SCIENCE", "SELFCAL_CONTLINE_SCIENCE"),
    *("IM_CONTLINE_SCIENCE", "REGCAL_CONT_SCIENCE", "SELFCAL_CONT_SCIENCE", "IM_CONT_SCIENCE"),
    *("REGCAL_LINE_SCIENCE", "SELFCAL_LINE_SCIENCE", "IM_LINE_SCIENCE"),
)
_REGISTRIES = ("sciimlist", "calimlist", "rmsimlist", "subimlist")
_RECORDS = ("project_summary", "project_structure", "project_performance_parameters")
# What is translated by itself.
_CONTEXT_OWN = {"observing_run", "callibrary", "results", *_REGISTRIES, *_RECORDS}
_MS_OWN = {
    *("name", "fields", "spectral_windows", "scans", "antenna_array", "states", "sources", "data_descriptions"),
    *("polarizations", "filesize", "observer", "project_id", "data_column", "reference_antenna"),
    "data_types_per_source_and_spw",
}
_ACTIVE, _APPLIED = "registered", "applied"


@dataclass(frozen=True)
class TranslatedContext:
    """What was made of a pickled context.

    Attributes:
        facts: what can be committed to a context.
        left: what could not be translated, each in words.
    """

    facts: tuple[Fact, ...]
    left: tuple[str, ...]


def read_pickled_context(path: str | Path, trusted: bool = False) -> TranslatedContext:
    """Read a context that the existing pipeline has pickled, and translate what can be into facts.

    A pickle is a program. This runs nothing of it that is not listed in this module, yet only read files from people
    whom you would let run programs of theirs.

    Args:
        path: the file, such as pipeline-20250101T000000.context.
        trusted: you know who made the file, and trust them.

    Raises:
        BadInput: it is not said to be trusted, or is no such context.
        ContextError: it cannot be read.
    """
    if not trusted:
        raise BadInput(
            f"{path} is a pickle, which can do harm when it is read, and nobody said that it is trusted",
            "if you know who made it, read_pickled_context(path, trusted=True)",
        )
    try:
        with Path(path).open("rb") as handle:
            _check_size(handle)
            found = _Unpickler(handle).load()
    except Exception as error:
        raise ContextError(
            f"{path} cannot be read as a pickle: {type(error).__name__}: {error}", "bring it back from a copy"
        ) from error
    if not isinstance(found, Remains) or not {"observing_run", "callibrary"} <= set(vars(found)):
        raise BadInput(f"{path} is a pickle, but of no pipeline context", "give the name of a *.context file")
    translation = _Translation()
    try:
        translation.context(found)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BadInput(
            f"{path} is a pickle of a pipeline context, but not all in it is what one has: "
            f"{type(error).__name__}: {error}",
            "bring it back from a copy",
        ) from error
    return TranslatedContext(tuple(translation.facts), tuple(translation.left))


class Remains:
    """What is left of an object without its class.

    Attributes are those of its state, also by the names that its class gave them to the outside.
    """

    arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any, **_: Any) -> Remains:
        made = super().__new__(cls)
        vars(made).update(arguments=arguments)
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        # The arguments are kept where the object is made, as some are made without being initialised.
        return

    def __setstate__(self, state: Any) -> None:
        names = _STATES.get(type(self).__name__)
        if isinstance(state, tuple) and names:
            # Later versions add to the end.
            state = dict(zip(names, state, strict=False))
        # Classes with slots pickle two dictionaries.
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                vars(self).update({str(name): value for name, value in part.items()})

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for own, value in vars(self).items():
                if own == f"_{name}" or own.endswith(f"__{name}"):
                    return value
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Any]:
        # Of the pipeline's own containers, or lists that were subclassed.
        return iter(self.items)

    def __reduce__(self) -> str:
        raise pickle.PicklingError(f"it holds a {type(self).__module__}.{type(self).__name__}")

    def extend(self, items: Iterable[Any]) -> None:
        """Called by pickle for lists that were subclassed."""
        vars(self).setdefault("_items", []).extend(items)

    def append(self, item: Any) -> None:
        """Called by pickle for lists that were subclassed, for a last item."""
        self.extend([item])

    def __setitem__(self, key: Any, value: Any) -> None:
        vars(self).setdefault("_items", {})[key] = value


def _member(owner: Any, name: str) -> Any:
    """An enumeration's member by name, in place of Python's getattr."""
    made = owner() if isinstance(owner, type) and issubclass(owner, Remains) else Remains()
    vars(made).update(name=name)
    return made


def _check_size(handle: BinaryIO) -> None:
    """See that a pickle numbers no more objects than it has bytes: pickle makes room for as many at once.

    Raises:
        ValueError: it does, or is no pickle.
    """
    most = handle.seek(0, SEEK_END)
    handle.seek(0)
    for opcode, argument, position in pickletools.genops(handle):
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > most:
            raise ValueError(f"at position {position} there is an object with the number {argument}")
    handle.seek(0)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if name in _KNOWN.get(module, ()):
            return super().find_class(module, name)
        # Names of nested classes have dots.
        return type(name.rpartition(".")[2], (Remains,), {"__module__": module})

    def persistent_load(self, identifier: Any) -> Any:
        return Remains(identifier)


class _Nowhere(Keeper):
    """In place of the context that values will be kept in, which nothing here can refer to."""

    identifier = ""


class _Nothing:
    """A context in which nothing is known yet."""

    version = 0

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        return []

    def last(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact | None:
        return None


@dataclass
class _Translation:
    """A translation in the making."""

    facts: list[Fact] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def context(self, context: Remains) -> None:
        observations = []
        for ms in getattr(context.observing_run, "measurement_sets", ()):
            try:
                observation = observation_from(ms)
            except BadInput as error:
                self.left.append(error.message)
                continue
            observations.append(observation)
            self.facts.append(observation)
            self._measurement_set(ms)
        self._calibrations(context.callibrary, observations)
        for registry in _REGISTRIES:
            self._images(registry, getattr(getattr(context, registry, None), "images", ()))
        self._records(context)
        results = list(getattr(context, "results", ()))
        if results:
            self.left.append(
                f"{len(results)} results, which are in files of their own; their tasks' software reads them"
            )
        self._attributes("legacy", "the context", context, _CONTEXT_OWN)

    def _measurement_set(self, ms: Remains) -> None:
        names = str(getattr(ms, "reference_antenna", None) or "")
        if names:
            self.facts.append(
                ReferenceAntenna(vis=ms.name, names=tuple(names.split(",")), reason="set in a pickled context")
            )
        columns = {
            _data_type(dtype): str(column) for dtype, column in (getattr(ms, "data_column", None) or {}).items()
        }
        if columns:
            self.facts.append(DataColumns(vis=ms.name, after="a pickled context", columns=columns))
        namespace = f"legacy {ms.name}"
        kept = getattr(ms, "data_types_per_source_and_spw", None) or {}
        by_part = {part: [_data_type(dtype) for dtype in dtypes] for part, dtypes in kept.items()}
        if by_part:
            self._extension(namespace, str(ms.name), "data_types_per_source_and_spw", by_part)
        self._attributes(namespace, str(ms.name), ms, _MS_OWN)

    def _attributes(self, namespace: str, owner: str, thing: Remains, own: set[str]) -> None:
        for name, value in vars(thing).items():
            plain = name.lstrip("_")
            if plain not in own and plain != "arguments":
                self._extension(namespace, owner, plain, value)

    def _extension(self, namespace: str, owner: str, name: str, value: Any) -> None:
        try:
            stored = encode(value, _Nowhere(), f"attribute {name!r} of {owner}")
        except ContextError as error:
            self.left.append(error.message)
        else:
            self.facts.append(Extension(namespace=namespace, name=name, value=stored))

    def _records(self, context: Remains) -> None:
        for record in _RECORDS:
            for name, value in vars(getattr(context, record, None) or Remains()).items():
                # Listeners to changes are no values.
                if not name.startswith("_") and name != "arguments":
                    self._extension("legacy", record, f"{record}.{name}", value)
        summary, structure = (vars(getattr(context, record, None) or Remains()) for record in _RECORDS[:2])
        if summary.get("proposal_code"):
            self.facts.append(
                Project(
                    code=summary["proposal_code"],
                    observer=summary.get("piname", ""),
                    telescope=summary.get("telescope", ""),
                    recipe=structure.get("recipe_name", ""),
                    description=summary.get("proposal_title", ""),
                )
            )

    def _images(self, registry: str, items: Iterable[Mapping[str, Any]]) -> None:
        for place, item in enumerate(items):
            kept = {}
            for name, value in item.items():
                # Metadata are a dictionary of a class of their own.
                plain = value.items if isinstance(value, Remains) and hasattr(value, "items") else value
                try:
                    encode(plain, _Nowhere(), f"{name} of image {place} of {registry}")
                except ContextError as error:
                    self.left.append(error.message)
                else:
                    kept[name] = plain
            stored = encode(kept, _Nowhere(), f"image {place} of {registry}")
            self.facts.append(
                ListedImage(registry=registry, place=place, imagename=str(kept.get("imagename", "")), item=stored)
            )

    def _calibrations(self, library: Remains, observations: list[Observation]) -> None:
        draft = TaskDraft(_Nothing(), _never, Changes(tuple(observations)))
        for state, name in ((_APPLIED, "applied"), (_ACTIVE, "active")):
            calibrations = getattr(library, name, None)
            for vis, tree in (getattr(calibrations, "data", None) or {}).items():
                observation = next((each for each in observations if each.vis == vis), None)
                if observation is None:
                    self.left.append(f"{name} calibrations of {vis}, an MS of which nothing else is known")
                    continue
                words = getattr(calibrations, "id_to_intent", {}).get(vis, {})
                try:
                    self._register(draft, observation, tree, words, state)
                except (AttributeError, IndexError, TypeError, ValueError, BadInput) as error:
                    self.left.append(f"{name} calibrations of {vis}: {type(error).__name__}: {error}")
        said = draft.changes().added
        self.facts += [fact for fact in said if isinstance(fact, CalibrationApplication | TableType)]

    def _register(
        self, draft: TaskDraft, observation: Observation, tree: Remains, words: Mapping[int, str], state: str
    ) -> None:
        """Register what a tree of antennas, spectral windows, fields and intents has at its leaves."""
        layout = Layout(observation)
        by_table: dict[CalibrationApplication, list[Part]] = {}
        for antennas, below in _intervals(tree):
            for windows, lower in _intervals(below):
                for fields, lowest in _intervals(lower):
                    for intents, tables in _intervals(lowest):
                        names = {word for number, word in words.items() if number in intents}
                        data = _data(layout, observation, antennas, windows, fields, names)
                        for table in tables:
                            application = _application(observation.vis, table, state)
                            by_table.setdefault(application, []).append((data, ()))
                            draft.add(TableType(table=application.table, caltype=table.caltype))
        for application, parts in by_table.items():
            for data, _ in joined_parts([part for part in parts if part[0]]):
                register_part(draft, layout, application, data)


def _application(vis: str, table: Remains, state: str) -> CalibrationApplication:
    return CalibrationApplication.model_validate(
        {
            "table": table.gaintable,
            "vis": vis,
            "gainfield": table.gainfield,
            "spwmap": tuple(table.spwmap),
            "interp": table.interp,
            "calwt": table.calwt,
            "state": state,
        }
    )


def _intervals(tree: Remains) -> Iterator[tuple[range, Any]]:
    """The intervals of a tree in order, and what is said of each, without when it was said."""
    found = tree.arguments[0] if tree.arguments else ()
    for interval in sorted(found, key=lambda each: int(each.arguments[0])):
        begin, end, said = interval.arguments
        yield range(begin, end), said.arguments[1]


def _data(
    layout: Layout, observation: Observation, antennas: range, windows: range, fields: range, intents: set[str]
) -> Selection:
    whole = layout.whole
    telescope = observation.telescope
    scans = [scan for scan in observation.scans if pipeline_intents(scan.intents, telescope) & intents]
    observed = {each.id for each in observation.fields if pipeline_intents(each.intents, telescope) & intents}
    return Selection(
        fields=frozenset(number for number in whole.fields & observed if number in fields),
        windows=frozenset(number for number in whole.windows if number in windows),
        intents=frozenset(frozenset(scan.intents) for scan in scans),
        antennas=frozenset(number for number in whole.antennas if number in antennas),
    )


def _data_type(dtype: Any) -> str:
    name = getattr(dtype, "name", None)
    if name is None and isinstance(dtype, Remains) and dtype.arguments:
        number = dtype.arguments[0]
        name = _DATA_TYPES[number - 1] if isinstance(number, int) and 0 < number <= len(_DATA_TYPES) else number
    return str(name if name is not None else dtype)


def _never(**_: Any) -> int:
    raise ContextError("a translation is not committed by itself", "commit its facts")
