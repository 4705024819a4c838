"""What an attacker would try: files that are read, secrets that are shown, what others may read; see SECURITY.md."""

from __future__ import annotations

import ast
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import surgeline as package
from support import ROOT, surgeline
from surgeline import FunctionCall, Session, Stage, stage
from surgeline.clusters.batch import workload_manager
from surgeline.config import load
from surgeline.errors import ConfigError, RecipeError, SurgelineError
from surgeline.masking import is_secret, masked
from surgeline.work.procedure import Procedure
from surgeline.workflow import recipe as recipes

SOURCE = Path(package.__file__).parent

# Who reads pickles, and of whom. All but the last three read what processes of the same session wrote: over
# connections that ask for its keys, by MPI, or in its own folders.
PICKLES_ARE_READ_BY = {
    "adopt/snapshots.py", "adopt/travelling.py", "imaging/cubeparts.py", "parallel/casampi_session.py",
    "parallel/dispatch.py", "parallel/mpichannel.py", "parallel/mpiserver.py", "parallel/nested.py",
    "parallel/podscheduler.py", "parallel/serial.py", "parallel/servers.py", "parallel/workerprocess.py",
    "work/execution.py", "work/staging.py",
    # Of a context that is handed to tasks of the CASA Pipeline; `surgeline context` and `serve` read none.
    "context/legacy/values.py",
    # By `surgeline context import-pickled --trusted` alone; what the pickle names is not imported.
    "context/legacy/pickles.py",
}  # fmt: skip
READERS = {"load", "loads", "Unpickler"}


def calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.AST]]:
    """What is called, or derived from, of which module, as it is written: ("pickle", "loads", …)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr, node


def test_pickles_are_read_where_it_is_known_who_wrote_them() -> None:
    readers = set()
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(module in ("pickle", "cloudpickle") and name in READERS for module, name, _ in calls(tree)):
            readers.add(path.relative_to(SOURCE).as_posix())
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle" not in text and "shell=True" not in text, path
        unsafe = {("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("marshal", "loads"),
                  ("shelve", "open"), ("torch", "load"), ("os", "system"), ("tempfile", "mktemp")}  # fmt: skip
        assert not any((module, name) in unsafe for module, name, _ in calls(tree)), path
    assert readers == PICKLES_ARE_READ_BY


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
HOSTILE = {
    "laughs": LAUGHS + "name: *a11\nstages: [{task: flag}]\n",
    "merged": MERGED + "stages: [{task: flag}]\n",
    "endless": "name: x\nvis: &a [*a]\nstages: [{task: flag}]\n",
    "deep": "stages: " + "[" * 20_000,
    "call": "name: !!python/object/apply:os.system [touch {mark}]\nstages: [{task: flag}]\n",
    "new": "name: !!python/object/new:subprocess.Popen [[touch, {mark}]]\n",
    "name": "name: !!python/name:os.system\nstages: [{task: flag}]\n",
    "module": "stages: [{task: flag, arguments: {x: !!python/module:antigravity }}]\n",
    "function": "stages: [{task: 'os:system'}]\n",
    "dotted": "stages: [{task: surgeline.stages.flag.run}]\n",
    "path": "stages: [{task: ../../evil}]\n",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", HOSTILE)
def test_files_are_data_and_run_nothing(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = HOSTILE[name].replace("{mark}", str(mark))
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError):
        recipes.load(str(tmp_path / "recipe.yaml"))
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load(tmp_path, environment={}, home=tmp_path)
    with pytest.raises(ConfigError):
        load(tmp_path / "elsewhere", ["casaconfig=" + text], environment={}, home=tmp_path / "elsewhere")
    assert not mark.exists()


def test_what_is_nested_as_people_do_is_read(tmp_path: Path) -> None:
    stages = "[{task: flag, arguments: &same {quack: 2}}, {task: flag, name: again, arguments: *same}]"
    (tmp_path / "recipe.yaml").write_text(f"stages: {stages}\n")
    found = recipes.load(str(tmp_path / "recipe.yaml"))
    assert [request.arguments for request in found.stages] == [{"quack": 2}] * 2


SECRETS = {
    "context": {"url": "postgresql+psycopg://me:hush-1@127.0.0.1:1/db?sslpassword=hush-2", "patience": 0},
    "clusters": {
        "batch": {
            "type": "slurm",
            "shared_filesystem": False,
            "data": "s3://bucket/folder",
            "data_options": {"key": "hush-3", "secret": "hush-4", "client_kwargs": {"aws_session_token": "hush-5"}},
        }
    },
}


def test_secrets_of_the_configuration_are_not_shown(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SECRETS))
    further = ["--set", "clusters.batch.data_options.password=hush-6", "--set", "worker={threads: 1}"]
    shown = surgeline("config", "show", "--workdir", tmp_path, *further)
    assert shown.returncode == 0 and shown.stdout.count("***") >= 6
    assert "postgresql+psycopg://me:***@127.0.0.1:1/db" in shown.stdout
    assert "--set worker={threads: 1}" in shown.stdout
    failed = surgeline("run", "calimage", "--vis", "casadata:x", "--workdir", tmp_path)
    wrong = surgeline("config", "show", "--workdir", tmp_path, "--set", "context.url=[a://b:hush-7@c]")
    worse = surgeline("config", "show", "--workdir", tmp_path, "--set", "clusters.batch.data_options={secret: hush-8")
    assert failed.returncode and wrong.returncode and worse.returncode
    for ran in (shown, failed, wrong, worse):
        assert "hush" not in ran.stdout + ran.stderr


def test_names_tell_what_is_secret() -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PREFECT_API_KEY", "password", "key", "db_passwd",
                 "SURGELINE_SERVE_TOKEN", "account_key", "client-secret"):  # fmt: skip
        assert is_secret(name), name
    for name in ("n_workers", "keep_states", "monkey", "tokens", "OMP_NUM_THREADS", "image_pull_secrets", "bypass"):
        assert not is_secret(name), name
    assert masked({"a": ["https://me:hush@host/x", 1]}) == {"a": ["https://me:***@host/x", 1]}
    assert "hush" not in str(SurgelineError("no answer from https://me:hush@host/"))


def test_condor_q_shows_everybody_no_secret_of_the_environment(tmp_path: Path) -> None:
    configuration = load(overrides=["clusters.pool.type=htcondor"], environment={}, home=tmp_path)
    environment = {
        "PATH": "/usr/bin", "AWS_SECRET_ACCESS_KEY": "hush", "SURGELINE__CONTEXT__URL": "postgresql://me:hush@host/db",
        "_CONDOR_SEC_TOKEN_DIRECTORY": "/tokens",
    }  # fmt: skip
    manager = workload_manager(configuration, "pool", environment)
    assert manager._commands._environment == {"PATH": "/usr/bin", "_CONDOR_SEC_TOKEN_DIRECTORY": "/tokens"}


def look() -> int:
    before = os.umask(0o077)
    os.umask(before)
    Path("made").mkdir()
    return before


@stage
def watch(stage: Stage) -> Procedure[None]:
    """Tell with which mask files are made."""
    yield [FunctionCall(look)]


@pytest.mark.parametrize("private", [True, False])
def test_what_a_session_makes_is_for_its_user_alone(private: bool, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        configuration = load(
            overrides=["backend=serial", f"session.private={private}"], environment={}, home=tmp_path
        )
        with Session({"stages": [{"task": watch}]}, tmp_path / "session", configuration) as session:
            session.run()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    folder = tmp_path / "session"
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert {folder / name for name in ("context.db", "run.json", "logs", "weblog/index.html", "made")} <= modes.keys()
    open_to_others = {path for path, mode in modes.items() if mode & 0o077}
    assert open_to_others == (set() if private else set(modes))


def test_the_lock_has_what_the_image_needs_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [line] = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("LOCKED_EXTRAS")]
    extras = line.partition("=")[2].split()
    asked = [
        *project["dependencies"],
        *(need for extra in extras for need in project["optional-dependencies"][extra]),
    ]
    lock = (ROOT / "docker" / "requirements.lock").read_text().replace("\\\n", " ")
    pinned = {}
    for entry in (entry for entry in lock.splitlines() if entry and not entry.startswith("#")):
        requirement, _, hashes = entry.partition("--hash=")
        name, _, version = requirement.partition(";")[0].partition("==")
        assert hashes.startswith("sha256:"), entry
        pinned[canonicalize_name(name.strip())] = version.strip()
    of_image = {"python_version": "3.11", "sys_platform": "linux"}
    for need in map(Requirement, asked):
        if need.marker is None or need.marker.evaluate(of_image):
            version = pinned.get(canonicalize_name(need.name), "")
            assert version and need.specifier.contains(version), f"{need}: run `make lock`"
