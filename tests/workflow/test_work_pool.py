"""Sessions that run as Jobs of a Prefect work pool, on a real Kubernetes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cloudpickle

from queue_clusters import call, opened, take_memory
from services.postgresql import PostgreSQL, programs_of_postgresql
from support import surgeline, wait_until
from workpoolsite import Site

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def fails() -> None:
    raise ValueError("there are no data")


def test_a_session_runs_as_a_job_of_a_work_pool(site: Site) -> None:
    stages = [{"task": "make"}, {"task": "change", "arguments": {"by": 2}}, {"task": "total"}]
    good = site.deploy("good", stages, "large")
    bad = site.deploy("bad", [{"task": "change"}], "large")
    large = site.deploy("large", stages, "small")
    with site.running("worker", "start", "--pool", "pool", "--type", "kubernetes"):
        state = site.run(good)
        assert state["type"] == "COMPLETED", (state, (site.folder / "worker.log").read_text()[-3000:])
        record = json.loads((site.folder / "good" / "run.json").read_text())
        assert [stage["state"] for stage in record["stages"]] == ["finished"] * 3
        failed = site.run(bad)
        assert failed["type"] == "FAILED"
        assert "change" in failed["message"]
        # Python itself does not fit in there.
        assert site.run(large)["type"] == "CRASHED"


def test_each_stage_is_a_job_of_its_own_with_its_context_in_postgresql(site: Site) -> None:
    programs = programs_of_postgresql()
    assert programs is not None
    server = PostgreSQL(programs, site.kubernetes.outside_address)
    server.start()
    try:
        url = server.url(server.empty_database())
        stages = [{"task": "make"}, {"task": "change", "arguments": {"by": 2}}, {"task": "total"}]
        names = [stage["task"] for stage in stages]
        deployments = [site.deploy("staged", stages, "large", name, context={"url": url}) for name in names]
        with site.running("worker", "start", "--pool", "pool", "--type", "kubernetes"):
            early = site.run(deployments[1])
            assert early["type"] == "FAILED" and "'change' needs make to have finished" in early["message"]
            for deployment in deployments:
                state = site.run(deployment)
                assert state["type"] == "COMPLETED", state
        logged = surgeline("context", "log", "--workdir", site.folder / "staged")
        assert all(name in logged.stdout for name in names), logged.stdout + logged.stderr
        record = json.loads((site.folder / "staged" / "run.json").read_text())
        assert record["state"] == "finished" and len(record["sessions"]) == 3
    finally:
        server.remove()


def test_workers_are_jobs_of_a_work_pool(site: Site, tmp_path: Path) -> None:
    """Jobs succeed, fail, and pass the memory of their class, in workers that share no files with the session."""
    from prefect.settings import temporary_settings

    # Workers and session have to reach each other, and this session is not in the cluster.
    site.cluster["pod_template"] = {"spec": {"hostNetwork": True}}
    site.deploy("makes the pool", [{"task": "make"}], "large")
    settings = ["work_pool=pool", f"host={site.kubernetes.outside_address}", "shared_filesystem=false", "maximum=2"]
    with (
        site.running("worker", "start", "--pool", "pool", "--type", "kubernetes"),
        temporary_settings({"api.url": site.url}),
    ):
        with opened("prefect", tmp_path, *settings, "job_variables={cores: 100m}", retries=1) as cluster:
            good, bad, large = cluster.run(call(os.getuid), call(fails), call(take_memory, 600_000_000))
            assert good.result() == 1000
            assert bad.failure is not None and "there are no data" in bad.failure.message
            assert large.result() == 600_000_000
            (loss,) = large.losses
            assert "memory" in loss.how
            assert any(berth.kind.startswith("measured-") for berth in cluster.backend.fleet.berths())
        left = site.ask("post", "flow_runs/filter", json={"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
        assert left == []

        def jobs_run() -> bool:
            pods = site.kubernetes.run("kubectl", "get", "pods", "--output=jsonpath={.items[*].status.phase}")
            return "Running" in pods or "Pending" in pods

        wait_until(lambda: not jobs_run(), 60, "no Job runs any more")
