"""Absolute paths in what a job is given and gives, where the job finds its files under other names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from glob import has_magic
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from surgeline.work.jobs import Declaration, FunctionCall, Job, JobRequest, PipelineTask

# Where in the folder of a job those files are whose paths are not relative to the session's.
_ELSEWHERE = "elsewhere"
AnyJob = TypeVar("AnyJob", bound=Job)


class Renaming:
    """The absolute paths that a job declares, and their names in the job's folder.

    Files of the same folder keep being neighbours. Relative paths are the same everywhere.
    """

    def __init__(self, paths: Iterable[str], reachable: Iterable[str] = ()) -> None:
        """Find names.

        Args:
            paths: that are declared; patterns, too.
            reachable: folders that workers have under the same path: what is in them keeps its own.
        """
        names = {}
        for path in paths:
            if _is_outside(path) and not any(Path(path).is_relative_to(folder) for folder in reachable):
                stem = _before_magic(path)
                beside, _, last = stem.rpartition("/")
                names[stem] = f"{_ELSEWHERE}/{blake2b(beside.encode(), digest_size=5).hexdigest()}/{last}"
        # Of two that begin alike, the longer is the one that is meant.
        self._names = dict(sorted(names.items(), key=lambda pair: -len(pair[0])))
        self._originals = {name: path for path, name in self._names.items()}
        self._within = re.compile("|".join(map(re.escape, self._originals)) or r"(?!)")

    def __bool__(self) -> bool:
        return bool(self._names)

    def there(self, path: str) -> str:
        """A path as the job finds it; it may be in what is declared, or beside it and named after it."""
        return _renamed(path, self._names)

    def back(self, path: str) -> str:
        """A path of the job's as it is outside."""
        return _renamed(path, self._originals)

    def home(self, there: str, here: str) -> Callable[[str], str]:
        """What makes of a job's paths those outside: it ran in a folder `there`, and is at home in `here`."""

        def renamed(path: str) -> str:
            if not path.startswith(f"{there}/"):
                return self.back(path)
            return str(Path(here) / self.back(path.removeprefix(f"{there}/")))

        return renamed

    def text_home(self, text: str, there: str, here: str) -> str:
        """The same for the paths in a text, such as a line of a log."""
        text = text.replace(f"{there}/{_ELSEWHERE}/", f"{_ELSEWHERE}/").replace(f"{there}/", f"{here}/")
        return self._within.sub(lambda found: self._originals[found[0]], text)

    def job(self, job: AnyJob) -> AnyJob:
        """The job as it runs where files have other names."""
        if not self:
            return job
        renamed = copy(job)
        if isinstance(renamed, FunctionCall):
            _set(renamed, arguments=in_value(renamed.arguments, self.there))
            _set(renamed, keywords=in_value(renamed.keywords, self.there))
        elif isinstance(renamed, JobRequest | PipelineTask):
            _set(renamed, arguments=in_value(renamed.arguments, self.there))
        declared = job.declared
        return renamed.declare(
            reads=map(self.there, declared.reads),
            writes=map(self.there, declared.writes),
            changes=map(self.there, declared.changes),
            keeps=map(self.there, declared.keeps),
            selects={self.there(path): selection for path, selection in declared.selects.items()},
        )


def declared_paths(declared: Declaration) -> tuple[str, ...]:
    """All paths and patterns that a job declares."""
    return (*declared.reads, *declared.changes, *declared.writes, *declared.keeps)


def in_value(value: Any, rename: Callable[[str], str]) -> Any:
    """A value with its paths renamed: texts and paths, by themselves and in lists, tuples, sets, mappings' values and
    dataclasses."""
    if isinstance(value, str):
        return rename(value) if type(value) is str else value
    if isinstance(value, Path):
        return Path(rename(str(value)))
    if isinstance(value, list | set | frozenset):
        return type(value)(in_value(item, rename) for item in value)
    if isinstance(value, tuple):
        items = [in_value(item, rename) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, Mapping):
        return {key: in_value(item, rename) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        renamed = copy(value)
        _set(renamed, **{part.name: in_value(getattr(value, part.name), rename) for part in fields(value)})
        return renamed
    return value


def _is_outside(path: str) -> bool:
    return Path(path).is_absolute() or os.path.normpath(path).split("/")[0] == ".."


def _renamed(path: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if path == old or path.startswith((f"{old}/", f"{old}.")):
            return new + path[len(old) :]
    return path


def _before_magic(path: str) -> str:
    """What a path or pattern begins with up to where a name ends: `/data/a` of `/data/a.*`, `/data` of `/data/a*`."""
    if not has_magic(path):
        return path.rstrip("/")
    stem = re.split(r"[*?[]", path, maxsplit=1)[0]
    return stem[: max(stem.rfind("/"), stem.rfind("."))]


def _set(target: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(target, name, value)
