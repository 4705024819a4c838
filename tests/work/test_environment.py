from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import surgeline
from surgeline.work import environment as module
from surgeline.work.environment import environment, identity, memory_kills

# What mpirun of Open MPI 5.0.11, and mpiexec of MPICH, set for the second of two processes.
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_VERSION": "5.0.11",
    "PMIX_RANK": "1",
    "PMIX_VERSION": "5.0.11rc1",
    "PMIX_SERVER_URI41": "hush",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "11"}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_PARTITION": "long",
    "SLURMD_NODENAME": "node07",
    "SLURM_MPI_TYPE": "pmix",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "3",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def found(root: Path, **variables: str) -> dict[str, Any]:
    """What is found where nothing is but what a test put there."""
    return environment(variables={"PATH": str(root / "bin"), **variables}, root=root)


def here() -> str:
    """The identity of this process's environment, found by another process."""
    code = "from surgeline.work.environment import environment, identity; print(identity(environment()))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_this_machine_is_described() -> None:
    description = environment()
    assert json.loads(json.dumps(description)) == description
    assert description["software"]["surgeline"] == surgeline.__version__
    assert description["software"]["python"] == platform.python_version()
    assert {"casatools", "casatasks", "casadata", "numpy", "dask", "astropy", "SQLAlchemy"} <= set(
        description["software"]
    )
    assert description["machine"]["host"] == platform.node()
    assert description["machine"]["processor"]
    assert 1 <= description["cores"]["usable"] <= description["cores"]["allowed"] <= description["cores"]["machine"]
    assert description["memory"]["machine"] > 10**8


def test_it_is_the_same_on_every_call_and_in_every_process() -> None:
    assert environment() == environment()
    assert identity(environment()) == here()


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from surgeline.work.environment import environment; environment(); "
        "heavy = {'numpy', 'dask', 'distributed', 'astropy', 'casatools', 'mpi4py', 'psutil'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_the_identity_is_that_of_the_content_and_not_of_its_order() -> None:
    assert identity({"a": 1, "b": {"c": None, "d": "é"}}) == identity({"b": {"d": "é", "c": None}, "a": 1})
    assert identity({"a": 1}) != identity({"a": "1"})
    assert identity({"a": 1}).startswith("sha256:")
    assert len(identity({"a": 1})) == len("sha256:") + 64


def test_where_there_is_nothing_little_is_said_and_nothing_fails(tmp_path: Path) -> None:
    description = found(tmp_path)
    assert description["memory"] == {"machine": None, "limit": None}
    assert description["cores"]["limit"] is None
    assert description["gpus"] == {"devices": []}
    assert description["threads"] == {}
    for part in ("container", "mpi", "scheduler"):
        assert description[part] is None


def test_other_environment_variables_are_not_looked_at(tmp_path: Path) -> None:
    variables = {
        **OPEN_MPI,
        **SRUN,
        "AWS_SECRET_ACCESS_KEY": "hush",
        "SURGELINE__DATABASE__URL": "hush",
        "JOB_ID": "hush",
    }
    description = found(tmp_path, **variables)
    assert description["mpi"] and description["scheduler"]
    assert "hush" not in json.dumps(description)


@pytest.mark.parametrize(
    ("cpuinfo", "processor"),
    [
        ("processor\t: 0\nvendor_id\t: X\nmodel name\t: Fast CPU @ 3 GHz\n\nprocessor\t: 1\n", "Fast CPU @ 3 GHz"),
        (
            "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n",
            "CPU implementer 0x41, CPU part 0xd0c",
        ),
        ("processor\t: 0\ncpu\t\t: POWER9, altivec supported\n", "POWER9, altivec supported"),
        ("processor\t: 0\n", None),
    ],
)
def test_processors_of_all_makers_have_a_name(tmp_path: Path, cpuinfo: str, processor: str | None) -> None:
    write(
        tmp_path,
        {"proc/cpuinfo": cpuinfo, "etc/os-release": 'NAME="Rocky"\nPRETTY_NAME="Rocky Linux 9.4"\nID=rocky\n'},
    )
    machine = found(tmp_path)["machine"]
    assert machine["processor"] == processor
    assert machine["operating_system"] == "Rocky Linux 9.4"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity cannot be set here")
def test_a_process_bound_to_one_core_says_so() -> None:
    code = (
        "import os; from surgeline.work.environment import environment\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); cores = environment()['cores']\n"
        "print(cores['allowed'], cores['usable'])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "1 1\n"


LIMITS = {
    "version 2, on the job and its step": (
        {
            "proc/self/cgroup": "0::/slurm/job_1/step_0\n",
            "sys/fs/cgroup/slurm/job_1/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/slurm/job_1/memory.max": "8000000000\n",
            "sys/fs/cgroup/slurm/job_1/step_0/cpu.max": "max 100000\n",
            "sys/fs/cgroup/slurm/job_1/step_0/memory.max": "4000000000\n",
        },
        0.5,
        4_000_000_000,
    ),
    "version 2, in a container": (
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": "1000\n",
        },
        1.5,
        1000,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:memory:/condor/slot1\n2:cpu,cpuacct:/condor/slot1\n1:name=systemd:/\n0::/\n",
            "sys/fs/cgroup/cpu/condor/slot1/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/condor/slot1/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/condor/slot1/memory.limit_in_bytes": "2000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        1.0,
        2000,
    ),
    "version 1, in a container that sees the host's path": (
        {
            "proc/self/cgroup": "4:memory:/docker/0123456789abcdef\n2:cpu,cpuacct:/docker/0123456789abcdef\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000\n",
        },
        None,
        3000,
    ),
    "none": (
        {
            "proc/self/cgroup": "0::/user.slice\n",
            "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": "max\n",
        },
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_the_narrowest_limit_of_all_groups_holds(tmp_path: Path, case: str) -> None:
    files, cores, memory = LIMITS[case]
    description = found(write(tmp_path, {**files, "proc/meminfo": "MemTotal:       16000 kB\nMemFree: 1 kB\n"}))
    assert description["memory"] == {"machine": 16_384_000, "limit": memory}
    assert description["cores"]["limit"] == cores
    allowed = description["cores"]["allowed"]
    assert description["cores"]["usable"] == (1 if cores else allowed)


def test_the_kernels_killings_in_the_own_group_are_counted(tmp_path: Path) -> None:
    groups = {"proc/self/cgroup": "0::/slurm/job_1\n", "sys/fs/cgroup/slurm/memory.events": "oom 9\noom_kill 9\n"}
    own = {"sys/fs/cgroup/slurm/job_1/memory.events": "low 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n"}
    assert memory_kills(write(tmp_path / "version 2", groups | own)) == 2
    groups = {"proc/self/cgroup": "4:memory:/condor/slot1\n0::/\n"}
    own = {"sys/fs/cgroup/memory/condor/slot1/memory.oom_control": "under_oom 0\noom_kill 1\n"}
    assert memory_kills(write(tmp_path / "version 1", groups | own)) == 1
    assert memory_kills(tmp_path / "nothing") == 0


NAMESPACE = "var/run/secrets/kubernetes.io/serviceaccount/namespace"


@pytest.mark.parametrize(
    ("files", "variables", "container"),
    [
        ({".dockerenv": ""}, {}, {"kind": "docker"}),
        ({"proc/self/cgroup": "4:memory:/docker/0123456789abcdef\n"}, {}, {"kind": "docker"}),
        ({"proc/self/cgroup": "0::/system.slice/docker.service\n"}, {}, None),
        ({"run/.containerenv": ""}, {}, {"kind": "podman"}),
        (
            {"run/.containerenv": 'engine="podman-4.9.4"\nname="x"\nimage="quay.io/casa:6.7"\nimageid="1"\n'},
            {"container": "podman"},
            {"kind": "podman", "image": "quay.io/casa:6.7"},
        ),
        ({".dockerenv": "", NAMESPACE: "radio"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"kind": "kubernetes"}),
        ({"proc/self/cgroup": "4:memory:/kubepods/burstable/pod1/1\n"}, {}, {"kind": "kubernetes"}),
        ({".singularity.d/startscript": ""}, {}, {"kind": "apptainer"}),
        ({}, {"APPTAINER_CONTAINER": "/images/casa.sif"}, {"kind": "apptainer", "image": "/images/casa.sif"}),
        ({}, {"SINGULARITY_CONTAINER": "/images/casa.sif"}, {"kind": "apptainer", "image": "/images/casa.sif"}),
    ],
)
def test_containers_are_recognised(
    tmp_path: Path, files: dict[str, str], variables: dict[str, str], container: dict[str, str] | None
) -> None:
    assert found(write(tmp_path, files), **variables)["container"] == container


@pytest.mark.parametrize(
    ("variables", "mpi"),
    [
        (OPEN_MPI, {"size": 2, "rank": 1, "name": "Open MPI", "version": "5.0.11", "pmix_version": "5.0.11rc1"}),
        (MPICH, {"size": 2, "rank": 1}),
        (SRUN, {"size": 8, "rank": 3, "slurm_mpi_type": "pmix"}),
        (
            {**SRUN, **OPEN_MPI},
            {
                "size": 2,
                "rank": 1,
                "name": "Open MPI",
                "version": "5.0.11",
                "pmix_version": "5.0.11rc1",
                "slurm_mpi_type": "pmix",
            },
        ),
        ({**SRUN, "SLURM_MPI_TYPE": "none"}, None),
        # A batch script whose modules chose the type of MPI, before srun.
        ({"SLURM_JOB_ID": "4711", "SLURM_PROCID": "0", "SLURM_MPI_TYPE": "pmix"}, None),
    ],
)
def test_ranks_of_mpi_are_recognised(tmp_path: Path, variables: dict[str, str], mpi: dict[str, Any] | None) -> None:
    assert found(tmp_path, **variables)["mpi"] == mpi


@pytest.mark.parametrize(
    ("variables", "scheduler"),
    [
        (SRUN, {"name": "Slurm", "job": "4711", "step": "0", "queue": "long", "node": "node07"}),
        (
            {"SLURM_JOB_ID": "4713", "SLURM_ARRAY_TASK_ID": "2", "SLURM_CLUSTER_NAME": "radio"},
            {"name": "Slurm", "job": "4713", "array_index": "2", "cluster": "radio"},
        ),
        ({"PBS_JOBID": "12.server", "PBS_QUEUE": "workq"}, {"name": "PBS", "job": "12.server", "queue": "workq"}),
        ({"LSB_JOBID": "12", "LSB_JOBINDEX": "0"}, {"name": "LSF", "job": "12", "array_index": "0"}),
        (
            {"JOB_ID": "12", "SGE_TASK_ID": "undefined", "QUEUE": "all.q"},
            {"name": "SGE", "job": "12", "array_index": "undefined", "queue": "all.q"},
        ),
        ({"JOB_ID": "12"}, None),
        ({"_CONDOR_SLOT": "slot1_2"}, {"name": "HTCondor", "slot": "slot1_2"}),
        ({"_CONDOR_JOB_AD": "/nowhere/.job.ad"}, {"name": "HTCondor"}),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "worker-1"},
            {"name": "Kubernetes", "pod": "worker-1"},
        ),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "POD_NAME": "worker-2", "POD_NAMESPACE": "radio"},
            {"name": "Kubernetes", "pod": "worker-2", "namespace": "radio"},
        ),
    ],
)
def test_jobs_of_schedulers_are_recognised(
    tmp_path: Path, variables: dict[str, str], scheduler: dict[str, str] | None
) -> None:
    assert found(tmp_path, **variables)["scheduler"] == scheduler


def test_a_job_of_htcondor_is_told_by_its_ad(tmp_path: Path) -> None:
    ad = 'AutoClusterId = 9\nClusterId = 1234\nOwner = "hush"\nProcId = 5\nOrigProcId = 1\n'
    write(tmp_path, {".job.ad": ad})
    description = found(tmp_path, _CONDOR_JOB_AD=str(tmp_path / ".job.ad"), _CONDOR_SLOT="slot1")
    assert description["scheduler"] == {"name": "HTCondor", "slot": "slot1", "job": "1234.5"}
    assert "hush" not in json.dumps(description)


def test_a_pod_finds_its_namespace_and_leaves_its_token_alone(tmp_path: Path) -> None:
    write(tmp_path, {NAMESPACE: "radio\n", NAMESPACE.replace("namespace", "token"): "hush"})
    description = found(tmp_path, KUBERNETES_SERVICE_HOST="10.0.0.1", HOSTNAME="worker-1")
    assert description["scheduler"] == {"name": "Kubernetes", "pod": "worker-1", "namespace": "radio"}
    assert "hush" not in json.dumps(description)


def test_threads_are_told_as_they_are_set(tmp_path: Path) -> None:
    variables = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2", "OMP_PROC_BIND": "close"}
    assert found(tmp_path, **variables)["threads"] == variables


def nvidia_smi(root: Path, script: str) -> None:
    write(root, {"bin/nvidia-smi": f"#!/bin/sh\n{script}\n"})
    (root / "bin/nvidia-smi").chmod(0o755)


def test_gpus_are_those_that_nvidia_smi_lists(tmp_path: Path) -> None:
    nvidia_smi(
        tmp_path, "[ $1 = -L ] && echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)' && echo '  MIG 1g.18gb (UUID: MIG-2)'"
    )
    loaded = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:\n"
    write(tmp_path, {"proc/driver/nvidia/version": loaded})
    assert found(tmp_path, CUDA_VISIBLE_DEVICES="")["gpus"] == {
        "devices": ["GPU 0: NVIDIA H200 (UUID: GPU-1)", "MIG 1g.18gb (UUID: MIG-2)"],
        "CUDA_VISIBLE_DEVICES": "",
        "driver": "550.54.15",
    }


def test_gpus_that_programs_may_use_are_the_devices_that_are_not_hidden(tmp_path: Path) -> None:
    write(tmp_path, {f"dev/{name}": "" for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")})
    assert [Path(device).name for device in module.gpus_here({}, tmp_path)] == ["nvidia0", "nvidia1"]
    assert module.gpus_here({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []
    assert module.gpus_here({}, tmp_path / "elsewhere") == []


def test_a_nvidia_smi_that_fails_is_a_finding(tmp_path: Path) -> None:
    nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert found(tmp_path)["gpus"] == {"devices": [], "problem": "nvidia-smi failed with exit code 9"}


def test_a_nvidia_smi_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GPU_TIMEOUT", 0.1)
    nvidia_smi(tmp_path, "exec /bin/sleep 60")
    assert found(tmp_path)["gpus"] == {"devices": [], "problem": "nvidia-smi did not answer: TimeoutExpired"}
