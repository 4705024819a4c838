"""The whole paradigm by one command: this machine, Slurm with nested MPI, pods with GPUs, a Prefect work pool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from services.kubernetes import WORKER_IMAGE
from services.slurm import Slurm
from support import ROOT, surgeline, wait_until
from surgeline.stages.inputs import find_input
from surgeline.workflow import recipe as recipes
from workpoolsite import Site

EXAMPLES = ROOT / "examples"
RECIPE = EXAMPLES / "paradigm.yaml"
# Which stages run on what, by how its workers are called.
PLACES = {
    "continua": "worker-slurm-",
    "cubes": "worker-kubernetes-",
    "moments": "worker-prefect-",
    "export": "worker-prefect-",
}


def configuration(site: Site) -> dict[str, object]:
    """That of the example, with what this test's services are called."""
    content = yaml.safe_load((EXAMPLES / "paradigm-config.yaml").read_text())
    observation = Path(find_input(recipes.load(str(RECIPE)).vis[0]).path).parent
    site.cluster["volumes"] = [{"path": str(path), "host_path": str(path)} for path in (site.folder, observation)]
    # Workers of the pool and the session have to reach each other, and this session is not in Kubernetes.
    site.cluster["pod_template"] = {"spec": {"hostNetwork": True}}
    # There are but two cores for all of them.
    frugal = {"name": "worker", "resources": {"requests": {"cpu": "100m"}}}
    quick = {"memory": "1GB", "poll": 0.5, "idle_seconds": 2}
    clusters = content["clusters"]
    clusters["batch"] |= quick
    clusters["pods"] |= quick | {
        "image": WORKER_IMAGE,
        "volumes": site.cluster["volumes"],
        "pod_template": {"spec": {"containers": [frugal]}},
    }
    clusters["pool"] |= quick | {
        "work_pool": "pool",
        "host": site.kubernetes.outside_address,
        "job_variables": {"cores": "100m"},
    }
    return dict(content)


def test_one_command_runs_each_stage_on_what_it_needs(site: Site, slurm: Slurm) -> None:
    site.kubernetes.start_operator()
    workdir = site.folder / "session"
    workdir.mkdir()
    (workdir / "config.yaml").write_text(yaml.safe_dump(configuration(site)))
    site.deploy("makes the pool", [{"task": "make"}], "large")
    with site.running("worker", "start", "--pool", "pool", "--type", "kubernetes"):
        ran = surgeline("run", RECIPE, "--workdir", workdir, timeout=650, **site.environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # The published numbers, as of the demo.
    check = EXAMPLES / "check_ngc5921.py"
    checked = subprocess.run([sys.executable, check, workdir], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    stages = {stage["name"]: stage for stage in json.loads((workdir / "run.json").read_text())["stages"]}
    assert {stage["state"] for stage in stages.values()} == {"finished"}
    for name, stage in stages.items():
        workers = [job["worker"] for job in stage["jobs"]]
        assert all(worker.startswith(PLACES.get(name, "worker-")) for worker in workers), (name, workers)
    logged = surgeline("context", "log", "--workdir", workdir)
    assert all(name in logged.stdout for name in stages), logged.stdout
    pages = "".join(page.read_text() for page in (workdir / "weblog").glob("**/*.html"))
    assert all(name in pages for name in stages)
    wait_until(lambda: slurm.run("squeue", "--noheader") == "", 60, "Slurm's queue is empty")
    groups = ("kubectl", "get", "daskclusters,daskworkergroups", "--output=name")
    wait_until(lambda: site.kubernetes.run(*groups) == "", 60, "Kubernetes has no workers")
    unfinished = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}}
    wait_until(
        lambda: site.ask("post", "flow_runs/filter", json={"flow_runs": unfinished}) == [], 60, "no flow run is left"
    )
