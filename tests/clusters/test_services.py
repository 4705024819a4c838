"""The tests' own Slurm and HTCondor do what tests of clusters count on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from services.htcondor import HTCondor
from services.slurm import Slurm
from support import NOBODY, wait_until


def sbatch(slurm: Slurm, script: str, *options: str | Path) -> str:
    return slurm.run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")


def condor_submit(htcondor: HTCondor, folder: Path, script: str, *directives: str) -> str:
    """Submit a job that writes into a folder; a script without quotation marks."""
    text = ["executable = /bin/sh", f"""arguments = "-c '{script}'" """, "getenv = true", "request_memory = 10MB"]
    text += ["should_transfer_files = NO", f"initialdir = {folder}", *directives, "queue"]
    return htcondor.run("condor_submit", "-terse", input="\n".join(text)).split()[0]


def test_slurm_runs_jobs_on_each_kind_of_node(slurm: Slurm, tmp_path: Path) -> None:
    plain = sbatch(slurm, "echo $SLURMD_NODENAME", f"--output={tmp_path}/plain")
    options = ("--partition=gpu", "--gres=gpu:2", f"--output={tmp_path}/gpu")
    gpu = sbatch(slurm, "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES", *options)

    slurm.wait_for_job(plain, "COMPLETED")
    slurm.wait_for_job(gpu, "COMPLETED")
    assert (tmp_path / "plain").read_text() in ("n1\n", "n2\n")
    assert (tmp_path / "gpu").read_text() == "g1 0,1\n"


def test_slurm_refuses_at_once_what_it_cannot_give(slurm: Slurm) -> None:
    for options, words in [
        (["--partition=nowhere"], "Invalid partition name specified"),
        (["--partition=closed", "--account=mine"], "Invalid account"),
        (["--partition=short", "--time=10"], "time limit is invalid"),
        (["--gres=gpu:1"], "Requested node configuration is not available"),
    ]:
        refused = slurm.try_to_run("sbatch", *options, "--wrap=true")
        assert refused.returncode != 0
        assert words in refused.stderr


def test_a_node_of_slurms_dies_with_all_that_its_jobs_have_started(slurm: Slurm, tmp_path: Path) -> None:
    # Out of its job's process group, as Dask's workers are.
    script = f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 1000' & wait"
    job = sbatch(slurm, script, "--nodelist=n2")
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", 30, "the job runs")

    slurm.kill_node("n2", told=True)

    assert slurm.wait_for_job(job, "NODE_FAIL") == "NODE_FAIL"
    assert not is_running(int((tmp_path / "pid").read_text()))
    slurm.start_node("n2")
    slurm.wait_for_job(sbatch(slurm, "true", "--nodelist=n2"), "COMPLETED")


def test_slurmctld_has_its_queue_again_after_a_restart(slurm: Slurm) -> None:
    running = sbatch(slurm, "sleep 1000")
    held = sbatch(slurm, "true", "--hold")
    slurm.wait_for_job(running, "RUNNING")

    slurm.stop_controller()
    slurm.start_controller()

    assert slurm.job_state(running) == "RUNNING"
    assert slurm.job_state(held) == "PENDING"


def test_an_urgent_job_of_slurms_takes_the_place_of_another(slurm_with: Callable[..., Slurm]) -> None:
    slurm = slurm_with(nodes=1, gpu_nodes=0, preempt="REQUEUE")
    other = sbatch(slurm, "sleep 1000", "--exclusive", "--requeue")
    slurm.wait_for_job(other, "RUNNING")

    urgent = sbatch(slurm, "sleep 1000", "--partition=urgent", "--exclusive")

    slurm.wait_for_job(urgent, "RUNNING")
    assert slurm.job_state(other) == "PENDING"


def test_slurm_runs_another_users_job_as_that_user(slurm: Slurm) -> None:
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    output = slurm.folder / "shared"
    output.mkdir()
    output.chmod(0o777)

    command = ("sbatch", "--parsable", f"--output={output}/user", "--wrap=id -u")
    job = slurm.run(*command, cwd=output, user=user if os.geteuid() == 0 else None)

    slurm.wait_for_job(job, "COMPLETED")
    assert (output / "user").read_text() == f"{user}\n"


def test_htcondor_runs_jobs_that_may_do_what_we_may(htcondor: HTCondor, tmp_path: Path) -> None:
    plain = condor_submit(htcondor, tmp_path, f'{sys.executable} -c ""import psutil"" && echo seen >plain')
    gpu = condor_submit(htcondor, tmp_path, "echo $CUDA_VISIBLE_DEVICES >gpu", "request_gpus = 2")

    htcondor.wait_for_job(plain, "completed")
    htcondor.wait_for_job(gpu, "completed")
    assert (tmp_path / "plain").read_text() == "seen\n"
    assert (tmp_path / "gpu").read_text() == "0,1\n"


def test_htcondor_refuses_a_closed_group(htcondor: HTCondor) -> None:
    text = "executable = /bin/true\naccounting_group = closed\nqueue"

    refused = htcondor.try_to_run("condor_submit", input=text)

    assert refused.returncode != 0
    assert "the accounting group closed takes no jobs" in refused.stderr


def test_condor_schedd_has_its_queue_again_after_a_crash(htcondor: HTCondor, tmp_path: Path) -> None:
    job = condor_submit(htcondor, tmp_path, "echo $$ >>pids; exec sleep 1000")
    wait_until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text() != "", 30, "the job runs")

    htcondor.stop_schedd(crash=True)
    assert htcondor.try_to_run("condor_q").returncode != 0
    htcondor.start_schedd()

    htcondor.wait_for_job(job, "running")
    (pid,) = (tmp_path / "pids").read_text().split()
    assert is_running(int(pid))


def test_a_machine_of_htcondors_dies_with_all_that_its_jobs_have_started(htcondor: HTCondor, tmp_path: Path) -> None:
    script = "setsid sh -c ''echo $$ >pid; exec sleep 1000'' & wait"
    job = condor_submit(htcondor, tmp_path, script)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", 30, "the job runs")
    node = htcondor.node_of(job)

    htcondor.kill_node(node)

    assert not is_running(int((tmp_path / "pid").read_text()))
    htcondor.start_node(node)


def is_running(pid: int) -> bool:
    """Whether a process is there, and is more than what is left of a dead one."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
