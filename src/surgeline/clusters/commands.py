"""Running a workload manager's commands."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from surgeline.errors import ClusterError, SchedulerSilent

# A command that has not answered after so many seconds will not.
_SECONDS = 30.0


class Commands:
    """A workload manager's commands, run where its settings say, as if from outside of any job."""

    def __init__(self, prefix: Sequence[str], environment: Mapping[str, str]) -> None:
        """Prepare.

        Args:
            prefix: what stands before each command, such as `ssh submit.example.org`.
            environment: this process's variables.
        """
        self._prefix = tuple(prefix)
        self._environment = outside_of_jobs(environment)

    def line(self, *command: str) -> list[str]:
        """What is really run for a command."""
        if any(Path(word).name == "ssh" for word in self._prefix):
            # ssh hands the words to a shell, glued together.
            return [*self._prefix, shlex.join(command)]
        return [*self._prefix, *command]

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command, whatever its exit code.

        Args:
            command: its words.
            text: what it reads.

        Raises:
            ClusterError: it is not there, or does not answer.
        """
        line = self.line(*command)
        try:
            return subprocess.run(
                line,
                input=text,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_SECONDS,
                env=self._environment,
                # Ctrl-C is meant for the session: a submission that it cut short would leave jobs that nobody knows.
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ClusterError(
                f"{line[0]} is not there: no such command on the PATH",
                "run the session on a machine that submits jobs, or load the module that has it, or reach such a "
                "machine by the cluster's command_prefix, such as: ssh submit.example.org",
            ) from error
        except OSError as error:
            raise ClusterError(f"{line[0]} cannot be run: {error.strerror}", "see to it, and start again") from error
        except subprocess.TimeoutExpired as error:
            raise SchedulerSilent(
                f"{command[0]} did not answer in {_SECONDS:.0f} s",
                f"see what it says: {shlex.join(line)}",
            ) from error


# What Slurm and HTCondor tell of a job to its processes, and what changes the meaning of their commands. What says
# where they are, and who we are to them, stays.
_OF_A_JOB = re.compile(
    r"(SLURM|SLURMD|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SCANCEL|SINFO)_(?!CONF$|JWT$).*"
    r"|_CONDOR_(ANCESTOR_|Assigned|BIN|CHIRP_|CREDS|JOB_|MACHINE_AD|SCRATCH_DIR|SLOT|WRAPPER_ERROR_FILE).*"
    r"|BATCH_SYSTEM|CUDA_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ROCR_VISIBLE_DEVICES|ZE_AFFINITY_MASK"
)


def outside_of_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of a job that this process is in, which what it submits would take for its own."""
    return {name: value for name, value in environment.items() if not _OF_A_JOB.fullmatch(name)}


def in_its_own_words(answer: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed said, on one line."""
    said = [line.strip() for text in (answer.stderr, answer.stdout) for line in text.splitlines() if line.strip()]
    return " / ".join(dict.fromkeys(said)) or f"exit code {answer.returncode}, and not a word"


def how_it_ended(code: int, number: int) -> str:
    """How a process ended, in words, given its exit code and the number of the signal that killed it, or 0."""
    if not number:
        return f"ended with exit code {code}"
    name = next((f" ({known.name})" for known in signal.Signals if known == number), "")
    return f"killed by signal {number}{name}"


def make_folders(*folders: Path) -> None:
    """Make the folders that queue jobs start in and write to: a workload manager does not.

    Raises:
        ClusterError: one cannot be made.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClusterError(
                f"{folder}, where queue jobs would write, cannot be made: {error.strerror}",
                "make it, or name another as the cluster's log_directory",
            ) from error
