from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from queuejobs import Cluster
from services.slurm import Slurm as Daemons
from support import wait_until
from surgeline.clusters import slurm as module
from surgeline.clusters.batch import Contact, QueuedJob
from surgeline.errors import ClusterError

CERTIFICATES = (Path("/w/tls/ca.pem"), Path("/w/tls/worker.pem"), Path("/w/tls/worker.key"))
PLAIN = Contact("tcp://10.0.0.5:8786", "surgeline.parallel.batchworker", "surgeline-1a2b3c4d", Path("/w/logs"))
AWKWARD = 'a "b" it\'s #1 100% $HOME `x` ;& | ü'


def text(folder: Path, settings: str, contact: Contact = PLAIN, count: int = 1, worker: str = "worker") -> str:
    cluster = Cluster(folder, f"type: slurm, python: /opt/bin/python, {settings}")
    return cluster.manager.text(cluster.classes[worker], contact, count)


def test_the_text_of_a_plain_worker(tmp_path: Path) -> None:
    assert text(tmp_path, "memory: 4GB") == (
        "#!/usr/bin/env bash\n"
        "\n"
        "#SBATCH -J surgeline-1a2b3c4d\n"
        "#SBATCH -n 1\n"
        "#SBATCH --cpus-per-task=1\n"
        "#SBATCH --mem=3815M\n"
        "#SBATCH -t 1:00:00\n"
        "#SBATCH -D /w/logs\n"
        "#SBATCH -o /w/logs/slurm-%j.log\n"
        "#SBATCH --open-mode=append\n"
        "export OMP_NUM_THREADS=1\n"
        "export OPENBLAS_NUM_THREADS=1\n"
        "export MKL_NUM_THREADS=1\n"
        "exec /opt/bin/python -m surgeline.parallel.batchworker tcp://10.0.0.5:8786"
        ' --name "slurm-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}'
        '${SLURM_RESTART_COUNT:+-r$SLURM_RESTART_COUNT}"'
        " --nthreads 1 --memory-limit 4000000000 --death-timeout 60"
        " --resources cores=1,memory=4000000000,gpus=0\n"
    )


def test_the_text_of_an_array_of_workers_of_which_everything_is_said(tmp_path: Path) -> None:
    settings = (
        "queue: gpu, account: alma, qos: high, constraint: 'a100&nvme', exclusive: true, cores: 8, memory: 64GiB,"
        "gpus: 2, gres: 'gpu:a100:2', walltime: 1-12:30:00, local_directory: $TMPDIR/dask, "
        "log_directory: /logs/my 1%,"
        "job_script_prologue: [module load casa, 'export A=\"b c\"'], job_extra_directives: ['--mail-type=FAIL'],"
        "job_directives_skip: [-n, --open], worker_extra_args: [--lifetime 55m], death_timeout: 2m,"
        "shebang: '#!/bin/bash -l', interface: ib0, container: '--bind /data casa 6.sif', python: python3.11"
    )
    contact = Contact("tls://10.0.0.5:8786", PLAIN.module, PLAIN.name, Path("/w/of it's"), CERTIFICATES)
    assert text(tmp_path, settings, contact, 3) == (
        "#!/bin/bash -l\n"
        "\n"
        "#SBATCH -J surgeline-1a2b3c4d\n"
        "#SBATCH -p gpu\n"
        "#SBATCH -A alma\n"
        "#SBATCH --cpus-per-task=8\n"
        "#SBATCH --mem=65536M\n"
        "#SBATCH -t 36:30:00\n"
        '#SBATCH -D "/w/of it\'s"\n'
        '#SBATCH -o "/logs/my 1%%/slurm-%A_%a.log"\n'
        "#SBATCH --array=1-3\n"
        "#SBATCH --qos=high\n"
        '#SBATCH --constraint="a100&nvme"\n'
        "#SBATCH --gres=gpu:a100:2\n"
        "#SBATCH --exclusive\n"
        "#SBATCH --mail-type=FAIL\n"
        "export OMP_NUM_THREADS=1\n"
        "export OPENBLAS_NUM_THREADS=1\n"
        "export MKL_NUM_THREADS=1\n"
        "module load casa\n"
        'export A="b c"\n'
        "exec apptainer exec --nv --bind /data casa 6.sif python3.11 -m surgeline.parallel.batchworker"
        ' tls://10.0.0.5:8786 --name "slurm-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}'
        '${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}${SLURM_RESTART_COUNT:+-r$SLURM_RESTART_COUNT}"'
        ' --nthreads 1 --memory-limit 68719476736 --death-timeout 120 --local-directory "$TMPDIR/dask"'
        " --resources cores=8,memory=68719476736,gpus=2 --interface ib0 --tls-ca-file /w/tls/ca.pem"
        " --tls-cert /w/tls/worker.pem --tls-key /w/tls/worker.key --lifetime 55m\n"
    )


def test_gpus_are_asked_for_and_each_class_has_its_own_text(tmp_path: Path) -> None:
    settings = "queue: cpu, workers: {small: {walltime: 10m}, gpu: {queue: gpu, gpus: 1, cores: 2}}"
    small, gpu = (text(tmp_path, settings, worker=worker) for worker in ("small", "gpu"))
    assert "#SBATCH -p cpu\n" in small
    assert "#SBATCH -t 0:10:00\n" in small
    assert "--gres" not in small
    assert "#SBATCH -p gpu\n" in gpu
    assert "#SBATCH --gres=gpu:1\n" in gpu
    assert "#SBATCH --cpus-per-task=2\n" in gpu
    assert "--nthreads 1 " in gpu
    assert "--resources cores=2,memory=100000000,gpus=1\n" in gpu


def test_the_text_depends_on_nothing_but_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    before = text(tmp_path, "log_directory: /nowhere/logs")
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("PATH", "/nowhere")
    of_user = {
        "interface": "ib9",
        "queue": "theirs",
        "job-extra": ["--theirs"],
        "header-skip": ["-J"],
        "extra": ["-x"],
    }
    with dask.config.set({"jobqueue.slurm": of_user}):
        assert text(tmp_path, "log_directory: /nowhere/logs") == before
    assert not Path("/nowhere").exists()


def test_a_job_gets_each_word_as_it_was_and_nothing_of_the_job_that_submits_it(
    slurm: Daemons, tmp_path: Path
) -> None:
    folder = tmp_path / AWKWARD
    folder.mkdir()
    inside = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "5", "SLURM_RESTART_COUNT": "4", "SBATCH_PARTITION": "gpu"}
    cluster = Cluster(folder, "type: slurm, cores: 2", **inside, CUDA_VISIBLE_DEVICES="1", OF_USER="stays", DO="true")
    certificates = tuple(folder / name for name in ("ca.pem", "worker.pem", "worker.key"))
    contact = Contact("tls://10.0.0.5:8786", "probe", cluster.contact.name, folder / "logs", certificates)
    cluster.contact = contact
    (identifier,) = cluster.submit()
    told = cluster.told(identifier)
    assert told["words"] == [
        *("tls://10.0.0.5:8786", "--name", f"slurm-{identifier}", "--nthreads", "1"),
        *("--memory-limit", "100000000", "--death-timeout", "60"),
        *("--resources", "cores=2,memory=100000000,gpus=0"),
        *(
            "--tls-ca-file",
            str(certificates[0]),
            "--tls-cert",
            str(certificates[1]),
            "--tls-key",
            str(certificates[2]),
        ),
    ]
    assert told["folder"] == str(folder / "logs")
    variables = told["variables"]
    assert (variables["SLURM_JOB_ID"], variables["SLURM_JOB_PARTITION"]) == (identifier, "cpu")
    assert (variables["OF_USER"], variables["OMP_NUM_THREADS"]) == ("stays", "1")
    assert not {"CUDA_VISIBLE_DEVICES", "SLURM_RESTART_COUNT", "SLURM_ARRAY_TASK_ID"} & variables.keys()
    ended = cluster.wait(identifier, "ended")
    assert (ended.cause, ended.words) == ("completed", "ended by itself")


def test_many_workers_are_one_array_whose_elements_are_found_and_cancelled_one_by_one(
    slurm: Daemons, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, "type: slurm, cores: 4")
    first, second, third = identifiers = cluster.submit(3)
    assert [name.partition("_")[2] for name in identifiers] == ["1", "2", "3"]
    for identifier in (first, second):
        assert cluster.wait(identifier, "running").host in ("n1", "n2")
        assert cluster.told(identifier)["words"][2] == f"slurm-{identifier}"
    reason = "Resources: no node has what it asks for free at the moment"
    wait_until(lambda: cluster.wait(third, "waiting").words == reason, 30, "Slurm tells why it waits")
    wait_until(lambda: "expected to start at 2" in cluster.manager.explain(cluster.contact, third), 30, "a start")
    assert cluster.manager.explain(cluster.contact, first) == ""
    cluster.manager.cancel([first])
    ended = cluster.wait(first, "ended")
    assert (ended.cause, ended.words) == ("cancelled", "cancelled")
    # Its place is taken by the one that waited.
    cluster.wait(third, "running")
    cluster.manager.cancel([first, "999999"])
    other = Cluster(tmp_path, "type: slurm")
    other.contact = Contact("tcp://127.0.0.1:8786", "probe", "surgeline-other", tmp_path / "logs")
    (of_other,) = other.submit()
    subprocess.run(cluster.manager.cancel_all(cluster.contact), check=True)
    for identifier in identifiers:
        assert cluster.wait(identifier, "ended").cause == "cancelled"
    assert other.wait(of_other, "running").state == "running"
    # Once more, when none is left.
    subprocess.run(cluster.manager.cancel_all(cluster.contact), check=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("queue: xx", ["sbatch: error: invalid partition specified: xx", "sinfo"]),
        ("constraint: unheard", ["Invalid feature specification"]),
        ("queue: short, walltime: 1:00:00", ["time limit"]),
        ("cores: 99", ["More processors requested than permitted"]),
        ("queue: cpu, gpus: 1", ["no node of partition cpu is large enough", "1 GPU"]),
        ("queue: gpu, gpus: 3", ["the largest has 4 cores, 4.29 GB, 2 GPUs"]),
    ],
)
def test_what_slurm_would_not_take_is_refused_before_anything_is_submitted(
    slurm: Daemons, tmp_path: Path, settings: str, words: list[str]
) -> None:
    cluster = Cluster(tmp_path, f"type: slurm, {settings}")
    with pytest.raises(ClusterError) as caught:
        cluster.manager.check(cluster.worker, cluster.contact)
    for word in words:
        assert word in str(caught.value)
    assert cluster.manager.look(cluster.contact) == {}


def test_an_account_that_may_not_submit_is_refused_when_it_does(slurm: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: slurm, queue: closed, account: nobody")
    with pytest.raises(ClusterError, match=r"Slurm refuses workers of class 'worker': .*account"):
        cluster.submit()


def test_what_has_to_wait_is_not_refused(slurm: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: slurm")
    cluster.manager.check(cluster.worker, cluster.contact)
    slurm.partition("cpu", "DOWN")
    cluster.manager.check(cluster.worker, cluster.contact)
    (identifier,) = cluster.submit()
    wait_until(lambda: "partition is down" in cluster.wait(identifier, "waiting").words, 30, "the reason is told")
    slurm.partition("cpu", "UP")
    cluster.wait(identifier, "running")
    slurm.run("scontrol", "update", "NodeName=n1,n2", "State=DRAIN", "Reason=test")
    try:
        cluster.manager.check(cluster.worker, cluster.contact)
    finally:
        slurm.run("scontrol", "update", "NodeName=n1,n2", "State=RESUME")


def test_a_controller_that_is_away_is_told_as_such_and_its_jobs_are_there_when_it_is_back(
    slurm: Daemons, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, "type: slurm")
    (identifier,) = cluster.submit()
    cluster.wait(identifier, "running")
    slurm.stop_controller()
    with pytest.raises(ClusterError, match=r"does not answer squeue: .*nable to contact slurm controller") as caught:
        cluster.manager.look(cluster.contact)
    assert "scontrol ping" in caught.value.way_out
    with pytest.raises(ClusterError, match="Slurm does not answer sbatch"):
        cluster.manager.check(cluster.worker, cluster.contact)
    slurm.start_controller()
    assert cluster.wait(identifier, "running").state == "running"


def test_without_slurms_commands_the_way_out_is_told(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: slurm", PATH=str(tmp_path))
    with pytest.raises(ClusterError) as caught:
        cluster.manager.check(cluster.worker, cluster.contact)
    assert "sbatch is not there" in str(caught.value)
    assert "command_prefix" in str(caught.value)


def test_commands_run_where_the_settings_say(slurm: Daemons, tmp_path: Path) -> None:
    # As ssh does: the words are glued together, and a shell there takes them apart.
    (tmp_path / "ssh").write_text('#!/bin/sh\nshift\nexec env -i PATH=/usr/bin:/bin SLURM_CONF="$CONF" sh -c "$*"\n')
    (tmp_path / "ssh").chmod(0o755)
    conf = slurm.environment()["SLURM_CONF"]
    settings = f"type: slurm, command_prefix: {tmp_path}/ssh submit.example.org, job_script_prologue: [sleep 60]"
    cluster = Cluster(tmp_path, settings, CONF=conf, SLURM_CONF="/nowhere")
    cluster.manager.check(cluster.worker, cluster.contact)
    (identifier,) = cluster.submit()
    assert cluster.find(identifier) is not None
    subprocess.run(cluster.manager.cancel_all(cluster.contact), check=True, env={**os.environ, "CONF": conf})
    assert cluster.wait(identifier, "ended").cause == "cancelled"


@pytest.mark.parametrize(
    ("do", "words"), [("exit 3", "ended with exit code 3"), ("kill -9 $$", "killed by signal 9 (SIGKILL)")]
)
def test_how_a_job_ended_is_told(slurm: Daemons, tmp_path: Path, do: str, words: str) -> None:
    cluster = Cluster(tmp_path, "type: slurm", DO=do)
    (identifier,) = cluster.submit()
    ended = cluster.wait(identifier, "ended")
    assert (ended.cause, ended.words) == ("failed", words)
    assert ended.host in ("n1", "n2")
    # By Slurm's accounts, when its queue has forgotten it.
    wait_until(lambda: cluster.manager.fate(cluster.contact, identifier) is not None, 30, "it is in the accounts")
    assert cluster.manager.fate(cluster.contact, identifier) == ended
    assert cluster.manager.fate(cluster.contact, "999999") is None


def test_a_job_whose_output_has_no_place_is_told(slurm: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: slurm", DO="true")
    slurm.partition("cpu", "DOWN")
    (identifier,) = cluster.submit()
    shutil.rmtree(cluster.contact.folder)
    slurm.partition("cpu", "UP")
    ended = cluster.wait(identifier, "ended")
    assert (ended.cause, "output folder" in ended.words) == ("failed", True)


def test_a_job_that_was_requeued_keeps_its_number_and_its_worker_has_a_new_name(
    slurm: Daemons, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, "type: slurm, job_extra_directives: [--requeue]")
    (identifier,) = cluster.submit()
    assert cluster.told(identifier)["words"][2] == f"slurm-{identifier}"
    slurm.run("scontrol", "requeue", identifier)
    waiting = cluster.wait(identifier, "waiting")
    assert waiting.cause == ""
    assert cluster.told(identifier, start=2)["words"][2] == f"slurm-{identifier}-r1"
    slurm.run("scontrol", "requeuehold", identifier)
    held = cluster.wait(identifier, "held")
    assert "held" in held.words
    assert "held" in cluster.manager.explain(cluster.contact, identifier)


def test_a_node_that_fails_is_told(slurm: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: slurm")
    (identifier,) = cluster.submit()
    host = cluster.wait(identifier, "running").host
    slurm.kill_node(host)
    ended = cluster.wait(identifier, "ended")
    assert (ended.cause, ended.words) == ("node failure", f"its node {host} failed")


def test_a_preempted_job_is_told(slurm: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: slurm, exclusive: true")
    identifiers = cluster.submit(2)
    for identifier in identifiers:
        cluster.wait(identifier, "running")
    of_others = ("-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 60")
    urgent = slurm.run("sbatch", "--parsable", *of_others)
    slurm.wait_for_job(urgent, "RUNNING")

    def causes() -> list[str]:
        return sorted(job.cause for job in cluster.manager.look(cluster.contact).values())

    wait_until(lambda: causes() == ["", "preempted"], 30, "one of the two has made room")


@pytest.fixture
def with_memory_watched(monkeypatch: pytest.MonkeyPatch, slurm: Daemons) -> Iterator[Daemons]:
    daemons = Daemons(nodes=1, gpu_nodes=0, enforce_memory=True)
    daemons.start()
    try:
        for name, value in daemons.environment().items():
            monkeypatch.setenv(name, value)
        yield daemons
    finally:
        daemons.remove()


def test_a_job_that_used_more_memory_than_it_asked_for_is_told(with_memory_watched: Daemons, tmp_path: Path) -> None:
    code = "import time; used = bytearray(400_000_000); time.sleep(60)"
    cluster = Cluster(tmp_path, "type: slurm", DO=f"python3 -c '{code}'")
    (identifier,) = cluster.submit()
    ended = cluster.wait(identifier, "ended")
    assert (ended.cause, ended.words) == ("out of memory", "used more memory than it had asked for")


@pytest.mark.parametrize(
    ("line", "job"),
    [
        ("7|PENDING|0|n/a|N/A|None|", QueuedJob("7", "waiting", "Slurm has not looked at it yet")),
        (
            "7|PENDING|0|n/a|N/A|AssocMaxJobsLimit|",
            QueuedJob("7", "waiting", "AssocMaxJobsLimit: a limit of your account is reached"),
        ),
        (
            "7_2|PENDING|0|n/a|N/A|QOSMaxCpuPerUserLimit|",
            QueuedJob("7_2", "waiting", "QOSMaxCpuPerUserLimit: a limit of the QOS is reached"),
        ),
        (
            "7|PENDING|0|n/a|N/A|ReqNodeNotAvail, UnavailableNodes:n[1-2]|",
            QueuedJob(
                "7",
                "waiting",
                "ReqNodeNotAvail, UnavailableNodes:n[1-2]: nodes that it needs are down, drained or reserved",
            ),
        ),
        ("7|PENDING|0|n/a|N/A|SomethingNew|", QueuedJob("7", "waiting", "SomethingNew")),
        (
            "7|PENDING|0|n/a|N/A|launch failed requeued held|",
            QueuedJob("7", "held", "launch failed requeued held: a node could not start it; it is held"),
        ),
        ("7|COMPLETING|0|n1|2026-11-22T19:00:00|None|", QueuedJob("7", "running", host="n1")),
        ("7|SUSPENDED|0|n1|2026-11-22T19:00:00|None|", QueuedJob("7", "running", "suspended", host="n1")),
        (
            "7|CONFIGURING|0|n1|2026-11-22T19:00:00|None|",
            QueuedJob("7", "waiting", "its node is being made ready", host="n1"),
        ),
        (
            "7|TIMEOUT|0|n1|2026-11-22T19:00:00|TimeLimit|",
            QueuedJob("7", "ended", "reached its walltime", "walltime", "n1"),
        ),
        (
            "7|OUT_OF_MEMORY|125|n1|2026-11-22T19:00:00|OutOfMemory|",
            QueuedJob("7", "ended", "used more memory than it had asked for", "out of memory", "n1"),
        ),
    ],
)
def test_what_squeue_says_is_understood(line: str, job: QueuedJob) -> None:
    assert module._job_of_squeue(line) == job


@pytest.mark.parametrize(
    ("line", "job"),
    [
        ("CANCELLED by 0|0:15|n1", QueuedJob("7", "ended", "cancelled by root", "cancelled", "n1")),
        ("CANCELLED by 4000000|0:0|None assigned", QueuedJob("7", "ended", "cancelled by user 4000000", "cancelled")),
        ("NODE_FAIL|1:0|n2", QueuedJob("7", "ended", "its node n2 failed", "node failure", "n2")),
        ("FAILED|0:9|n2", QueuedJob("7", "ended", "killed by signal 9 (SIGKILL)", "failed", "n2")),
    ],
)
def test_what_sacct_says_is_understood(line: str, job: QueuedJob) -> None:
    assert module._job_of_sacct("7", line) == job
