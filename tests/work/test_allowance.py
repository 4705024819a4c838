from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from socket import gethostname

import pytest

from surgeline.work.allowance import Allowance, allowance

MIB = 2**20
GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores, on 12 of which this process may run."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What such a machine of 32 GiB has for `/`."""
    return write(tmp_path, {"proc/meminfo": "MemTotal:       33554432 kB\nMemFree: 1 kB\n"})


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


VERSION_2 = {
    "proc/self/cgroup": "0::/slurm/job_1/step_0\n",
    "sys/fs/cgroup/slurm/job_1/cpu.max": "450000 100000\n",
    "sys/fs/cgroup/slurm/job_1/memory.max": f"{8 * GIB}\n",
    "sys/fs/cgroup/slurm/job_1/step_0/cpu.max": "max 100000\n",
    "sys/fs/cgroup/slurm/job_1/step_0/memory.max": "max\n",
}
VERSION_1 = {
    "proc/self/cgroup": "4:memory:/condor/slot1\n2:cpu,cpuacct:/condor/slot1\n1:name=systemd:/\n0::/\n",
    "sys/fs/cgroup/cpu/condor/slot1/cpu.cfs_quota_us": "300000\n",
    "sys/fs/cgroup/cpu/condor/slot1/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/condor/slot1/memory.limit_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
}
POD = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/cpu.max": "200000 100000\n",
    "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
    "sys/fs/cgroup/memory.high": f"{GIB}\n",
}


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [(VERSION_2, 4, 8 * GIB), (VERSION_1, 3, 4 * GIB), (POD, 2, GIB)],
    ids=["version 2, of the job", "version 1", "version 2, in a pod"],
)
def test_the_least_of_all_control_groups_is_what_may_be_used(
    root: Path, files: dict[str, str], cores: int, memory: int
) -> None:
    found = allowance({}, write(root, files))
    assert (found.cores, found.memory, found.scheduler) == (cores, memory, None)
    assert str(found) == (f"{cores} cores by its control group, {memory / 1e9:.1f} GB by its control group")


def test_where_nothing_is_limited_all_of_the_machine_may_be_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(allowance({}, root)) == "12 cores by CPU affinity, 34.4 GB by the machine"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert str(allowance({}, root)) == "16 cores by the machine, 34.4 GB by the machine"


def test_memory_that_nobody_tells_is_not_made_up(tmp_path: Path) -> None:
    found = allowance({}, tmp_path)
    assert found.memory is None
    assert str(found) == "12 cores by CPU affinity, memory unknown"


def test_a_process_that_may_have_less_than_a_core_has_one(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert str(allowance({}, root)).startswith("1 core by its control group,")


# What Slurm 22.05 sets in the batch script of `-N 1 -n 2 -c 2 --mem-per-cpu=300`, and in a step of its two tasks.
BATCH = {
    "SLURM_JOB_ID": "1",
    "SLURM_CPUS_ON_NODE": "4",
    "SLURM_CPUS_PER_TASK": "2",
    "SLURM_JOB_CPUS_PER_NODE": "4",
    "SLURM_MEM_PER_CPU": "300",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("variables", "cores", "cores_by", "memory", "memory_by"),
    [
        (BATCH, 4, "SLURM_CPUS_ON_NODE", 1200 * MIB, "SLURM_MEM_PER_CPU"),
        (STEP, 2, "SLURM_CPUS_PER_TASK", 600 * MIB, "SLURM_MEM_PER_CPU"),
        # One task alone has all of the step.
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, 4, "SLURM_CPUS_ON_NODE", 1200 * MIB, "SLURM_MEM_PER_CPU"),
        (
            {"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_NODE": "2048"},
            *(8, "SLURM_CPUS_ON_NODE", 2 * GIB, "SLURM_MEM_PER_NODE"),
        ),
        # --mem=0 is all that the node has; a node that was given whole may have more cores than this process.
        (
            {"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "64", "SLURM_MEM_PER_NODE": "0"},
            *(12, "CPU affinity", 32 * GIB, "the machine"),
        ),
        (
            {
                "SLURM_JOB_ID": "1",
                "SLURM_CPUS_PER_TASK": "6",
                "SLURM_MEM_PER_GPU": "4096",
                "SLURM_GPUS_ON_NODE": "2",
            },
            *(6, "SLURM_CPUS_PER_TASK", 8 * GIB, "SLURM_MEM_PER_GPU"),
        ),
    ],
)
def test_slurm_says_what_a_job_has_on_this_node(
    root: Path, variables: dict[str, str], cores: int, cores_by: str, memory: int, memory_by: str
) -> None:
    assert allowance(variables, root) == Allowance(cores, memory, "Slurm", cores_by, memory_by)


def test_htcondor_says_it_in_the_ad_of_the_slot(root: Path) -> None:
    ad = 'Name = "slot1_2@node"\nTotalCpus = 64\nCpus = 3\nDetectedMemory = 90000\nMemory = 2048\nRequestMemory = 1\n'
    variables = {"_CONDOR_SLOT": "slot1_2", "_CONDOR_MACHINE_AD": str(root / ".machine.ad")}
    write(root, {".machine.ad": ad})
    assert allowance(variables, root) == Allowance(
        3, 2 * GIB, "HTCondor", "the slot's machine ad", "the slot's machine ad"
    )
    assert str(allowance(variables, root)) == (
        "3 cores by the slot's machine ad, 2.1 GB by the slot's machine ad, in a job of HTCondor"
    )
    # A job that finds no ad is held by what HTCondor binds it to.
    (root / ".machine.ad").unlink()
    assert allowance(variables, root).cores == 12


@pytest.mark.parametrize(
    ("variables", "scheduler", "cores", "by"),
    [
        ({"PBS_JOBID": "12.server", "NCPUS": "4"}, "PBS", 4, "NCPUS"),
        ({"PBS_JOBID": "12.server", "PBS_NUM_PPN": "8"}, "PBS", 8, "PBS_NUM_PPN"),
        ({"LSB_JOBID": "12", "LSB_DJOB_NUMPROC": "6"}, "LSF", 6, "LSB_DJOB_NUMPROC"),
        (
            {"LSB_JOBID": "12", "LSB_DJOB_NUMPROC": "6", "LSB_MCPU_HOSTS": f"other 4 {gethostname()} 2"},
            *("LSF", 2, "LSB_MCPU_HOSTS"),
        ),
        ({"JOB_ID": "12", "SGE_TASK_ID": "undefined", "NSLOTS": "5"}, "SGE", 5, "NSLOTS"),
    ],
)
def test_other_schedulers_say_how_many_cores_a_job_has(
    root: Path, variables: dict[str, str], scheduler: str, cores: int, by: str
) -> None:
    assert allowance(variables, root) == Allowance(cores, 32 * GIB, scheduler, by, "the machine")


def test_outside_of_a_job_such_variables_mean_nothing(root: Path) -> None:
    variables = {"NSLOTS": "1", "NCPUS": "1", "SLURM_CPUS_PER_TASK": "1", "SLURM_MEM_PER_NODE": "1"}
    assert allowance(variables, root).cores == 12


def test_what_is_no_number_limits_nothing(root: Path) -> None:
    assert allowance({"PBS_JOBID": "1", "NCPUS": "many"}, root).cores_by == "CPU affinity"


def test_the_narrower_of_scheduler_and_control_group_holds(root: Path) -> None:
    write(root, VERSION_2)
    assert str(allowance({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "3"}, root)) == (
        "3 cores by SLURM_CPUS_ON_NODE, 8.6 GB by its control group, in a job of Slurm"
    )
    assert allowance({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "5"}, root).cores_by == "its control group"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity cannot be set here")
def test_a_process_bound_to_one_core_may_use_one() -> None:
    code = (
        "import os; from surgeline.work.allowance import allowance\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(allowance().cores)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "1\n"
