"""How many cores and how much memory this process may use, and what says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

from surgeline.work.environment import cores_here, memory_here, numbers_of_ad, scheduler_here

_MIB = 2**20


@dataclass(frozen=True)
class Allowance:
    """What this process, with its children, may use where it runs.

    Attributes:
        cores: how many cores.
        memory: how many bytes; None where it is not known.
        scheduler: whose job this is; None outside of a job.
        cores_by: what allows no more cores.
        memory_by: what allows no more memory.
    """

    cores: int
    memory: int | None
    scheduler: str | None
    cores_by: str
    memory_by: str

    def __str__(self) -> str:
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''} by {self.cores_by}"
        memory = f"{self.memory / 1e9:.1f} GB by {self.memory_by}" if self.memory else "memory unknown"
        return f"{cores}, {memory}" + (f", in a job of {self.scheduler}" if self.scheduler else "")


def allowance(variables: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Allowance:
    """Find the least of what the machine, CPU affinity, control groups and the job's scheduler allow.

    Schedulers do not all bind and limit what they start, so what they say counts too. Kubernetes does it by control
    groups alone.

    Args:
        variables: the environment variables.
        root: what stands for `/`, where /proc and /sys are.
    """
    found = scheduler_here(variables, root)
    name = found["name"] if found else None
    counted, measured = cores_here(root), memory_here(root)
    cores = [
        (counted["machine"], "the machine"),
        (counted["allowed"], "CPU affinity"),
        (counted["usable"], "its control group"),
    ]
    memory = [(measured["machine"], "the machine"), (measured["limit"], "its control group")]
    if name in _ALLOWED_BY:
        by_cores, by_memory = _ALLOWED_BY[name](variables)
        cores.append(by_cores)
        memory.append(by_memory)
    # Of equal ones the first counts: what a machine has not, no other needs to forbid.
    fewest, cores_by = min(((number, by) for number, by in cores if number), key=lambda limit: limit[0])
    least, memory_by = min(
        ((size, by) for size, by in memory if size), key=lambda limit: limit[0], default=(None, "nothing")
    )
    return Allowance(fewest, least, name, cores_by, memory_by)


# A number of cores or of bytes, None or 0 where nothing is said, and what says it.
_Limit = tuple[int | None, str]
_NOTHING_SAID: _Limit = (None, "nothing")


def _slurm(variables: Mapping[str, str]) -> tuple[_Limit, _Limit]:
    cores = _first(variables, "SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK")
    # Each of the tasks of a step has its part; a batch script, and a step of one task, has all that the job has here.
    if (_number(variables, "SLURM_STEP_NUM_TASKS") or 1) > 1 and _number(variables, "SLURM_CPUS_PER_TASK"):
        cores = _first(variables, "SLURM_CPUS_PER_TASK")
    # In Slurm's megabytes, which are 1024² bytes; 0 is all that the node has.
    for name, times in (
        ("SLURM_MEM_PER_NODE", 1),
        ("SLURM_MEM_PER_CPU", cores[0]),
        ("SLURM_MEM_PER_GPU", _number(variables, "SLURM_GPUS_ON_NODE")),
    ):
        if (size := _number(variables, name)) and times:
            return cores, (size * times * _MIB, name)
    return cores, _NOTHING_SAID


def _htcondor(variables: Mapping[str, str]) -> tuple[_Limit, _Limit]:
    if "_CONDOR_MACHINE_AD" not in variables:
        return _NOTHING_SAID, _NOTHING_SAID
    numbers = numbers_of_ad(Path(variables["_CONDOR_MACHINE_AD"]), "Cpus", "Memory")
    slot = "the slot's machine ad"
    return (numbers.get("Cpus"), slot), (numbers.get("Memory", 0) * _MIB, slot)


def _pbs(variables: Mapping[str, str]) -> tuple[_Limit, _Limit]:
    # The second is Torque's.
    return _first(variables, "NCPUS", "PBS_NUM_PPN"), _NOTHING_SAID


def _lsf(variables: Mapping[str, str]) -> tuple[_Limit, _Limit]:
    # Each host is followed by its number of slots.
    words = variables.get("LSB_MCPU_HOSTS", "").split()
    slots = dict(zip(words[::2], words[1::2], strict=False))
    here = gethostname()
    for host in (here, here.partition(".")[0]):
        if slots.get(host, "").isdecimal():
            return (int(slots[host]), "LSB_MCPU_HOSTS"), _NOTHING_SAID
    return _first(variables, "LSB_DJOB_NUMPROC"), _NOTHING_SAID


def _sge(variables: Mapping[str, str]) -> tuple[_Limit, _Limit]:
    return _first(variables, "NSLOTS"), _NOTHING_SAID


_ALLOWED_BY = {"Slurm": _slurm, "HTCondor": _htcondor, "PBS": _pbs, "LSF": _lsf, "SGE": _sge}


def _first(variables: Mapping[str, str], *names: str) -> _Limit:
    """The number that the first of these variables gives that gives one."""
    return next(((number, name) for name in names if (number := _number(variables, name))), _NOTHING_SAID)


def _number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name, "")
    return int(text) if text.isdecimal() else None
