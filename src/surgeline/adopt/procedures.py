"""The Pipeline's procedures, and its processing requests, which hold one and say what it is for."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeline.adopt.xmltree import Element, read
from surgeline.errors import BadInput

# The Pipeline's tasks begin with the part of it that they belong to.
TASK = re.compile(r"h(if|ifa|ifv|sd|sdn)?_[A-Za-z][A-Za-z0-9_]*")
# These take the observations; those of the second kind are not told which session each belongs to.
_TAKE_SESSIONS = frozenset(
    {
        *(f"{part}_importdata" for part in ("h", "hifa", "hifv", "hsd", "hsdn")),
        *(f"{part}_restoredata" for part in ("h", "hif", "hifa", "hifv", "hsd")),
    }
)
_TAKE_OBSERVATIONS = _TAKE_SESSIONS | {"hsdn_restoredata"}
# What stands between commands for an operator, and is no task.
_BREAKPOINT = "breakpoint"
# No argument of a task is longer, and one that is could keep Python busy.
_LONGEST_VALUE = 64 * 1024


@dataclass(frozen=True)
class Command:
    """A task that a procedure runs.

    Attributes:
        task: its name.
        arguments: the texts of those that the procedure gives, by their names; `value_of` says what they mean.
    """

    task: str
    arguments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Procedure:
    """A procedure, and what a processing request says beside it.

    Attributes:
        title: what it is called.
        commands: in the order in which they run.
        data: the names of the observations on disk, if a request names them.
        relative_path: the folder that a request says these are in, below that of all data.
        sessions: for each of `data`, the observing session that it belongs to.
        intents: what a request says that the processing is for.
        project: what a request says of the project, as the Pipeline's context takes it: by record and name.
    """

    title: str
    commands: tuple[Command, ...]
    data: tuple[str, ...] = ()
    relative_path: str = ""
    sessions: tuple[str, ...] = ()
    intents: Mapping[str, str] = field(default_factory=dict)
    project: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def arguments_of(self, command: Command, vis: tuple[str, ...]) -> dict[str, Any]:
        """The arguments that a task is called with: those of the procedure, and the observations where it takes any.

        As in the Pipeline, what a procedure itself says of observations counts for more than what its user says, and
        for less than what a request says.

        Args:
            command: the task.
            vis: the observations.
        """
        given: dict[str, Any] = {}
        if command.task in _TAKE_OBSERVATIONS:
            given["vis"] = list(vis)
        if command.task in _TAKE_SESSIONS:
            given["session"] = list(self.sessions) if len(self.sessions) == len(vis) else ["default"] * len(vis)
        return {**command.arguments, **given} if self.data else {**given, **command.arguments}

    @property
    def takes_observations(self) -> bool:
        """Whether one of its tasks has to be given observations."""
        return any(command.task in _TAKE_OBSERVATIONS for command in self.commands)


def value_of(said: Any) -> Any:
    """What an argument of a procedure means: a text that is a literal of Python means that, all else is itself.

    As in the Pipeline, `1,2,3` stays a text, and is no tuple without its parentheses.
    """
    if not isinstance(said, str) or len(said) > _LONGEST_VALUE:
        return said
    try:
        value = ast.literal_eval(said)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return said
    return said if isinstance(value, tuple) and not said.strip().startswith("(") else value


def load(path: Path) -> Procedure:
    """Read a procedure, or a processing request.

    Raises:
        BadInput: it cannot be read or is neither; says which file and line, and what to do.
    """
    root = read(path)
    if root.name == "ProcessingProcedure":
        return Procedure(root.said("ProcedureTitle") or path.stem, _commands(root, path))
    if root.name == "SciPipeRequest":
        return _request(root, path)
    raise BadInput(
        f"{path}:{root.line}: its root is {root.name}, so it is no procedure of the Pipeline's",
        "give a ProcessingProcedure, or a processing request (SciPipeRequest)",
    )


def _commands(procedure: Element, path: Path) -> tuple[Command, ...]:
    commands = []
    for element in procedure.all("ProcessingCommand"):
        task = element.said("Command")
        if task == _BREAKPOINT:
            continue
        if not TASK.fullmatch(task):
            said = f"{task[:60]!r}, which is no task of the Pipeline's" if task else "no Command"
            raise BadInput(
                f"{path}:{element.line}: this ProcessingCommand has {said}",
                "name a task, such as hifv_importdata: it begins with h_, hif_, hifa_, hifv_, hsd_ or hsdn_",
            )
        if task in ("h_init", "h_resume", "h_save"):
            raise BadInput(
                f"{path}:{element.line}: {task} is not for a procedure to call: contexts are made, kept and taken up "
                "again by themselves",
                "take the command out",
            )
        commands.append(Command(task, _arguments(element, task, path)))
    if not commands:
        raise BadInput(f"{path}:{procedure.line}: the procedure has no ProcessingCommand", "give it one, or another")
    return tuple(commands)


def _arguments(command: Element, task: str, path: Path) -> dict[str, str]:
    arguments: dict[str, str] = {}
    for parameter in command.all("ParameterSet", "Parameter"):
        name, value = parameter.said("Keyword"), parameter.first("Value")
        if not name.isidentifier():
            said = f"the Keyword {name[:60]!r}, which is no name" if name else "no Keyword"
            raise BadInput(f"{path}:{parameter.line}: a Parameter of {task} has {said}", "give it an argument's name")
        if name in arguments:
            raise BadInput(
                f"{path}:{parameter.line}: {task} is given {name} twice", "take one of the two Parameters out"
            )
        text = value.text if value is not None else ""
        if len(text) > _LONGEST_VALUE:
            raise BadInput(
                f"{path}:{parameter.line}: {name} of {task} has {len(text)} letters; {_LONGEST_VALUE} are allowed",
                "put what is so long into a file, and give its name",
            )
        arguments[name] = text
    return arguments


def _request(root: Element, path: Path) -> Procedure:
    requests = list(root.all("ProcessingRequests", "ProcessingRequest"))
    if len(requests) != 1:
        raise BadInput(
            f"{path}:{root.line}: it has {len(requests)} ProcessingRequests, and one can be run",
            "make a file of each",
        )
    (request,) = requests
    procedure = request.first("ProcessingProcedure")
    if procedure is None:
        raise BadInput(f"{path}:{request.line}: the request has no ProcessingProcedure", "give it one")
    blocks = list(request.all("DataSet", "SchedBlockSet", "SchedBlockIdentifier"))
    if len(blocks) > 1:
        raise BadInput(
            f"{path}:{blocks[1].line}: the request is for several scheduling blocks, and the Pipeline runs one",
            "make a file of each",
        )
    data = tuple(
        _name_on_disk(found, path) for block in blocks for found in block.all("AsdmIdentifier", "AsdmDiskName")
    )
    intents = {intent.said("Keyword"): intent.said("Value") for intent in request.all("ProcessingIntents", "Intents")}
    title = procedure.said("ProcedureTitle") or path.stem
    return Procedure(
        title,
        _commands(procedure, path),
        data,
        blocks[0].said("RelativePath") if blocks else "",
        _sessions(data, intents),
        intents,
        _project(root, title, path),
    )


def _name_on_disk(found: Element, path: Path) -> str:
    name = found.text.strip()
    if not name or name != Path(name).name or name == "..":
        raise BadInput(
            f"{path}:{found.line}: the AsdmDiskName {name[:60]!r} is not the name of a file or folder",
            "name what lies in the request's folder of raw data, without any path",
        )
    return name


def _sessions(data: tuple[str, ...], intents: Mapping[str, str]) -> tuple[str, ...]:
    """For each observation the session that an intent SESSION_1, SESSION_2, … has it in; the first unless said."""
    members: dict[str, list[str]] = {}
    while (key := f"SESSION_{len(members) + 1}") in intents:
        members[key.lower()] = [_as_file_name(name) for name in intents[key].split(" | ")]
    return tuple(
        next((session for session, names in members.items() if _as_file_name(name) in names), "session_1")
        for name in data
    )


def _as_file_name(name: str) -> str:
    """A unique identifier as it is called on disk, without what MSs of it end on."""
    return re.sub(r"(_targets?\.ms|\.ms)+$", "", re.sub("[:/]", "_", name.strip()))


def _project(root: Element, title: str, path: Path) -> dict[str, dict[str, str]]:
    """What the Pipeline's context is told of the project."""
    summary, structure = root.first("ProjectSummary"), root.first("ProjectStructure")
    known: dict[str, dict[str, str]] = {}
    if summary is not None:
        known["ProjectSummary"] = {
            "proposal_code": summary.said("ProposalCode"),
            "observatory": summary.said("Observatory"),
            "telescope": summary.said("Telescope"),
        }
    known["ProjectStructure"] = {"ppr_file": str(path.absolute()), "recipe_name": title}
    if structure is not None:
        told = structure.first("AlmaStructure") or structure
        known["ProjectStructure"] |= {
            "ous_title": told.said("ObsUnitSetTitle"),
            "ous_type": told.said("ObsUnitSetType"),
            **_attributes(told, "ObsUnitSetRef", ous_entity_id="entityId", ous_part_id="partId"),
            **_attributes(told, "ProjectStatusRef", ps_entity_id="entityId"),
            **_attributes(told, "OUSStatusRef", ousstatus_entity_id="entityId"),
        }
    return {record: {name: text for name, text in said.items() if text} for record, said in known.items()}


def _attributes(element: Element, child: str, **names: str) -> dict[str, str]:
    found = element.first(child)
    return {name: found.attributes.get(asked, "") for name, asked in names.items()} if found is not None else {}
