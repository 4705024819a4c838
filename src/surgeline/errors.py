"""What can go wrong, in the user's words: every error names the thing, the cause and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import ClassVar

from surgeline.masking import without_passwords


class SurgelineError(Exception):
    """An error that the user can act on: what happened, and what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, way_out: str = "") -> None:
        # A URL in what a library says may have a password.
        message = without_passwords(message)
        super().__init__(message, way_out)
        self.message = message
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.message}\n  {self.way_out}" if self.way_out else self.message


class BadInput(SurgelineError):
    """The command line, or an argument of a function, asks for what cannot be."""

    exit_code = 2


class ConfigError(SurgelineError):
    """A configuration file, an environment variable or `--set` is wrong."""

    exit_code = 3


class RecipeError(SurgelineError):
    """A recipe is wrong."""

    exit_code = 4


class DataError(SurgelineError):
    """The observation, or a file that a stage needs, cannot be used."""

    exit_code = 5


class WorkfolderError(SurgelineError):
    """The working folder cannot be written, is full, or belongs to another session."""

    exit_code = 6


class JobFailed(SurgelineError):
    """A job, and so its stage, failed."""

    exit_code = 7


class ClusterError(SurgelineError):
    """The workers could not be started, or were lost for good."""

    exit_code = 8


class SchedulerSilent(ClusterError):
    """A workload manager does not answer, or has no time to: it may grant later what was asked of it."""


class ContextError(SurgelineError):
    """The context's database cannot be reached, is of a newer version, or has not what was asked for."""

    exit_code = 9


class ConflictError(ContextError):
    """Two stages that ran at once contradict each other."""


class Interrupted(SurgelineError):
    """The session was told to stop by a signal."""

    exit_code = 130


def _exit_codes() -> Mapping[int, str]:
    kinds = [kind for kind in _below(SurgelineError) if "exit_code" in vars(kind)]
    return {
        0: "Done.",
        **{kind.exit_code: (kind.__doc__ or "").partition("\n")[0] for kind in kinds},
        SurgelineError.exit_code: "Surgeline itself failed; or `doctor` found something to mend.",
        Interrupted.exit_code: "Interrupted (Ctrl-C); what had finished is kept.",
        129: "The terminal was closed (SIGHUP); what had finished is kept.",
        143: "Terminated (SIGTERM, `surgeline cancel`); what had finished is kept.",
    }


def _below(kind: type[SurgelineError]) -> Iterator[type[SurgelineError]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _below(inner)


# With what a command ends, and why: the list that `--help` and the documentation show.
EXIT_CODES = dict(sorted(_exit_codes().items()))


def nearest(name: str, valid: Iterable[str]) -> str:
    """Say which valid names come nearest to a wrong one, or all of them when none is near."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(found) for found in close) + "?"
    return "it may be " + ", ".join(repr(found) for found in names)


def in_words_of_yaml(complaint: str) -> str:
    """What pydantic says of a wrong value, in the words that YAML's users know."""
    complaint = re.sub(r"valid dictionary( or instance of \w+)?", "mapping of keys to values", complaint)
    complaint = complaint.replace("valid tuple", "list").replace("Tuple should", "The list should")
    return complaint.removeprefix("Value error, ").replace(" after validation", "")
