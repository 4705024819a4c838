"""The types of clusters with a queue: those that come with Surgeline, and those that installed packages bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from surgeline.clusters.settings import BatchSettings, SurgeSettings
from surgeline.config import CLUSTER_PLUGINS, cluster_types
from surgeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from surgeline.clusters.batch import WorkloadManager

# Where each of ours is: a module of this folder, and its name there.
_OURS = {
    "slurm": ("slurm", "SLURM"),
    "htcondor": ("htcondor", "HTCONDOR"),
    "kubernetes": ("kubernetes", "KUBERNETES"),
    "prefect": ("workpool", "WORK_POOL"),
}


@dataclass(frozen=True)
class ClusterType:
    """A type of cluster, for the entry points `surgeline.clusters` of a package; their names are those of the types.

    Attributes:
        settings: its keys: a class of `BatchSettings`, or of `CommandSettings`.
        manager: makes what speaks to its workload manager, given the settings of a cluster, and the environment that
            queue jobs inherit; see `surgeline.clusters.batch.WorkloadManager`.
    """

    settings: type[SurgeSettings]
    manager: Callable[[Any, Mapping[str, str]], WorkloadManager]


@cache
def find_cluster_type(name: str) -> ClusterType:
    """Look a type of clusters with a queue up by its name.

    Raises:
        ConfigError: there is none of that name, or the package that brings it is wrong.
    """
    if name in _OURS:
        module, constant = _OURS[name]
        ours: ClusterType = getattr(import_module(f"surgeline.clusters.{module}"), constant)
        return ours
    brought = [found for found in entry_points(group=CLUSTER_PLUGINS) if found.name == name]
    if not brought:
        raise ConfigError(f"no type of cluster is called {name!r}", nearest(name, cluster_types()))
    where = brought[0].value
    try:
        found = brought[0].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"clusters of type {name!r} are {where}, which cannot be imported: {error}",
            "install the package that brings it again",
        ) from error
    if not isinstance(found, ClusterType) or not issubclass(found.settings, BatchSettings):
        raise ConfigError(
            f"clusters of type {name!r} are {where}, which is no ClusterType whose settings are BatchSettings",
            "correct the package that brings it; see docs/how-to/own-cluster.md",
        )
    return found
