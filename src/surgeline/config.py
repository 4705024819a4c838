"""The configuration: workdir/config.yaml → ~/.casa/config.yaml → the packaged config.yaml.

Each value is known with its origin (file and line, environment variable, or `--set`).
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from surgeline import yamltext
from surgeline.errors import ConfigError, in_words_of_yaml, nearest
from surgeline.masking import masked

PACKAGED = Path(__file__).with_name("config.yaml")
ENVIRONMENT_PREFIX = "SURGELINE__"
Key = tuple[str, ...]
# The types of clusters that come with Surgeline; and the entry points by which packages bring others.
_CLUSTER_TYPES = ("local", "slurm", "htcondor", "kubernetes", "prefect")
CLUSTER_PLUGINS = "surgeline.clusters"

# Keys of a CASA Pipeline's `pipeconfig: dask:` and what they are here; None: known, and not needed here.
_PIPELINE_DASK_KEYS: dict[str, Key | None] = {
    "host": ("dask", "host"),
    "dashboard_address": ("dask", "dashboard_address"),
    "n_workers": ("dask", "n_workers"),
    "clustertype": ("dask", "cluster"),
    "autostart": None,
    "tier0futures": None,
    "jobqueue": None,
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DaskSettings(_Section):
    """The Dask layer."""

    cluster: str = "local"
    n_workers: PositiveInt | Literal["auto"] = "auto"
    host: str | None = "127.0.0.1"
    dashboard_address: str | None = None
    start_timeout: PositiveFloat = 120
    retries: NonNegativeInt = 2


class MpiSettings(_Section):
    """MPI sessions: the one that this process is the client of, and nested ones."""

    mpirun: str | None = None
    servers: PositiveInt | Literal["auto"] = "auto"
    dask_beside: bool = False
    start_timeout: PositiveFloat = 120
    server_timeout: PositiveFloat = 60
    retries: NonNegativeInt = 2
    restarts: NonNegativeInt = 2
    idle_seconds: NonNegativeFloat = 60


class ClusterSettings(BaseModel):
    """One named cluster; keys beyond `type` and `n_workers` belong to its type."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str
    n_workers: PositiveInt | Literal["auto"] | None = None

    @property
    def has_queue(self) -> bool:
        """Whether its workers are asked of a workload manager, rather than started on this machine."""
        return self.type != "local"


class WorkerSettings(_Section):
    """What each worker process may use."""

    threads: PositiveInt = 1
    memory: PositiveInt | str | None = "auto"
    standstill_limit: PositiveFloat = 300


class SessionSettings(_Section):
    """What a session does besides its recipe."""

    weblog: bool = True
    lock_timeout: PositiveFloat = 10
    keep_states: Literal["all", "running"] = "all"
    private: bool = True


class ContextSettings(_Section):
    """Where what a session knows is kept."""

    url: str | None = None
    patience: NonNegativeFloat = 600


class PrefectSettings(_Section):
    """Sessions that Prefect orchestrates."""

    jobs_as_tasks: NonNegativeInt = 0
    start_timeout: PositiveFloat = 120


class PipelineTaskSettings(_Section):
    """Where a task of the CASA Pipeline has its jobs run, and what each needs; as a recipe says it of a stage."""

    cluster: str | None = None
    backend: Literal["dask", "mpi", "serial"] | None = None
    resources: dict[str, Any] = Field(default_factory=dict)


class CasaPipelineSettings(_Section):
    """Procedures of the CASA Pipeline."""

    tasks: dict[str, PipelineTaskSettings] = Field(default_factory=dict)


class Settings(_Section):
    """The whole configuration, validated."""

    orchestrator: Literal["session", "prefect"] = "session"
    backend: Literal["auto", "dask", "mpi", "serial"] = "auto"
    dask: DaskSettings = Field(default_factory=DaskSettings)
    mpi: MpiSettings = Field(default_factory=MpiSettings)
    clusters: dict[str, ClusterSettings] = Field(default_factory=dict)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    session: SessionSettings = Field(default_factory=SessionSettings)
    context: ContextSettings = Field(default_factory=ContextSettings)
    prefect: PrefectSettings = Field(default_factory=PrefectSettings)
    casa_pipeline: CasaPipelineSettings = Field(default_factory=CasaPipelineSettings)
    casaconfig: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """One value of the configuration and where it came from."""

    key: Key
    value: Any
    origin: str


@dataclass(frozen=True)
class Configuration:
    """The validated settings and the origin of each value; `ignored` are known keys that mean nothing here."""

    settings: Settings
    values: tuple[Value, ...]
    ignored: tuple[Value, ...] = ()


def _is_there(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        ConfigError: nobody may look.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be looked for: {error.strerror}", "have its owner let you, or name another folder"
        ) from error


def load(
    workdir: Path | None = None,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> Configuration:
    """Read and merge every layer of the configuration.

    Args:
        workdir: the session's working folder, whose `config.yaml` wins over the user's.
        overrides: texts such as `dask.n_workers=4`, as given to `--set`.
        environment: the process's environment unless given.
        home: the user's home folder unless given.

    Raises:
        ConfigError: naming the file, the line and the nearest valid key.
    """
    environment = os.environ if environment is None else environment
    home = Path.home() if home is None else home
    files = [PACKAGED, home / ".casa" / "config.yaml"]
    if workdir is not None:
        files.append(workdir / "config.yaml")
    merged: dict[Key, Value] = {}
    ignored: list[Value] = []
    for path in files:
        if _is_there(path):
            for value in _translated(_read(path), ignored):
                _put(merged, value)
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = tuple(part.lower() for part in name[len(ENVIRONMENT_PREFIX) :].split("__"))
            for value in _spread(Value(key, _parsed(environment[name], name), f"environment {name}")):
                _put(merged, value)
    for text in overrides:
        name, equals, value_text = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {text!r} is not KEY=VALUE", "write it as --set dask.n_workers=4")
        key = tuple(name.strip().split("."))
        parsed = _parsed(value_text, f"--set {name}")
        shown = masked(parsed, *key)
        origin = f"--set {text}" if shown == parsed else f"--set {name}={shown}"
        for value in _spread(Value(key, parsed, origin)):
            _put(merged, value)
    settings = _validated(merged)
    return Configuration(settings, tuple(sorted(merged.values(), key=lambda value: value.key)), tuple(ignored))


def _put(merged: dict[Key, Value], value: Value) -> None:
    """Lay a value over what farther layers said of its key, of parts of it, and of what holds it."""
    for key in [key for key in merged if key[: len(value.key)] == value.key or value.key[: len(key)] == key]:
        # A section with nothing in it says nothing about the keys under it, so it overrides none of them.
        if not (len(key) > len(value.key) and value.value in (None, {})):
            del merged[key]
    if value.value in (None, {}) and any(key[: len(value.key)] == value.key for key in merged):
        return
    merged[value.key] = value


def _spread(value: Value) -> Iterable[Value]:
    """What a mapping such as `{n_workers: 4}` says, key by key."""
    if isinstance(value.value, dict) and value.value:
        for name, part in value.value.items():
            yield from _spread(Value((*value.key, str(name)), part, value.origin))
    else:
        yield value


def _parsed(text: str, name: str) -> Any:
    try:
        return yamltext.load(text)
    except (yaml.YAMLError, ValueError) as error:
        # What is a key in it, and what a value, nobody can say.
        shown = masked(text, *re.findall(r"[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*", f"{name} {text}"))
        raise ConfigError(f"the value of {name} is not YAML: {shown!r}", "put quotes around it") from error


def _read(path: Path) -> list[Value]:
    """All leaves of one YAML file, each with its line."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yamltext.compose(text)
        leaves = list(_leaves(root, (), path, yaml.SafeLoader(text))) if isinstance(root, yaml.MappingNode) else []
    # What is no text, or a date that there is not, is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"{path} is not YAML: {error}", "correct it, or start anew: surgeline config init"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "make it readable, or remove it") from error
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} is not a mapping of keys to values", "see `surgeline config init`")
    return leaves


def _leaves(node: yaml.Node, key: Key, path: Path, loader: yaml.SafeLoader) -> Iterable[Value]:
    if isinstance(node, yaml.MappingNode) and node.value:
        for name, child in node.value:
            yield from _leaves(child, (*key, str(loader.construct_object(name))), path, loader)
    else:
        line = node.start_mark.line + 1
        yield Value(key, loader.construct_object(node, deep=True), f"{path}:{line}")


def _translated(values: list[Value], ignored: list[Value]) -> Iterable[Value]:
    """Turn a CASA Pipeline's `pipeconfig` into this configuration's own keys; pass on all else."""
    starts: list[Value] = []
    for value in values:
        if value.key[:1] != ("pipeconfig",):
            yield value
        elif value.key[1:3] == ("dask", "jobqueue") and len(value.key) > 4:
            cluster = value.key[3]
            if cluster in _CLUSTER_TYPES:
                yield Value(("clusters", cluster, "type"), cluster, value.origin)
                yield Value(("clusters", *value.key[3:]), value.value, value.origin)
            else:
                ignored.append(value)
        elif value.key[1:2] == ("dask",) and len(value.key) == 3:
            target = _PIPELINE_DASK_KEYS.get(value.key[2])
            if target is not None and value.value is not None:
                yield Value(target, value.value, value.origin)
                if value.key[2] == "clustertype":
                    yield Value(("clusters", str(value.value), "type"), value.value, value.origin)
            elif value.key[2] in ("autostart", "tier0futures"):
                starts.append(value)
            else:
                if value.key[2] not in _PIPELINE_DASK_KEYS:
                    raise ConfigError(
                        f"{value.origin}: pipeconfig.dask has no key {value.key[2]!r}",
                        nearest(value.key[2], _PIPELINE_DASK_KEYS),
                    )
                ignored.append(value)
        else:
            ignored.append(value)
    if starts:
        # Both have to be on for that pipeline to send its jobs to Dask.
        refused = next((value for value in starts if not value.value), None)
        asked = refused or starts[0]
        yield Value(("backend",), "serial" if refused else "dask", asked.origin)


def _validated(merged: dict[Key, Value]) -> Settings:
    tree: dict[str, Any] = {}
    for key, value in merged.items():
        branch = tree
        for part in key[:-1]:
            branch = branch.setdefault(part, {})
        branch[key[-1]] = value.value
    _check_casaconfig(merged)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise explained(error, merged.values(), Settings) from error
    for name, cluster in settings.clusters.items():
        # Packages are looked for only where it takes them.
        if cluster.type not in _CLUSTER_TYPES and cluster.type not in cluster_types():
            origin = merged[("clusters", name, "type")].origin
            raise ConfigError(
                f"{origin}: clusters.{name}.type is {cluster.type!r}, and there is no such type of cluster",
                f"{nearest(cluster.type, cluster_types())} (a package may bring others: install it)",
            )
    if settings.dask.cluster not in settings.clusters:
        origin = merged[("dask", "cluster")].origin
        raise ConfigError(
            f"{origin}: dask.cluster is {settings.dask.cluster!r}, and there is no such cluster",
            f"{nearest(settings.dask.cluster, settings.clusters)} (named clusters are made under `clusters:`)",
        )
    return settings


def cluster_types() -> tuple[str, ...]:
    """The types that a cluster may have: those that come with Surgeline, and those that installed packages bring."""
    return (*_CLUSTER_TYPES, *(found.name for found in entry_points(group=CLUSTER_PLUGINS)))


def explained(
    error: ValidationError, values: Collection[Value], model: type[BaseModel], within: Key = ()
) -> ConfigError:
    """Say the first of pydantic's complaints as origin, key, cause and way out.

    Args:
        error: the complaints.
        values: what was validated, each with its origin.
        model: what it was validated as.
        within: the section of the configuration that the model describes.
    """
    first = error.errors()[0]
    key = (*within, *(str(part) for part in first["loc"]))
    # A union's branch names come last in the location and are no keys of the file.
    while (origin := _origin(key, values)) is None and key:
        key = key[:-1]
    name = ".".join(key)
    if first["type"] == "extra_forbidden":
        valid = _keys_of(key[len(within) : -1], model)
        return ConfigError(f"{origin}: unknown key {name!r}", nearest(key[-1], valid))
    if first["type"] == "missing":
        missing = ".".join((*within, *(str(part) for part in first["loc"])))
        return ConfigError(f"{origin}: {missing} is missing", "add it")
    reasons = dict.fromkeys(
        in_words_of_yaml(part["msg"])
        for part in error.errors()
        if (*within, *map(str, part["loc"]))[: len(key)] == key
    )
    shown = masked(first["input"], *key)
    return ConfigError(f"{origin}: {name} = {shown!r}: " + "; or ".join(reasons), "correct the value")


def _origin(key: Key, values: Collection[Value]) -> str | None:
    return next((value.origin for value in values if value.key[: len(key)] == key), None)


def _keys_of(section: Key, model: type[BaseModel]) -> list[str]:
    annotation: Any = model
    for part in section:
        # A mapping's keys are names that the user gave; what it maps to is what describes them.
        annotation = get_args(annotation)[1] if get_args(annotation) else annotation.model_fields[part].annotation
    return list(annotation.model_fields)


def _check_casaconfig(merged: dict[Key, Value]) -> None:
    given = [value for key, value in merged.items() if key[0] == "casaconfig" and len(key) > 1]
    if not given:
        return
    valid = _casaconfig_keys()
    for value in given:
        if value.key[1] not in valid:
            raise ConfigError(f"{value.origin}: casaconfig has no key {value.key[1]!r}", nearest(value.key[1], valid))


def _casaconfig_keys() -> set[str]:
    """The keys that the installed casaconfig knows, read from its source: importing it would start CASA's own
    configuration before this one is known."""
    found = find_spec("casaconfig")
    assert found is not None and found.submodule_search_locations
    defaults = Path(found.submodule_search_locations[0]) / "private" / "config_defaults_static.py"
    tree = ast.parse(defaults.read_text(encoding="utf-8"))
    return {
        target.id
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and not target.id.startswith("_")
    }


def commented_template() -> str:
    """A configuration file with every key and its explanation, all commented out."""
    lines = PACKAGED.read_text(encoding="utf-8").splitlines()
    return "\n".join(line if line.startswith("#") or not line else f"# {line}" for line in lines) + "\n"
