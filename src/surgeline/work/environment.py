"""Where this process runs: software, machine, limits, container, MPI, scheduler, GPUs and threads."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from surgeline import __version__
from surgeline.work.casaprocess import THREAD_VARIABLES

_PACKAGES = (
    *("casatools", "casatasks", "casadata", "casaconfig", "casampi", "mpi4py"),
    *("numpy", "scipy", "astropy", "astropy-iers-data", "matplotlib", "ducc0", "triton"),
    *("dask", "distributed", "dask-jobqueue", "dask-kubernetes", "prefect", "cloudpickle"),
    *("SQLAlchemy", "psycopg", "pydantic", "PyYAML"),
)
_THREADS = (
    *THREAD_VARIABLES,
    *("BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("OMP_DYNAMIC", "OMP_PLACES", "OMP_PROC_BIND", "OMP_SCHEDULE", "OMP_THREAD_LIMIT", "OMP_WAIT_POLICY"),
    *("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "MKL_DYNAMIC"),
)
# Schedulers that say all in the environment: the variable that tells a job of theirs, and what others mean.
_SCHEDULERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "Slurm": (
        "SLURM_JOB_ID",
        {
            "job": "SLURM_JOB_ID",
            "step": "SLURM_STEP_ID",
            "array_index": "SLURM_ARRAY_TASK_ID",
            "queue": "SLURM_JOB_PARTITION",
            "node": "SLURMD_NODENAME",
            "cluster": "SLURM_CLUSTER_NAME",
        },
    ),
    "PBS": ("PBS_JOBID", {"job": "PBS_JOBID", "array_index": "PBS_ARRAY_INDEX", "queue": "PBS_QUEUE"}),
    "LSF": ("LSB_JOBID", {"job": "LSB_JOBID", "array_index": "LSB_JOBINDEX", "queue": "LSB_QUEUE"}),
    "SGE": ("SGE_TASK_ID", {"job": "JOB_ID", "array_index": "SGE_TASK_ID", "queue": "QUEUE"}),
}
_SERVICE_ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount"
_GPU_TIMEOUT = 5.0
# cgroup v1 writes the largest number of pages that there is where memory is not limited.
_NO_LIMIT = 2**60


def environment(*, variables: Mapping[str, str] = os.environ, root: Path = Path("/")) -> dict[str, Any]:
    """Describe where this process runs; the same on every call while variables, limits and affinity stay.

    Whatever cannot be found out is None or left out. Of the environment variables only those that are named in this
    module are looked at, and none of them holds a secret. CASA's processes set their threads while they are made
    ready: ask afterwards.

    Args:
        variables: the environment variables.
        root: what stands for `/`, where /proc, /sys and /etc are.

    Returns:
        what JSON can hold. Memory is in bytes; `cores.limit` is the cgroup's, in cores, and may be a fraction;
        `cores.usable` is what affinity and that limit leave, in whole cores.
    """
    return {
        "software": _software(),
        "machine": _machine(root),
        "cores": cores_here(root),
        "memory": memory_here(root),
        "container": _container(variables, root),
        "mpi": _mpi(variables),
        "scheduler": scheduler_here(variables, root),
        "gpus": _gpus(variables, root),
        "threads": {name: variables[name] for name in _THREADS if name in variables},
    }


def identity(environment: Mapping[str, Any]) -> str:
    """A hash of a description: `sha256:` and the hash of its canonical JSON, the same wherever the content is."""
    text = json.dumps(environment, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode('ascii')).hexdigest()}"


def _software() -> dict[str, str]:
    found = {"surgeline": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _machine(root: Path) -> dict[str, str | None]:
    system = os.uname()
    release = re.search(r'^PRETTY_NAME="?(.*?)"?$', _text(root / "etc/os-release"), re.MULTILINE)
    return {
        "host": socket.gethostname(),
        "operating_system": release[1] if release else system.sysname,
        "kernel": f"{system.sysname} {system.release}",
        "architecture": system.machine,
        "c_library": " ".join(part for part in platform.libc_ver() if part) or None,
        "processor": _processor(root),
    }


def _processor(root: Path) -> str | None:
    """The model of the first processor: its name, on ARM the numbers of its maker and of the part."""
    numbers = {}
    try:
        # Line by line, since the kernel makes the text up as it is read, for every core.
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = (part.strip() for part in line.partition(":"))
                if key in ("model name", "cpu"):
                    return value
                if key in ("CPU implementer", "CPU part"):
                    numbers[key] = value
                if len(numbers) == 2:
                    return ", ".join(f"{key} {value}" for key, value in numbers.items())
    except OSError:
        # Not Linux.
        return platform.processor() or None
    return None


def cores_here(root: Path) -> dict[str, Any]:
    """How many cores: of the machine, by CPU affinity, by the cgroups' limit, and what all of these leave."""
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    limit = min(_core_limits(root), default=None)
    usable = allowed if limit is None else max(1, min(allowed, int(limit)))
    return {"machine": machine, "allowed": allowed, "limit": limit, "usable": usable}


def _core_limits(root: Path) -> Iterator[float]:
    for folder in _control_groups(root, "cpu"):
        texts = (folder / "cpu.max", folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        quota, period = [*" ".join(map(_text, texts)).split(), "", ""][:2]
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) / int(period)


def memory_here(root: Path) -> dict[str, int | None]:
    """How much memory, in bytes: of the machine, and by the cgroups' limit; None where it is not known."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    limits = [
        int(text)
        for folder in _control_groups(root, "memory")
        # A process above memory.high is slowed until it hardly moves.
        for text in (_text(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))
        if text.isdecimal() and int(text) < _NO_LIMIT
    ]
    return {"machine": int(total[1]) * 1024 if total else None, "limit": min(limits, default=None)}


def memory_kills(root: Path = Path("/")) -> int:
    """How many processes the kernel has killed so far for want of memory in this process's own cgroup."""
    texts = (
        _text(folder / name)
        for folder in _control_groups(root, "memory")
        for name in ("memory.events", "memory.oom_control")
    )
    counted = [re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE) for text in texts]
    # Groups above count what happens in others, too.
    return next((int(number) for (number,) in reversed([found for found in counted if found])), 0)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of all above it, of either version: each of them may set a limit."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        folder = root / "sys/fs/cgroup" / (controller if controllers else "")
        yield folder
        # A container may see its path as the host does, which leads nowhere in it; the folder above is then its own.
        for part in Path(path).parts[1:]:
            folder /= part
            yield folder


def _container(variables: Mapping[str, str], root: Path) -> dict[str, str] | None:
    image = variables.get("APPTAINER_CONTAINER") or variables.get("SINGULARITY_CONTAINER")
    groups = _text(root / "proc/self/cgroup")
    podman = root / "run/.containerenv"
    if image or (root / ".singularity.d").is_dir():
        return {"kind": "apptainer", **({"image": image} if image else {})}
    if "KUBERNETES_SERVICE_HOST" in variables or (root / _SERVICE_ACCOUNT).is_dir() or "kubepods" in groups:
        return {"kind": "kubernetes"}
    if podman.exists() or variables.get("container") == "podman" or "libpod" in groups:
        name = re.search(r'^image="(.+)"$', _text(podman), re.MULTILINE)
        return {"kind": "podman", **({"image": name[1]} if name else {})}
    if (root / ".dockerenv").exists() or re.search(r"/docker[-/][0-9a-f]{12}", groups):
        return {"kind": "docker"}
    return None


def _mpi(variables: Mapping[str, str]) -> dict[str, Any] | None:
    """What launched this process as a rank of an MPI program, which it need not be."""
    names = {"size": ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"], "rank": ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"]}
    # srun alone sets the tasks of a step; modules set the type of MPI, whether anything runs or not.
    by_slurm = "SLURM_STEP_NUM_TASKS" in variables and variables.get("SLURM_MPI_TYPE", "none") != "none"
    if by_slurm:
        names["size"].append("SLURM_STEP_NUM_TASKS")
        names["rank"].append("SLURM_PROCID")
    found: dict[str, Any] = {
        key: next((int(variables[name]) for name in choices if variables.get(name, "").isdecimal()), None)
        for key, choices in names.items()
    }
    if found["rank"] is None:
        return None
    if "OMPI_COMM_WORLD_SIZE" in variables:
        found |= {"name": "Open MPI", "version": variables.get("OMPI_VERSION")}
    if "PMIX_VERSION" in variables:
        found["pmix_version"] = variables["PMIX_VERSION"]
    if by_slurm:
        found["slurm_mpi_type"] = variables["SLURM_MPI_TYPE"]
    return found


def scheduler_here(variables: Mapping[str, str], root: Path) -> dict[str, str] | None:
    """The name of the scheduler whose job this process is in, and what is known of the job; None outside of a job."""
    for name, (mark, fields) in _SCHEDULERS.items():
        if mark in variables:
            return {"name": name} | {key: variables[field] for key, field in fields.items() if field in variables}
    if "_CONDOR_JOB_AD" in variables or "_CONDOR_SLOT" in variables:
        return {"name": "HTCondor"} | _htcondor_job(variables)
    if "KUBERNETES_SERVICE_HOST" in variables:
        pod = variables.get("POD_NAME") or variables.get("HOSTNAME") or socket.gethostname()
        namespace = variables.get("POD_NAMESPACE") or _text(root / _SERVICE_ACCOUNT / "namespace")
        return {"name": "Kubernetes", "pod": pod} | ({"namespace": namespace} if namespace else {})
    return None


def _htcondor_job(variables: Mapping[str, str]) -> dict[str, str]:
    found = {"slot": variables["_CONDOR_SLOT"]} if "_CONDOR_SLOT" in variables else {}
    if "_CONDOR_JOB_AD" in variables:
        numbers = numbers_of_ad(Path(variables["_CONDOR_JOB_AD"]), "ClusterId", "ProcId")
        if len(numbers) == 2:
            found["job"] = f"{numbers['ClusterId']}.{numbers['ProcId']}"
    return found


def numbers_of_ad(path: Path, *names: str) -> dict[str, int]:
    """Those of the named attributes that an ad of HTCondor gives as whole numbers; none where it cannot be read."""
    found = re.findall(rf"^({'|'.join(names)}) = (\d+)$", _text(path), re.MULTILINE)
    return {name: int(number) for name, number in found}


def gpus_here(variables: Mapping[str, str], root: Path) -> list[str]:
    """The devices of the GPUs that programs may use; CUDA_VISIBLE_DEVICES may hide all of them."""
    if variables.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return []
    return sorted(str(device) for device in (root / "dev").glob("nvidia[0-9]*"))


def _gpus(variables: Mapping[str, str], root: Path) -> dict[str, Any]:
    """The GPUs that nvidia-smi lists, which CUDA_VISIBLE_DEVICES may hide from programs."""
    found: dict[str, Any] = {"devices": []}
    if "CUDA_VISIBLE_DEVICES" in variables:
        found["CUDA_VISIBLE_DEVICES"] = variables["CUDA_VISIBLE_DEVICES"]
    if driver := re.search(r"Kernel Module\s.*?(\d+(?:\.\d+)+)", _text(root / "proc/driver/nvidia/version")):
        found["driver"] = driver[1]
    command = shutil.which("nvidia-smi", path=variables.get("PATH", os.defpath))
    if command is None:
        return found
    try:
        answer = subprocess.run(
            [command, "-L"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_GPU_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return found | {"problem": f"nvidia-smi did not answer: {type(error).__name__}"}
    if answer.returncode != 0:
        return found | {"problem": f"nvidia-smi failed with exit code {answer.returncode}"}
    return found | {"devices": [line.strip() for line in answer.stdout.splitlines()]}


def _text(path: Path) -> str:
    """What a small file says, without the blanks around; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
