from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from queuejobs import Cluster
from services.htcondor import HTCondor as Daemons
from services.htcondor import programs_of_htcondor
from support import wait_until
from surgeline.clusters import htcondor as module
from surgeline.clusters.batch import Contact, QueuedJob
from surgeline.errors import ClusterError, SchedulerSilent

CERTIFICATES = (Path("/w/tls/ca.pem"), Path("/w/tls/worker.pem"), Path("/w/tls/worker.key"))
PLAIN = Contact("tcp://10.0.0.5:8786", "surgeline.parallel.batchworker", "surgeline-1a2b3c4d", Path("/w/logs"))
AWKWARD = 'a "b" it\'s #1 100% $HOME $(ClusterId) `x` ;& | ü'


def text(folder: Path, settings: str, contact: Contact = PLAIN, count: int = 1) -> str:
    cluster = Cluster(folder, f"type: htcondor, python: /opt/bin/python, {settings}")
    return cluster.manager.text(cluster.worker, contact, count)


def test_the_text_of_a_plain_worker(tmp_path: Path) -> None:
    assert text(tmp_path, "memory: 4GB") == (
        "#!/usr/bin/env condor_submit\n"
        "\n"
        'MY.DaskWorkerName = "htcondor-$(ClusterId).$(ProcId)"\n'
        "batch_name = surgeline-1a2b3c4d\n"
        "RequestCpus = 1\n"
        "RequestMemory = 3815\n"
        "RequestDisk = 976563\n"
        'MY.JobId = "$(ClusterId).$(ProcId)"\n'
        "MY.DaskWorkerCores = 1\n"
        "MY.DaskWorkerMemory = 4000000000\n"
        "MY.DaskWorkerDisk = 1000000000\n"
        "initialdir = /w/logs\n"
        "output = /w/logs/htcondor-$(ClusterId).$(ProcId).log\n"
        "error = /w/logs/htcondor-$(ClusterId).$(ProcId).log\n"
        "getenv = True\n"
        "job_lease_duration = 300\n"
        "should_transfer_files = NO\n"
        'MY.SurgelineSession = "surgeline-1a2b3c4d"\n'
        "\n"
        "Arguments = \"-c 'export OMP_NUM_THREADS=1; export OPENBLAS_NUM_THREADS=1; export MKL_NUM_THREADS=1;"
        " exec /opt/bin/python -m surgeline.parallel.batchworker tcp://10.0.0.5:8786 --name"
        ' ""htcondor-$(ClusterId).$(ProcId)`sed -n'
        ' \'\'s/^NumJobStarts = \\([1-9]\\)/-r\\1/p\'\' ""$_CONDOR_JOB_AD""`""'
        " --nthreads 1 --memory-limit 4000000000 --death-timeout 60"
        " --resources cores=1,memory=4000000000,gpus=0'\"\n"
        "Executable = /bin/sh\n"
        "\n"
        "Queue 1\n"
    )


def test_the_text_of_several_workers_of_which_everything_is_said(tmp_path: Path) -> None:
    settings = (
        "cores: 8, memory: 64GiB, disk: 20GB, gpus: 2, walltime: 1-0:0:0, requirements: 'Arch == \"X86_64\"',"
        "getenv: 'HOME, PATH', transfer_files: true, max_retries: 2, accounting_group: alma.pipeline,"
        "log_directory: /logs, job_script_prologue: [module load casa, 'export A=\"$(date) b\"'],"
        "job_extra_directives: {Priority: 5, +Project: '\"x\"'},"
        "job_directives_skip: [requestdisk, my.daskworkerdisk],"
        "worker_extra_args: [--lifetime 55m], local_directory: $TMPDIR, container: casa.sif"
    )
    contact = Contact("tls://10.0.0.5:8786", PLAIN.module, PLAIN.name, Path("/w/of it's"), CERTIFICATES)
    assert text(tmp_path, settings, contact, 3) == (
        "#!/usr/bin/env condor_submit\n"
        "\n"
        'MY.DaskWorkerName = "htcondor-$(ClusterId).$(ProcId)"\n'
        "batch_name = surgeline-1a2b3c4d\n"
        "RequestCpus = 8\n"
        "RequestMemory = 65536\n"
        'MY.JobId = "$(ClusterId).$(ProcId)"\n'
        "MY.DaskWorkerCores = 8\n"
        "MY.DaskWorkerMemory = 68719476736\n"
        "initialdir = /w/of it's\n"
        "output = /logs/htcondor-$(ClusterId).$(ProcId).log\n"
        "error = /logs/htcondor-$(ClusterId).$(ProcId).log\n"
        "getenv = HOME, PATH\n"
        "job_lease_duration = 300\n"
        "request_gpus = 2\n"
        "allowed_job_duration = 86400\n"
        'requirements = Arch == "X86_64"\n'
        "max_retries = 2\n"
        "accounting_group = alma.pipeline\n"
        "should_transfer_files = YES\n"
        "when_to_transfer_output = ON_EXIT\n"
        "transfer_executable = False\n"
        "transfer_input_files = /w/tls/ca.pem,/w/tls/worker.pem,/w/tls/worker.key\n"
        'transfer_output_files = ""\n'
        "stream_output = True\n"
        "stream_error = True\n"
        '+Project = "x"\n'
        "Priority = 5\n"
        'MY.SurgelineSession = "surgeline-1a2b3c4d"\n'
        "\n"
        "Arguments = \"-c 'export OMP_NUM_THREADS=1; export OPENBLAS_NUM_THREADS=1; export MKL_NUM_THREADS=1;"
        ' module load casa; export A=""$(DOLLAR)(date) b"";'
        " exec apptainer exec --nv casa.sif /opt/bin/python -m surgeline.parallel.batchworker tls://10.0.0.5:8786"
        ' --name ""htcondor-$(ClusterId).$(ProcId)`sed -n'
        ' \'\'s/^NumJobStarts = \\([1-9]\\)/-r\\1/p\'\' ""$_CONDOR_JOB_AD""`""'
        ' --nthreads 1 --memory-limit 68719476736 --death-timeout 60 --local-directory ""$TMPDIR""'
        " --resources cores=8,memory=68719476736,gpus=2"
        " --tls-ca-file ca.pem --tls-cert worker.pem --tls-key worker.key --lifetime 55m'\"\n"
        "Executable = /bin/sh\n"
        "\n"
        "Queue 3\n"
    )


def test_the_text_depends_on_nothing_but_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    before = text(tmp_path, "log_directory: /nowhere/logs")
    monkeypatch.setenv("_CONDOR_JOB_AD", "/nowhere/ad")
    monkeypatch.setenv("PATH", "/nowhere")
    with dask.config.set({"jobqueue.htcondor": {"interface": "ib9", "job-extra": {"theirs": 1}, "disk": "9GB"}}):
        assert text(tmp_path, "log_directory: /nowhere/logs") == before
    assert not Path("/nowhere").exists()


def test_what_the_user_adds_replaces_what_we_say_of_it_but_not_whose_job_it_is(tmp_path: Path) -> None:
    extra = "{Should_Transfer_Files: IF_NEEDED, my.surgelinesession: '\"theirs\"'}"
    found = text(tmp_path, f"job_extra_directives: {extra}").lower().splitlines()
    assert [line for line in found if line.startswith("should_transfer")] == ["should_transfer_files = if_needed"]
    assert [line for line in found if "surgelinesession" in line][-1] == 'my.surgelinesession = "surgeline-1a2b3c4d"'


@pytest.mark.parametrize("transfer", [False, True])
def test_a_job_gets_each_word_as_it_was_and_nothing_of_the_job_that_submits_it(
    htcondor: Daemons, tmp_path: Path, transfer: bool
) -> None:
    folder = tmp_path / AWKWARD
    folder.mkdir()
    settings = (
        f"type: htcondor, cores: 2, transfer_files: {transfer}, job_script_prologue: ['export A=\"$(echo b)  c\"']"
    )
    inside = {"SLURM_JOB_ID": "77", "_CONDOR_SLOT": "slot9", "SLURM_RESTART_COUNT": "4"}
    do = "true" if not transfer else "cat ca.pem worker.pem worker.key > /dev/null"
    cluster = Cluster(folder, settings, **inside, OF_USER="stays", DO=do)
    certificates = tuple(cluster.contact.folder / name for name in ("ca.pem", "worker.pem", "worker.key"))
    for path in certificates:
        path.write_text("secret")
    cluster.contact = Contact("tls://10.0.0.5:8786", "probe", cluster.contact.name, folder / "logs", certificates)
    (identifier,) = cluster.submit()
    told = cluster.told(identifier)
    names = [path.name if transfer else str(path) for path in certificates]
    assert told["words"] == [
        *("tls://10.0.0.5:8786", "--name", f"htcondor-{identifier}", "--nthreads", "1"),
        *("--memory-limit", "100000000", "--death-timeout", "60"),
        *("--resources", "cores=2,memory=100000000,gpus=0"),
        *("--tls-ca-file", names[0], "--tls-cert", names[1], "--tls-key", names[2]),
    ]
    variables = told["variables"]
    where = variables["_CONDOR_SCRATCH_DIR"] if transfer else str(folder / "logs")
    assert told["folder"] == where
    assert (variables["OF_USER"], variables["OMP_NUM_THREADS"], variables["A"]) == ("stays", "1", "b  c")
    assert variables["_CONDOR_SLOT"] != "slot9"
    assert not [name for name in variables if name.startswith("SLURM_") and name != "SLURM_CONF"]
    ended = cluster.wait(identifier, "ended")
    assert (ended.cause, ended.words) == ("completed", "ended by itself")
    # Nothing that a worker leaves behind comes back.
    assert {path.name for path in (folder / "logs").iterdir()} == {
        *(path.name for path in certificates),
        f"htcondor-{identifier}.log",
    }


def test_many_workers_are_submitted_at_once_and_are_found_and_removed_one_by_one(
    htcondor: Daemons, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, "type: htcondor, cores: 4, requirements: '(GPUs ?: 0) == 0'")
    identifiers = cluster.submit(3)
    assert [name.partition(".")[2] for name in identifiers] == ["0", "1", "2"]

    def those(state: str) -> list[str]:
        return [job.identifier for job in cluster.manager.look(cluster.contact).values() if job.state == state]

    wait_until(lambda: len(those("running")) == 2, 60, "each machine runs one")
    (waiting,) = those("waiting")
    assert cluster.wait(waiting, "waiting").words.startswith("it waits for a machine")
    one = those("running")[0]
    assert cluster.told(one)["words"][2] == f"htcondor-{one}"
    cluster.manager.cancel([one, "99999.0"])
    ended = cluster.wait(one, "ended")
    assert (ended.cause, ended.words.startswith("cancelled by ")) == ("cancelled", True)
    # Its place is taken by the one that waited.
    cluster.wait(waiting, "running")
    others = Cluster(tmp_path, "type: htcondor")
    (of_others,) = others.submit()
    subprocess.run(cluster.manager.cancel_all(cluster.contact), check=True)
    for identifier in identifiers:
        assert cluster.wait(identifier, "ended").cause == "cancelled"
    wait_until(lambda: cluster.manager.look(cluster.contact) == {}, 30, "nothing of the session is left")
    assert others.wait(of_others, "running").state == "running"
    # Once more, when none is left.
    subprocess.run(cluster.manager.cancel_all(cluster.contact), check=True)
    assert cluster.manager.fate(cluster.contact, "99999.0") is None


def test_a_wrong_submit_file_is_refused_before_anything_is_submitted(htcondor: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: htcondor, requirements: 'Arch == (('")
    for ask in (cluster.manager.check, lambda worker, contact: cluster.manager.submit(worker, contact, 1)):
        with pytest.raises(ClusterError, match=r"HTCondor refuses workers of class 'worker': ERROR: Parse error"):
            ask(cluster.worker, cluster.contact)


def test_what_no_machine_fits_waits_with_the_reason(htcondor: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: htcondor, cores: 99, memory: 300MB")
    cluster.manager.check(cluster.worker, cluster.contact)
    (identifier,) = cluster.submit()
    assert cluster.wait(identifier, "waiting").words.startswith("it waits for a machine")
    assert cluster.manager.explain(cluster.contact, identifier) == (
        "no machine has Cpus >= 99; of 3 machines 3 are rejected by your job's requirements"
    )
    assert cluster.manager.explain(cluster.contact, "99999.0") == ""


def test_a_schedd_that_is_away_is_told_as_such_and_its_jobs_are_there_when_it_is_back(
    htcondor: Daemons, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, "type: htcondor")
    (identifier,) = cluster.submit()
    cluster.wait(identifier, "running")
    htcondor.stop_schedd()
    for ask in (
        lambda: cluster.manager.look(cluster.contact),
        lambda: cluster.manager.cancel([identifier]),
        lambda: cluster.manager.check(cluster.worker, cluster.contact),
        cluster.submit,
    ):
        with pytest.raises(SchedulerSilent, match="HTCondor does not answer condor_") as caught:
            ask()
        assert "condor_status -schedd" in caught.value.way_out
    htcondor.start_schedd()
    assert cluster.find(identifier) is not None


def test_without_htcondors_commands_the_way_out_is_told(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: htcondor", PATH=str(tmp_path))
    with pytest.raises(ClusterError) as caught:
        cluster.manager.check(cluster.worker, cluster.contact)
    assert "condor_submit is not there" in str(caught.value)
    assert "command_prefix" in str(caught.value)


def test_commands_run_where_the_settings_say(htcondor: Daemons, tmp_path: Path) -> None:
    # As ssh does: the words are glued together, and a shell there takes them apart.
    (tmp_path / "ssh").write_text('#!/bin/sh\nshift\nexec env PATH="$THERE" sh -c "$*"\n')
    (tmp_path / "ssh").chmod(0o755)
    prefix = f"command_prefix: {tmp_path}/ssh submit.example.org"
    there = {"THERE": htcondor.environment()["PATH"]}
    cluster = Cluster(tmp_path, f"type: htcondor, cores: 99, {prefix}", **there, PATH="/usr/bin:/bin")
    cluster.manager.check(cluster.worker, cluster.contact)
    (identifier,) = cluster.submit()
    assert cluster.wait(identifier, "waiting").state == "waiting"
    subprocess.run(cluster.manager.cancel_all(cluster.contact), check=True, env={**os.environ, **there})
    assert cluster.wait(identifier, "ended").cause == "cancelled"


@pytest.mark.parametrize(
    ("do", "words"), [("exit 3", "ended with exit code 3"), ("kill -9 $$", "killed by signal 9 (SIGKILL)")]
)
def test_how_a_job_ended_is_told(htcondor: Daemons, tmp_path: Path, do: str, words: str) -> None:
    cluster = Cluster(tmp_path, "type: htcondor", DO=do)
    (identifier,) = cluster.submit()
    ended = cluster.wait(identifier, "ended")
    assert (ended.cause, ended.words) == ("failed", words)
    assert ended.host


def test_a_job_that_failed_starts_again_as_often_as_the_settings_say(htcondor: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: htcondor, max_retries: 1", DO="exit 3")
    (identifier,) = cluster.submit()
    ended = cluster.wait(identifier, "ended")
    assert ended.words == "ended with exit code 3"
    assert cluster.told(identifier)["words"][2] == f"htcondor-{identifier}-r1"


def test_an_evicted_job_keeps_its_number_and_its_worker_has_a_new_name(htcondor: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: htcondor")
    (identifier,) = cluster.submit()
    assert cluster.told(identifier)["words"][2] == f"htcondor-{identifier}"
    htcondor.run("condor_vacate_job", "-fast", identifier)

    def is_new() -> bool:
        return cluster.told(identifier)["words"][2] == f"htcondor-{identifier}-r1"

    wait_until(is_new, 60, "it starts anew")
    cluster.wait(identifier, "running")


def test_a_held_job_is_told_with_the_reason(htcondor: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: htcondor")
    (identifier,) = cluster.submit()
    cluster.wait(identifier, "running")
    htcondor.run("condor_hold", identifier)
    held = cluster.wait(identifier, "held")
    assert (held.cause, "condor_hold" in held.words) == ("cancelled", True)
    assert cluster.manager.explain(cluster.contact, identifier) == held.words


@pytest.fixture
def with_memory_watched(monkeypatch: pytest.MonkeyPatch, htcondor: Daemons) -> Iterator[Daemons]:
    daemons = Daemons(programs_of_htcondor(), nodes=1, gpu_nodes=0, enforce_memory=True)
    daemons.start()
    try:
        for name, value in daemons.environment().items():
            monkeypatch.setenv(name, value)
        yield daemons
    finally:
        daemons.remove()


def test_a_job_that_used_more_memory_than_it_asked_for_is_told(with_memory_watched: Daemons, tmp_path: Path) -> None:
    code = "import time; used = bytearray(400_000_000); time.sleep(60)"
    cluster = Cluster(tmp_path, "type: htcondor", DO=f"python3 -c '{code}'")
    (identifier,) = cluster.submit()
    held = cluster.wait(identifier, "held")
    assert (held.cause, "memory usage exceeded" in held.words) == ("out of memory", True)


def test_a_job_that_reached_its_walltime_is_told(htcondor: Daemons, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "type: htcondor, walltime: 2s")
    (identifier,) = cluster.submit()
    held = cluster.wait(identifier, "held")
    assert (held.cause, "allowed job duration" in held.words) == ("walltime", True)


@pytest.mark.parametrize(
    ("advertisement", "job"),
    [
        (
            {"JobStatus": 5, "HoldReasonCode": 34, "HoldReason": "memory usage exceeded request_memory"},
            QueuedJob("7.1", "held", "held: memory usage exceeded request_memory", "out of memory"),
        ),
        (
            {"JobStatus": 5, "HoldReasonCode": 12, "HoldReason": "Transfer failed", "LastRemoteHost": "slot1@n1"},
            QueuedJob("7.1", "held", "held: Transfer failed", "failed", "n1"),
        ),
        (
            {"JobStatus": 1, "NumJobStarts": 1, "LastRejMatchReason": "no match found "},
            QueuedJob("7.1", "waiting", "it waits to start again, on another machine: no match found"),
        ),
        (
            {"JobStatus": 7, "RemoteHost": "slot1_2@n1.x.org"},
            QueuedJob("7.1", "running", "suspended", host="n1.x.org"),
        ),
        (
            {"JobStatus": 3, "RemoveReason": "The job attribute PeriodicRemove expression evaluated to TRUE"},
            QueuedJob(
                "7.1",
                "ended",
                "cancelled: The job attribute PeriodicRemove expression evaluated to TRUE",
                "cancelled",
            ),
        ),
    ],
)
def test_what_an_advertisement_says_is_understood(advertisement: dict[str, object], job: QueuedJob) -> None:
    assert module._job({"ClusterId": 7, "ProcId": 1, **advertisement}) == job


def test_an_analysis_is_condensed() -> None:
    analysis = """\
The Requirements expression for job 24.000 reduces to these conditions:
         Slots
Step    Matched  Condition
-----  --------  ---------
[0]           2  TARGET.Arch == "X86_64"
[5]           0  TARGET.Memory >= RequestMemory

    RequestMemory = 90000 (mb)

024.000:  Run analysis summary ignoring user priority.  Of 2 machines,
      2 are rejected by your job's requirements
      0 reject your job because of their own requirements
"""
    assert module._condensed(analysis) == (
        "no machine has Memory >= 90000 (mb); of 2 machines 2 are rejected by your job's requirements"
    )
    assert module._condensed("nothing of it") == ""
    assert module._condensed("Of 0 machines,\n") == "there are no machines"
