"""What a session leaves in its working folder while it has queue jobs, so that they can be cancelled without it."""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgeline.clusters import certificates
from surgeline.clusters.commands import Commands, in_its_own_words
from surgeline.errors import ClusterError, WorkfolderError
from surgeline.paths import cancel_note, write_text


@dataclass(frozen=True)
class CancelNote:
    """How to take all queue jobs of a session out of the queue of one cluster.

    Attributes:
        folder: where the queue jobs write, and the note lies.
        name: the batch name, the same for all of them.
        cluster: the cluster, as the configuration names it.
        command: what takes them out of the queue.
        host: the machine that the session ran on.
        anywhere: whether the command does the same on every machine that has it.
    """

    folder: Path
    name: str
    cluster: str
    command: tuple[str, ...]
    host: str
    anywhere: bool

    def cancel(self, environment: Mapping[str, str] = os.environ) -> None:
        """Take the queue jobs out of the queue, and forget them.

        Raises:
            ClusterError: the scheduler does not answer, or is to be asked from another machine.
            WorkfolderError: the note is of another user, whose commands are not ours to run.
        """
        by_hand = " ".join(self.command)
        owner = cancel_note(self.folder).stat().st_uid
        if owner != os.geteuid():
            raise WorkfolderError(
                f"queue jobs {self.name} on cluster {self.cluster!r} are of a session of {_user(owner)}",
                f"have {_user(owner)} run `surgeline cancel`",
            )
        if not self.anywhere and self.host != socket.gethostname():
            raise ClusterError(
                f"queue jobs {self.name} on cluster {self.cluster!r} were submitted on {self.host}, "
                "and only there they can be cancelled",
                f"run `surgeline cancel` on {self.host}, or: {by_hand}",
            )
        answer = Commands((), environment).run(*self.command)
        if answer.returncode != 0:
            raise ClusterError(
                f"queue jobs {self.name} on cluster {self.cluster!r} could not be cancelled: "
                f"{in_its_own_words(answer)}",
                f"again when the scheduler answers: surgeline cancel; or by hand: {by_hand}",
            )
        self.clear()

    def clear(self) -> None:
        """Remove the note, and what let workers in: nothing is in the queue any more."""
        for name in (*certificates.NAMES, cancel_note(self.folder).name):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def leave(folder: Path, name: str, cluster: str, command: Sequence[str], anywhere: bool) -> CancelNote:
    """Write a note, before the first queue job is submitted; see `CancelNote`."""
    note = CancelNote(folder, name, cluster, tuple(command), socket.gethostname(), anywhere)
    content = {"name": name, "cluster": cluster, "command": command, "host": note.host, "anywhere": anywhere}
    write_text(cancel_note(folder), json.dumps(content, indent=1) + "\n")
    return note


def left_behind(logs: Path) -> list[CancelNote]:
    """The notes that sessions have left in a folder of logs.

    Raises:
        WorkfolderError: one of them cannot be read.
    """
    return [_read(path) for path in sorted(logs.glob(str(cancel_note(Path("*")))))]


def _read(path: Path) -> CancelNote:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return CancelNote(
            path.parent, said["name"], said["cluster"], tuple(said["command"]), said["host"], said["anywhere"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkfolderError(
            f"{path}, which says how to cancel queue jobs, cannot be read: {error}",
            f"cancel those called {path.parent.name} by hand, such as by `scancel --name {path.parent.name}`, "
            "and remove it",
        ) from error


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
