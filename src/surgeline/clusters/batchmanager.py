"""What Slurm and HTCondor have in common: both are spoken to by commands, and their jobs write to a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

from surgeline.clusters.batch import Contact, WorkerClass
from surgeline.clusters.commands import Commands, make_folders
from surgeline.clusters.settings import CommandSettings

Own = TypeVar("Own", bound=CommandSettings)


class BatchManager(Generic[Own]):
    """A workload manager that is spoken to by commands.

    Attributes:
        settings: the cluster's.
    """

    def __init__(self, settings: Own, environment: Mapping[str, str] = os.environ) -> None:
        """Prepare.

        Args:
            settings: the cluster's.
            environment: what queue jobs inherit, but for what tells of a job that this process is in.
        """
        self.settings = settings
        self._commands = Commands(settings.command_prefix, environment)

    @staticmethod
    def _output_folder(worker_class: WorkerClass, contact: Contact) -> Path:
        """Where the queue jobs' own output goes."""
        assert isinstance(worker_class.settings, CommandSettings)
        return Path(worker_class.settings.log_directory or contact.folder)

    def _make_folders(self, worker_class: WorkerClass, contact: Contact) -> None:
        """Make the folders that queue jobs start in and write to.

        Raises:
            ClusterError: one cannot be made.
        """
        make_folders(contact.folder, self._output_folder(worker_class, contact))
