"""Workers that are pods of a real Kubernetes: what a user sees of their coming, going and dying."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from queue_clusters import LongOne, Opened, a_long_job, call, opened, take_memory, variable
from services.kubernetes import WORKER_IMAGE, Kubernetes
from services.s3 import BUCKET, Swift
from support import wait_until
from surgeline.errors import ClusterError, ContextError
from surgeline.work.resources import Resources
from surgeline.work.surroundings import Answer, FactQuery, current

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# Where sessions in processes of their own find what the tests have.
OWN_MODULES = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"
Open = Callable[..., AbstractContextManager[Opened]]


@pytest.fixture
def folder(kubernetes: Kubernetes, tmp_path: Path) -> Iterator[Path]:
    """A folder that the session and its pods share, which run as another user."""
    folder = kubernetes.folder / tmp_path.name
    before = os.umask(0)
    folder.mkdir()
    yield folder
    os.umask(before)


@pytest.fixture(autouse=True)
def operator(kubernetes: Kubernetes) -> None:
    kubernetes.start_operator()


def settings(folder: Path) -> list[str]:
    # The machine that the tests run on has few cores.
    frugal = "{name: worker, resources: {requests: {cpu: 100m}}}"
    return [
        f"image={WORKER_IMAGE}",
        f"volumes=[{{path: {folder}, host_path: {folder}}}]",
        f"pod_template={{spec: {{containers: [{frugal}]}}}}",
    ]


@pytest.fixture
def open_pods(folder: Path) -> Open:
    return lambda *overrides, **options: opened("kubernetes", folder, *settings(folder), *overrides, **options)


@pytest.fixture
def long_job(folder: Path) -> Callable[..., AbstractContextManager[LongOne]]:
    return lambda *overrides: a_long_job("kubernetes", folder, *settings(folder), *overrides)


def pods(kubernetes: Kubernetes, labels: str = "app.kubernetes.io/managed-by=surgeline") -> list[str]:
    return kubernetes.run("kubectl", "get", "pods", "--output=name", f"--selector={labels}").split()


def test_pods_come_when_jobs_need_them_and_go_when_none_does(kubernetes: Kubernetes, open_pods: Open) -> None:
    workers = "dask.org/component=worker"
    with open_pods("idle_seconds=0", "maximum=2") as cluster:
        queue = cluster.queue()
        assert pods(kubernetes, workers) == []
        outcomes = cluster.run(*(call(os.getuid) for _ in range(4)))
        assert [outcome.result() for outcome in outcomes] == [1000] * 4
        wait_until(lambda: pods(kubernetes, workers) == [], 180, "no worker is left")
        del queue
    wait_until(lambda: pods(kubernetes) == [], 180, "nothing is left")
    assert kubernetes.run("kubectl", "get", "daskclusters", "--output=name") == ""


def test_jobs_for_gpus_go_to_pods_that_have_them_and_others_do_not(kubernetes: Kubernetes, open_pods: Open) -> None:
    classes = "workers={cpu: {}, gpu: {gpus: 1}}"
    with open_pods(classes, "maximum=3") as cluster:
        gpu = Resources(gpus=1)
        outcomes = cluster.run(
            *(call(variable, "NVIDIA_VISIBLE_DEVICES", name="a", resources=gpu) for _ in range(2)),
            call(variable, "NVIDIA_VISIBLE_DEVICES"),
        )
        devices = [outcome.result() for outcome in outcomes]
        assert all(devices[:2]) and devices[2] is None
        scheduler = pods(kubernetes, "dask.org/component=scheduler")
        limits = "--output=jsonpath={.spec.containers[0].resources.limits}"
        assert "nvidia" not in kubernetes.run("kubectl", "get", *scheduler, limits)


def told_by_session(kind: str) -> Any:
    """What the session answers to a question for facts."""
    return current().facts(FactQuery("a session", 1, kind))


def answer(query: FactQuery) -> Answer:
    if query.kind == "nothing":
        raise ContextError("there are no such facts", "ask for others")
    return [(1, f"asked for {query.kind}")]


def test_workers_ask_the_session_for_facts(open_pods: Open) -> None:
    with open_pods(ask=answer) as cluster:
        found, refused = cluster.run(call(told_by_session, "image"), call(told_by_session, "nothing"))
        assert found.result() == [(1, "asked for image")]
        assert refused.failure is not None and "there are no such facts" in refused.failure.message


def test_a_job_that_needs_more_memory_than_its_pod_has_runs_in_a_larger_one(open_pods: Open) -> None:
    with open_pods(retries=1) as cluster:
        (outcome,) = cluster.run(call(take_memory, 600_000_000))
        assert outcome.result() == 600_000_000
        (loss,) = outcome.losses
        assert "memory" in loss.how


def test_a_container_that_ends_is_started_again_and_its_job_runs_again(long_job: Any) -> None:
    with long_job() as job:
        named = f"kubernetes-{job.identifier()}@"
        [nanny] = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(word.startswith(named) for word in process.info["cmdline"] or ())
        ]
        nanny.kill()
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
    assert "exit code 137" in loss.how


def test_a_deleted_pod_is_replaced_and_its_job_runs_again(kubernetes: Kubernetes, long_job: Any) -> None:
    with long_job() as job:
        pod = pods(kubernetes, f"dask.org/workergroup-name={job.identifier()}")
        kubernetes.run("kubectl", "delete", *pod, "--wait=false")
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
        assert "pod" in loss.how


def write_too_much(wait_for: str) -> str:
    if not Path(wait_for).exists():
        Path(wait_for).touch()
        Path("/scratch/large").write_bytes(bytes(50_000_000))
        threading.Event().wait()
    return "went well"


def test_a_pod_that_is_evicted_is_told_so_and_its_job_runs_again(open_pods: Open, folder: Path) -> None:
    with open_pods("scratch=10MB") as cluster:
        (outcome,) = cluster.run(call(write_too_much, str(folder / "marker")))
    assert outcome.result() == "went well"
    (loss,) = outcome.losses
    assert "Evicted" in loss.how and "scratch" in loss.how


def test_a_node_may_be_drained_meanwhile(kubernetes: Kubernetes, long_job: Any) -> None:
    with long_job() as job:
        kubernetes.drain()
        kubernetes.uncordon()
        job.wait_until_it_runs_again()
        assert job.end().losses


def test_a_deleted_scheduler_comes_again_and_what_ran_runs_again(kubernetes: Kubernetes, long_job: Any) -> None:
    with long_job() as job:
        kubernetes.run("kubectl", "delete", *pods(kubernetes, "dask.org/component=scheduler"), "--grace-period=0")
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
        assert "scheduler" in loss.how
        assert any("is gone" in text for text in job.cluster.told)


def test_the_operator_may_be_restarted_meanwhile(kubernetes: Kubernetes, open_pods: Open) -> None:
    with open_pods("maximum=1") as cluster, cluster.queue() as queue:
        kubernetes.stop_operator(crash=True)
        queue.add(call(variable, "HOME"))
        wait_until(lambda: any("Dask operator" in text for text in cluster.backend.waits()), 60, "it is told")
        kubernetes.start_operator()
        assert [outcome.result() for outcome in queue.get_results()] == ["/scratch"]


@pytest.mark.parametrize(
    "setting, words",
    [
        ("gpus=5", "Insufficient nvidia.com/gpu"),
        ("image=localhost/nowhere:1", "localhost/nowhere:1"),
        ("node_selector={accelerator: h200}", "didn't match"),
    ],
)
def test_why_no_pod_comes_is_told_in_kubernetes_words(open_pods: Open, setting: str, words: str) -> None:
    with open_pods(
        "image_pull_policy=Never", "queue_deadline=20", f"workers={{worker: {{{as_yaml(setting)}}}}}"
    ) as cluster:
        (outcome,) = cluster.run(call(variable, "HOME"))
    assert outcome.failure is not None and outcome.failure.kind == "not started"
    assert words in outcome.failure.message


def as_yaml(setting: str) -> str:
    return setting.replace("=", ": ", 1)


def test_a_quota_is_told_as_such(kubernetes: Kubernetes, open_pods: Open) -> None:
    kubernetes.run("kubectl", "create", "quota", "small", "--hard=requests.cpu=150m")
    with open_pods("queue_deadline=15") as cluster:
        (outcome,) = cluster.run(call(variable, "HOME"))
    assert outcome.failure is not None
    assert "exceeded quota: small" in outcome.failure.message


def test_without_the_operator_the_start_fails_and_says_so(kubernetes: Kubernetes, open_pods: Open) -> None:
    kubernetes.stop_operator()
    with open_pods(start_timeout=3) as cluster, pytest.raises(ClusterError, match="Dask operator"):
        cluster.queue()


def test_kubernetes_takes_what_every_setting_makes_of_it(kubernetes: Kubernetes) -> None:
    golden = Path(__file__).parents[1] / "clusters" / "pods.yaml"
    taken = kubernetes.run("kubectl", "apply", "--dry-run=server", "--filename", golden)
    assert taken.count("created (server dry run)") == 2


ROLE = Path(__file__).parents[2] / "docker" / "role.yaml"


def test_the_role_that_is_documented_is_enough(
    kubernetes: Kubernetes, open_pods: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = kubernetes.run("kubectl", "config", "view", "--minify", "--output=jsonpath={..namespace}")
    kubernetes.run("kubectl", "apply", "--filename", ROLE)
    monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig_of(namespace, "surgeline")))
    with open_pods() as cluster:
        (outcome,) = cluster.run(call(variable, "HOME"))
        assert outcome.result() == "/scratch"


SESSION = """
import sys
from pathlib import Path
from queue_clusters import call, opened, wait_for

with opened("kubernetes", Path(sys.argv[1]), *sys.argv[2:]) as cluster, cluster.queue() as queue:
    queue.add(call(wait_for, Path(sys.argv[1]) / "go", Path(sys.argv[1]) / "started"))
    queue.get_results()
"""


def test_nothing_is_left_of_a_session_that_was_killed(kubernetes: Kubernetes, folder: Path) -> None:
    command = [sys.executable, "-c", SESSION, str(folder), *settings(folder)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": OWN_MODULES}) as session:
        wait_until(lambda: (folder / "started").exists() or session.poll() is not None, 90, "the job runs")
        session.send_signal(signal.SIGKILL)
    wait_until(lambda: pods(kubernetes) == [], 60, "nothing is left")
    assert kubernetes.run("kubectl", "get", "daskclusters,daskworkergroups", "--output=name") == ""


INSIDE = """
import os, sys
from pathlib import Path
from queue_clusters import call, opened, take_memory, variable

with opened("kubernetes", Path(sys.argv[1]), *sys.argv[2:]) as cluster:
    (outcome,) = cluster.run(call(variable, "HOME"))
    print(outcome.result(), cluster.backend._cluster.scheduler_address)
"""


def test_a_session_in_the_cluster_reaches_its_scheduler_by_the_services_address(
    kubernetes: Kubernetes, folder: Path
) -> None:
    session = [sys.executable, "-c", INSIDE, folder, *settings(folder)]
    said = kubernetes.inside("env", f"PYTHONPATH={OWN_MODULES}", *session)
    home, address = said.split()[-2:]
    assert home == "/scratch"
    assert address.startswith("tls://surgeline-") and address.endswith(".svc:8786")


def doubled(source: str, target: str) -> str:
    Path(target).write_text(2 * Path(source).read_text())
    return str(Path(target).absolute())


@pytest.fixture
def store(kubernetes: Kubernetes) -> Iterator[Swift]:
    """An object store that pods reach."""
    store = Swift(Path(sys.executable).parent, kubernetes.outside_address)
    try:
        store.start()
        store.files().mkdir(BUCKET)
        yield store
    finally:
        store.remove()


def test_pods_without_a_shared_folder_are_brought_their_files(store: Swift, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("abc")
    image, _, frugal = settings(tmp_path)
    data = ["shared_filesystem=false", f"data=s3://{BUCKET}/pods", f"data_options={json.dumps(store.options)}"]
    with opened("kubernetes", tmp_path, image, frugal, *data) as cluster:
        (outcome,) = cluster.run(call(doubled, "source", "target", reads=["source"], writes=["target"]))
        assert outcome.result() == str(tmp_path / "target")
    assert (tmp_path / "target").read_text() == "abcabc"
