from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from surgeline.clusters.batch import (
    Contact,
    WorkerClass,
    made_to_measure,
    settings_of,
    worker_classes,
    workload_manager,
)
from surgeline.clusters.commands import Commands, how_it_ended, outside_of_jobs
from surgeline.clusters.htcondor import HTCondorSettings
from surgeline.clusters.settings import CommandSettings
from surgeline.clusters.slurm import SlurmSettings
from surgeline.config import PACKAGED, Configuration, load
from surgeline.errors import ClusterError, ConfigError
from surgeline.work.resources import Resources

GB = 10**9


def configured(folder: Path, text: str, *overrides: str) -> Configuration:
    (folder / "config.yaml").write_text(text)
    return load(folder, overrides, environment={}, home=folder / "home")


def batch(folder: Path, *lines: str, **environment: str) -> CommandSettings:
    """The settings of a Slurm cluster, one line each."""
    text = "".join(f"    {line}\n" for line in ("type: slurm", *lines))
    settings = settings_of(configured(folder, f"clusters:\n  batch:\n{text}"), "batch", environment)
    assert isinstance(settings, CommandSettings)
    return settings


def refused(folder: Path, *lines: str) -> str:
    with pytest.raises(ConfigError) as caught:
        batch(folder, *lines)
    return str(caught.value)


def test_a_cluster_that_says_nothing_has_defaults_that_run_a_job(tmp_path: Path) -> None:
    settings = batch(tmp_path)
    assert isinstance(settings, SlurmSettings)
    assert settings.offers == Resources(cores=1, memory=4 * GB, walltime=3600)
    assert (settings.maximum, settings.minimum, settings.poll, settings.tls) == (16, 0, 5, True)
    assert (settings.interpreter, settings.queue) == (sys.executable, None)
    assert settings.capabilities.shared_filesystem
    htcondor = settings_of(configured(tmp_path, "clusters: {pool: {type: htcondor}}"), "pool", {})
    assert isinstance(htcondor, HTCondorSettings)
    assert htcondor.offers == Resources(cores=1, memory=4 * GB)


def test_slurms_workers_go_where_the_session_itself_runs_unless_the_configuration_says_otherwise(
    tmp_path: Path,
) -> None:
    inside = {"SLURM_JOB_PARTITION": "long"}
    assert batch(tmp_path, **inside).model_dump()["queue"] == "long"
    assert batch(tmp_path, "queue: short", **inside).model_dump()["queue"] == "short"
    mixed = configured(tmp_path, "clusters: {b: {type: slurm, workers: {cpu: {}, gpu: {queue: gpu, gpus: 1}}}}")
    queues = [worker.settings.model_dump()["queue"] for worker in worker_classes(mixed, "b", inside)]
    assert queues == ["long", "gpu"]


@pytest.mark.parametrize("kind", ["slurm", "htcondor"])
def test_workers_of_every_class_listen_where_the_cluster_says(kind: str, tmp_path: Path) -> None:
    told = configured(tmp_path, f"clusters: {{b: {{type: {kind}, interface: ib0, workers: {{cpu: {{}}}}}}}}")
    (worker,) = worker_classes(told, "b", {})
    contact = Contact("tls://10.0.0.5:8786", "probe", "surgeline-1", tmp_path)
    assert "--interface ib0" in workload_manager(told, "b", {}).text(worker, contact)


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("1:00:00", 3600),
        ('"1:00:00"', 3600),
        ('"240:00:00"', 864000),
        ("1-0:0:0", 86400),
        ("2-12", 216000),
        ('"30:00"', 1800),
        ("30:00", 1800),
        ("90m", 5400),
        ("120", 120),
        ("null", 3600),
    ],
)
def test_a_walltime_is_understood_as_slurm_writes_it(tmp_path: Path, walltime: str, seconds: int) -> None:
    assert batch(tmp_path, f"walltime: {walltime}").walltime == seconds


def test_values_and_names_of_the_casa_pipeline_and_of_dask_jobqueue_are_understood(tmp_path: Path) -> None:
    settings = batch(
        tmp_path,
        "name: null",
        "queue: batch",
        "project: alma",
        "memory: 10gb",
        "cores: 8",
        "processes: 1",
        "walltime: 1-0:0:0",
        "death-timeout: 60s",
        "local-directory: $TMPDIR",
        "interface: ib0",
        "extra: [--lifetime, 55m]",
        "env-extra: [module load casa]",
        "job-extra: ['--exclusive']",
        "job_extra_directives: null",
        "header-skip: [--mem]",
        "n_workers: 6",
        "python: /opt/casa/bin/python",
    )
    assert isinstance(settings, SlurmSettings)
    assert settings.offers == Resources(cores=8, memory=10 * GB, walltime=86400)
    assert (settings.name, settings.queue, settings.account) == ("surgeline", "batch", "alma")
    assert (settings.death_timeout, settings.interface, settings.maximum) == (60, "ib0", 6)
    assert (settings.local_directory, settings.interpreter) == ("$TMPDIR", "/opt/casa/bin/python")
    assert settings.worker_extra_args == ("--lifetime", "55m")
    assert settings.job_script_prologue == ("module load casa",)
    assert (settings.job_extra_directives, settings.job_directives_skip) == (("--exclusive",), ("--mem",))
    pipeline = "pipeconfig: {dask: {clustertype: slurm, n_workers: 5, jobqueue: {slurm: {cores: 2}, htcondor: {}}}}"
    found = settings_of(configured(tmp_path, pipeline), "slurm", {})
    assert (found.cores, found.maximum) == (2, 5)


def test_more_than_one_process_is_refused_with_what_to_write_instead(tmp_path: Path) -> None:
    message = refused(tmp_path, "cores: 8", "processes: 8", "memory: 120GB")
    assert f"{tmp_path}/config.yaml:5: clusters.batch.processes = 8" in message
    assert "one worker" in message
    assert "cores: 1, memory: 15000000000 and no processes" in message


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (["memroy: 8GB"], 4, ["'clusters.batch.memroy'", "'memory'"]),
        (["cores: many"], 4, ["clusters.batch.cores", "'many'", "integer"]),
        (["queue: a", "memory: lots"], 5, ["clusters.batch.memory", "'lots' is no amount of memory"]),
        (["walltime: soon"], 4, ["clusters.batch.walltime", "'soon' is no duration"]),
        (["maximum: 2", "minimum: 3"], 5, ["clusters.batch.minimum", "above the maximum, which is 2"]),
        (["name: my workers"], 4, ["clusters.batch.name", "pattern"]),
        (["log_directory: logs"], 4, ["clusters.batch.log_directory", "from / on"]),
        (["gres: gpu:a100:2"], 4, ["clusters.batch.gres", "write gpus: 2"]),
        (["job_extra_directives: ['--job-name=x']"], 4, ["--job-name=x", "known by their names"]),
        (["job_directives_skip: ['-J']"], 4, ["-J", "known by their names"]),
        (["requirements: Arch"], 4, ["'clusters.batch.requirements'"]),
        (["otherwise: lcoal"], 4, ["clusters.batch.otherwise", "'local'"]),
        (["otherwise: batch"], 4, ["clusters.batch.otherwise", "no other cluster"]),
        (["scheduler_options: {host: x}"], 4, ["scheduler_options", "dask.dashboard_address"]),
        (["extra: [a]", "worker_extra_args: [b]"], 5, ["worker_extra_args is said twice", "config.yaml:4"]),
        (["workers: 3"], 4, ["clusters.batch.workers", "mapping"]),
        (["workers:", "  fat: 3"], 5, ["clusters.batch.workers.fat", "mapping"]),
        (["workers:", "  fat:", "    memroy: 8GB"], 6, ["'clusters.batch.workers.fat.memroy'", "'memory'"]),
        (["workers:", "  fat:", "    cores: -1"], 6, ["clusters.batch.workers.fat.cores", "greater than 0"]),
        (["workers:", "  fat:", "    port: 3"], 6, ["workers.fat.port cannot be said", "clusters.batch.port"]),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_the_way_out(
    tmp_path: Path, lines: list[str], line: int, words: list[str]
) -> None:
    message = refused(tmp_path, *lines)
    assert f"{tmp_path}/config.yaml:{line}" in message
    for word in words:
        assert word in message


def test_what_is_wrong_outside_of_files_is_told_too(tmp_path: Path) -> None:
    wrong = configured(tmp_path, "clusters: {b: {type: htcondor}}", "clusters.b.diks=3GB")
    with pytest.raises(ConfigError) as caught:
        settings_of(wrong, "b", {})
    assert "--set clusters.b.diks=3GB" in str(caught.value)
    assert "'disk'" in str(caught.value)


def test_htcondor_has_room_for_one_line_of_each_command(tmp_path: Path) -> None:
    wrong = configured(tmp_path, "clusters: {b: {type: htcondor, job_script_prologue: ['a\n\n b']}}")
    with pytest.raises(ConfigError, match="each command as an entry of its own"):
        settings_of(wrong, "b", {})


MIXED = """\
worker: {threads: 2}
clusters:
  batch:
    type: slurm
    queue: cpu
    constraint: avx2
    memory: 8GB
    maximum: 20
    workers:
      small:
      fat: {cores: 8, memory: 64GB, maximum: 4, constraint: null}
      gpu: {queue: gpu, gpus: 1, minimum: 1}
"""


def test_each_worker_class_has_what_the_cluster_says_and_it_does_not(tmp_path: Path) -> None:
    fat, gpu, small = worker_classes(configured(tmp_path, MIXED), "batch", {})
    assert (fat.name, gpu.name, small.name) == ("fat", "gpu", "small")
    assert small.offers == Resources(cores=1, memory=8 * GB, walltime=3600)
    assert fat.offers == Resources(cores=8, memory=64 * GB, walltime=3600)
    assert gpu.offers == Resources(cores=1, memory=8 * GB, gpus=1, walltime=3600)
    assert [(worker.maximum, worker.minimum) for worker in (fat, gpu, small)] == [(4, 0), (20, 1), (20, 0)]
    settings = [worker.settings.model_dump() for worker in (fat, gpu, small)]
    assert [(one["queue"], one["constraint"]) for one in settings] == [
        ("cpu", None),
        ("gpu", "avx2"),
        ("cpu", "avx2"),
    ]
    assert fat.threads == 2


def test_without_classes_all_workers_are_alike(tmp_path: Path) -> None:
    (only,) = worker_classes(configured(tmp_path, "clusters: {b: {type: htcondor, cores: 3}}"), "b", {})
    assert (only.name, only.offers.cores, only.maximum, only.threads) == ("worker", 3, 16, 1)


@pytest.mark.parametrize(
    ("asked", "queue", "offers"),
    [
        # The nearest, made as large as what is asked for.
        (Resources(cores=16, memory=70 * GB), "cpu", Resources(cores=16, memory=70 * GB, walltime=3600)),
        (Resources(memory=66 * GB), "cpu", Resources(cores=8, memory=66 * GB, walltime=3600)),
        (Resources(walltime=7200), "cpu", Resources(cores=1, memory=8 * GB, walltime=7200)),
        # Those with GPUs are another kind.
        (Resources(gpus=2), "gpu", Resources(cores=1, memory=8 * GB, gpus=2, walltime=3600)),
        (Resources(gpus=1, memory=80 * GB), "gpu", Resources(cores=1, memory=80 * GB, gpus=1, walltime=3600)),
    ],
)
def test_for_a_job_that_fits_no_class_the_nearest_is_made_larger(
    tmp_path: Path, asked: Resources, queue: str, offers: Resources
) -> None:
    classes = worker_classes(configured(tmp_path, MIXED), "batch", {})
    made = made_to_measure(classes, asked, "large")
    assert (made.name, made.offers, made.settings.model_dump()["queue"]) == ("large", offers, queue)
    assert asked.fits(made.settings.offers)


def test_of_gpus_of_a_kind_more_are_asked_for(tmp_path: Path) -> None:
    settings = batch(tmp_path, "gpus: 1", "gres: 'gpu:a100:1,license:3'")
    one = WorkerClass("one", settings.offers, settings, 1, 0)
    made = made_to_measure([one], Resources(gpus=4), "four").settings
    assert made.model_dump()["gres"] == "gpu:a100:4,license:3"


def test_what_a_job_tells_its_processes_is_not_told_to_what_they_submit() -> None:
    own = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "CONDOR_CONFIG": "/c", "_CONDOR_SCHEDD_HOST": "submit"}
    of_jobs = {
        "SLURM_JOB_ID": "3",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURMD_NODENAME": "n1",
        "SBATCH_PARTITION": "gpu",
        "SQUEUE_FORMAT": "%i",
        "CUDA_VISIBLE_DEVICES": "1",
        "_CONDOR_JOB_AD": "/scratch/.job.ad",
        "_CONDOR_AssignedGPUs": "1",
    }
    assert outside_of_jobs(own | of_jobs) == own


def test_a_command_that_is_not_there_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        Commands((), {"PATH": str(tmp_path)}).run("no-such-command")
    assert "no-such-command is not there" in str(caught.value)
    assert "command_prefix" in str(caught.value)


def test_a_command_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgeline.clusters.commands._SECONDS", 0.1)
    with pytest.raises(ClusterError, match="sleep did not answer"):
        Commands((), {"PATH": "/bin:/usr/bin"}).run("sleep", "60")


def test_a_remote_shell_gets_words_that_it_reads_as_they_were() -> None:
    said = 'Session == "a b" && $x'
    assert Commands((), {}).line("condor_q", said) == ["condor_q", said]
    assert Commands(("env", "A=1"), {}).line("condor_q", said) == ["env", "A=1", "condor_q", said]
    assert Commands(("ssh", "submit"), {}).line("condor_q", said) == ["ssh", "submit", f"condor_q '{said}'"]


def test_how_a_process_ended_is_told_in_words() -> None:
    assert how_it_ended(3, 0) == "ended with exit code 3"
    assert how_it_ended(0, 9) == "killed by signal 9 (SIGKILL)"
    assert how_it_ended(0, 53) == "killed by signal 53"


@pytest.mark.parametrize("kind", ["slurm", "htcondor"])
def test_without_dask_jobqueue_the_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    configuration = configured(tmp_path, f"clusters: {{b: {{type: {kind}}}}}")
    manager = workload_manager(configuration, "b", {})
    contact = Contact("tcp://127.0.0.1:8786", "surgeline.parallel.batchworker", "surgeline-1", tmp_path)
    with pytest.raises(ClusterError, match=rf"pip install 'surgeline\[{kind}\]'"):
        manager.text(worker_classes(configuration, "b", {})[0], contact)


@pytest.mark.parametrize("model", [SlurmSettings, HTCondorSettings])
def test_every_key_is_explained_in_the_packaged_configuration_with_its_default(
    tmp_path: Path, model: type[CommandSettings]
) -> None:
    kind = "slurm" if model is SlurmSettings else "htcondor"
    packaged = PACKAGED.read_text()
    block = packaged[packaged.index("  # batch:") : packaged.index("  # The keys of dask-jobqueue")]
    explained = yaml.safe_load(re.sub(r"(?m)^  # ?", "", block))["batch"]
    # The one that is not explained is there to be refused.
    assert set(explained) >= model.model_fields.keys() - {"processes"}
    del explained["workers"]
    if model is HTCondorSettings:
        del explained["walltime"]
    own = {key: value for key, value in explained.items() if key in model.model_fields} | {"type": kind}
    bare = configured(tmp_path, f"clusters: {{batch: {{type: {kind}}}}}")
    assert settings_of(configured(tmp_path, yaml.dump({"clusters": {"batch": own}})), "batch", {}) == settings_of(
        bare, "batch", {}
    )


def test_what_makes_the_text_of_queue_jobs_leaves_signals_alone() -> None:
    code = (
        "import signal, threading\n"
        "from surgeline.clusters.jobtext import load_jobqueue\n"
        "ours = lambda *_: None; signal.signal(signal.SIGINT, ours)\n"
        "thread = threading.Thread(target=load_jobqueue, args=('slurm',)); thread.start(); thread.join()\n"
        "import dask_jobqueue.slurm\n"
        "print(signal.getsignal(signal.SIGINT) is ours, signal.signal(signal.SIGINT, signal.SIG_DFL) is ours)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("True True\n", "")
