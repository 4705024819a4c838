"""The settings that several types of clusters have, whose workers come and go; config.yaml explains them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from surgeline.work.resources import Resources, parse_bytes, parse_walltime


@dataclass(frozen=True)
class Capabilities:
    """What a cluster can give.

    Attributes:
        shared_filesystem: its workers see the session's files.
        gpus: it can give workers with GPUs.
        several_classes: its workers may differ from each other.
        walltime: it ends workers after a time that was agreed.
    """

    shared_filesystem: bool
    gpus: bool
    several_classes: bool
    walltime: bool


def _seconds(duration: Any) -> Any:
    """Seconds, of what `parse_walltime` knows and of what Slurm writes besides: 1-12, 1-12:00:00, 30:00."""
    if isinstance(duration, str):
        text = duration.strip()
        if match := re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?", text):
            days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if match := re.fullmatch(r"(?:(\d+):)?(\d+):(\d+)", text):
            hours, minutes, seconds = (int(part or 0) for part in match.groups())
            return (hours * 60 + minutes) * 60 + seconds
    return parse_walltime(duration)


def _words(text: Any) -> Any:
    """A command as its words, whether it was written as one text or as a list."""
    return shlex.split(text) if isinstance(text, str) else text


Bytes = Annotated[PositiveInt, BeforeValidator(parse_bytes)]
Seconds = Annotated[PositiveInt, BeforeValidator(_seconds)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class SurgeSettings(BaseModel):
    """What all clusters have in common whose workers are asked for when jobs need them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    # What holds for the whole cluster, and so cannot be said of a worker class.
    of_cluster: ClassVar[frozenset[str]] = frozenset(
        {"type", "name", "poll", "queue_deadline", "otherwise", "idle_seconds", "core_hours", "shared_filesystem"}
        | {"data", "data_options", "data_cache", "data_reachable", "workers"}
    )

    type: str
    maximum: PositiveInt = 16
    minimum: NonNegativeInt = 0
    cores: PositiveInt = 1
    memory: Bytes = 4 * 10**9
    gpus: NonNegativeInt = 0
    python: str | None = None
    worker_extra_args: tuple[str, ...] = ()
    death_timeout: Seconds = 60

    name: str = Field(default="surgeline", pattern=r"^[A-Za-z0-9_.-]+$")
    poll: PositiveFloat = 5
    queue_deadline: Seconds | None = None
    otherwise: str | None = None
    idle_seconds: NonNegativeFloat = 30
    core_hours: PositiveFloat | None = None
    shared_filesystem: bool = True
    data: str | None = None
    data_options: Mapping[str, Any] = Field(default_factory=dict)
    data_cache: Bytes | None = None
    data_reachable: tuple[str, ...] = ()
    workers: Mapping[str, SurgeSettings] = Field(default_factory=dict)

    @field_validator("*")
    @classmethod
    def _on_one_line(cls, said: Any, known: ValidationInfo) -> Any:
        # In the texts of queue jobs a line break would begin another directive; half a character cannot be written.
        directives = known.field_name == "job_extra_directives" and isinstance(said, Mapping)
        texts = (*said, *said.values()) if directives else said if isinstance(said, tuple) else (said,)
        if known.field_name != "job_script_prologue":
            for text in texts:
                if isinstance(text, str) and re.search("[\n\r\x00\ud800-\udfff]", text):
                    raise ValueError("write it on one line, as text")
        return said

    @field_validator("minimum")
    @classmethod
    def _not_above_the_maximum(cls, minimum: int, known: ValidationInfo) -> int:
        maximum = known.data.get("maximum")
        if maximum is not None and minimum > maximum:
            raise ValueError(f"the minimum is above the maximum, which is {maximum}")
        return minimum

    @field_validator("data")
    @classmethod
    def _not_beside_a_shared_folder(cls, data: str | None, known: ValidationInfo) -> str | None:
        if data is not None and known.data.get("shared_filesystem"):
            raise ValueError("files go that way to workers that do not share them: write shared_filesystem: false")
        return data

    @property
    def reachable(self) -> tuple[str, ...]:
        """Folders that workers have under the same path as the session, though they do not share its own."""
        return self.data_reachable

    @property
    def offers(self) -> Resources:
        """What one worker gives to a job."""
        return Resources(cores=self.cores, memory=self.memory, gpus=self.gpus)

    @property
    def capabilities(self) -> Capabilities:
        """What the cluster can give."""
        return Capabilities(self.shared_filesystem, gpus=True, several_classes=True, walltime=False)

    @property
    def of_any_machine(self) -> bool:
        """Whether what is in its queue can be cancelled from every machine, by the same command."""
        return False

    @property
    def interpreter(self) -> str:
        """The Python of the workers."""
        return self.python or "python3"

    def of_size(self, size: Resources) -> Self:
        """The same settings for workers of another size."""
        return self.model_copy(update={"cores": size.cores, "memory": size.memory, "gpus": size.gpus})

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, Any]:
        """Values for which the job that this process is in stands as the default."""
        return {}


class BatchSettings(SurgeSettings):
    """What clusters have besides whose workers come to a scheduler in the session."""

    of_cluster: ClassVar[frozenset[str]] = SurgeSettings.of_cluster | {"host", "interface", "port", "tls"}

    host: str | None = None
    interface: str | None = None
    port: NonNegativeInt = 0
    tls: bool = True
    workers: Mapping[str, BatchSettings] = Field(default_factory=dict)


class CommandSettings(BatchSettings):
    """What clusters have besides whose manager is spoken to by commands, and given jobs of a shell."""

    of_cluster: ClassVar[frozenset[str]] = BatchSettings.of_cluster | {"processes", "command_prefix"}

    walltime: Seconds | None = None
    container: Words = ()
    local_directory: str | None = None
    log_directory: str | None = None
    job_script_prologue: tuple[str, ...] = ()
    job_directives_skip: tuple[str, ...] = ()

    processes: PositiveInt = 1
    command_prefix: Words = ()
    workers: Mapping[str, CommandSettings] = Field(default_factory=dict)

    @field_validator("processes")
    @classmethod
    def _one_process(cls, processes: int, known: ValidationInfo) -> int:
        if processes > 1:
            cores, memory = known.data.get("cores", 1), known.data.get("memory", 0)
            raise ValueError(
                "a queue job runs one worker, so that a job of the session is ended, and told of, alone; "
                f"for workers of the size of these write cores: {max(1, cores // processes)}, "
                f"memory: {memory // processes} and no processes"
            )
        return processes

    @field_validator("log_directory", "local_directory")
    @classmethod
    def _absolute(cls, path: str | None, known: ValidationInfo) -> str | None:
        # Where a queue job runs, its own variables are known: $TMPDIR.
        if path is None or (known.field_name == "local_directory" and path.startswith("$")):
            return path
        expanded = Path(path).expanduser()
        if not expanded.is_absolute():
            raise ValueError("write the whole path, from / on: a queue job starts elsewhere")
        return str(expanded)

    @property
    def offers(self) -> Resources:
        """What one worker gives to a job, and for how long."""
        return super().offers.model_copy(update={"walltime": self.walltime})

    @property
    def capabilities(self) -> Capabilities:
        """What the cluster can give."""
        return Capabilities(self.shared_filesystem, gpus=True, several_classes=True, walltime=True)

    @property
    def of_any_machine(self) -> bool:
        """Whether what is in its queue can be cancelled from every machine: HTCondor's queue is that of a machine."""
        return self.type == "slurm" or bool(self.command_prefix)

    @property
    def interpreter(self) -> str:
        """The Python of the workers."""
        return self.python or ("python3" if self.container else sys.executable)

    def of_size(self, size: Resources) -> Self:
        """The same settings for queue jobs of another size."""
        return super().of_size(size).model_copy(update={"walltime": size.walltime})
