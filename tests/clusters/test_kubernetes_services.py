"""The tests' own Kubernetes, and the image of its workers, do what tests of pods count on."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from dask_kubernetes.operator import KubeCluster, make_cluster_spec
from distributed import Client

from services.kubernetes import WORKER_IMAGE, Kubernetes
from support import wait_until


def create_pod(kubernetes: Kubernetes, name: str, script: str, *, folder: Path | None = None, **limits: str) -> None:
    """Start a pod of the worker image with no rights: an ordinary user, and nowhere to write but in its volumes."""
    volumes: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {}}]
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    if folder is not None:
        volumes.append({"name": "folder", "hostPath": {"path": str(folder)}})
        mounts.append({"name": "folder", "mountPath": str(folder)})
    container = {
        "name": "only",
        "image": WORKER_IMAGE,
        "command": ["bash", "-euc", script],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
        "volumeMounts": mounts,
        "resources": {"limits": limits},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "fsGroup": 1000},
            "volumes": volumes,
            "containers": [container],
        },
    }
    kubernetes.run("kubectl", "apply", "--filename=-", input=json.dumps(pod))


def test_a_pod_without_rights_runs_all_that_the_image_is_for(kubernetes: Kubernetes, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    script = f"""
        test "$(id -u)" = 1000
        ! touch /opt/surgeline/file 2>/dev/null
        python -c 'import casatasks; from casatools import image; image().fromshape("{tmp_path}/an.image", [4, 4])'
        python -m surgeline.parallel.batchworker --help >{tmp_path}/worker
        dask scheduler --help >{tmp_path}/scheduler
        prefect --version
        python -c 'import prefect_dask, prefect_kubernetes, s3fs'
        surgeline doctor | grep -E "^(ok|warning) +CASA's data: casadata"
    """

    create_pod(kubernetes, "plain", script, folder=tmp_path)

    kubernetes.wait_for_pod("plain", "Succeeded", "Failed", seconds=120)
    assert kubernetes.pod_phase("plain") == "Succeeded", kubernetes.logs("plain")
    assert (tmp_path / "an.image" / "table.dat").stat().st_uid == 1000
    assert "--resources" in (tmp_path / "worker").read_text()


def test_a_pod_gets_the_gpus_that_it_asks_for_and_no_other_does(kubernetes: Kubernetes) -> None:
    create_pod(kubernetes, "with", "echo GPUs: $CUDA_VISIBLE_DEVICES; sleep 1000", **{"nvidia.com/gpu": "2"})
    create_pod(kubernetes, "without", "echo GPUs: ${CUDA_VISIBLE_DEVICES-none}")
    kubernetes.wait_for_pod("with", "Running")
    create_pod(kubernetes, "third", "true", **{"nvidia.com/gpu": "1"})

    kubernetes.wait_for_pod("without", "Succeeded")
    kubernetes.run("kubectl", "wait", "pod/third", "--for=condition=PodScheduled=False", "--timeout=30s")
    assert "Insufficient nvidia.com/gpu" in kubernetes.run("kubectl", "describe", "pod", "third")
    assert kubernetes.logs("with") in ("GPUs: 0,1", "GPUs: 1,0")
    assert kubernetes.logs("without") == "GPUs: none"


def test_a_pod_that_passes_its_limit_of_memory_is_killed(kubernetes: Kubernetes) -> None:
    create_pod(kubernetes, "large", "python -c 'bytearray(500_000_000)'", memory="100Mi")

    kubernetes.wait_for_pod("large", "Failed")
    state = "--output=jsonpath={.status.containerStatuses[0].state.terminated.reason}"
    assert kubernetes.run("kubectl", "get", "pod", "large", state) == "OOMKilled"


# No version of Kubernetes that kr8s knows; what is used of it is there.
@pytest.mark.filterwarnings("ignore:Kubernetes version")
def test_the_operator_makes_dask_clusters(kubernetes: Kubernetes) -> None:
    kubernetes.start_operator()
    name = "first"
    wanted = make_cluster_spec(name, image=WORKER_IMAGE, n_workers=1, worker_command="dask worker")
    # dask-kubernetes asks for a command that Dask has no longer.
    wanted["spec"]["scheduler"]["spec"]["containers"][0]["args"] = ["dask", "scheduler"]
    kubernetes.run("kubectl", "apply", "--filename=-", input=json.dumps(wanted))
    is_there = ("kubectl", "get", "deployment", f"{name}-scheduler")
    wait_until(lambda: kubernetes.try_to_run(*is_there).returncode == 0, 60, "the operator has seen it")

    with KubeCluster.from_name(name, resource_timeout=120, quiet=True) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=120)
        assert client.submit(os.getuid).result(60) == 1000


def test_nothing_is_left_of_a_cluster(kubernetes_programs: tuple[Path, list[Path]]) -> None:
    cluster = Kubernetes(*kubernetes_programs)
    name = cluster.folder.name
    try:
        cluster.start()
        cluster.use_namespace("last")
        create_pod(cluster, "endless", "sleep 1000")
        cluster.wait_for_pod("endless", "Running")
        assert processes_of(name)
        assert cluster.outside_address in addresses()
    finally:
        cluster.remove()

    assert processes_of(name) == []
    assert cluster.outside_address not in addresses()
    # Others' groups come and go meanwhile.
    assert [group for group, _, _ in os.walk("/sys/fs/cgroup") if Path(group).name == name] == []
    assert name not in Path("/proc/self/mountinfo").read_text()
    assert not cluster.folder.exists()


def processes_of(name: str) -> list[psutil.Process]:
    """A cluster's daemons, by the folder in their commands, and its pods' processes, by their control group."""
    found = []
    for process in psutil.process_iter():
        # Gone meanwhile, or what is left of a dead one.
        with suppress(psutil.Error, OSError):
            groups = Path(f"/proc/{process.pid}/cgroup").read_text()
            if name in groups or name in " ".join(process.cmdline()):
                found.append(process)
    return found


def addresses() -> list[str]:
    """This machine's addresses in all networks."""
    return [address.address for interface in psutil.net_if_addrs().values() for address in interface]
