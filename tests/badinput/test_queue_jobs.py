"""The texts of queue jobs, whatever paths and settings are called: read by the rules of each format and run by a
shell, they are the words that were meant, and nothing else is run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from badinput.hostile import assert_told, examples, texts
from surgeline.clusters.batch import Contact, worker_classes, workload_manager
from surgeline.clusters.kubernetes import KubernetesSettings
from surgeline.clusters.podmanifests import cluster_manifest, worker_manifest
from surgeline.clusters.workercommand import worker_command
from surgeline.config import load
from surgeline.errors import ConfigError, WorkfolderError
from surgeline.work.casapaths import check_folder

# What stands in the place of a worker's Python.
_RECORDER = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\n"
_KEYS = {
    "slurm": ("queue", "account", "qos", "constraint", "local_directory", "log_directory", "interface"),
    "htcondor": ("accounting_group", "local_directory", "log_directory", "interface"),
    "kubernetes": ("image", "service_account", "priority_class", "namespace"),
}


def _folders(name: str) -> Path | None:
    """A folder below a temporary one, if a name is one that a working folder may have."""
    folder = Path("/w") / name.strip("/")
    try:
        check_folder(folder)
        str(folder).encode()
    except (WorkfolderError, ValueError):
        return None
    return None if ".." in folder.parts or len(name) > 100 else folder


def _cluster(kind: str, settings: dict[str, str]) -> Any:
    said = {"type": kind, "cores": 2, **({"image": "x"} if kind == "kubernetes" else {}), **settings}
    # As JSON, which YAML takes for what it is.
    configuration = load(overrides=[f"clusters.batch={json.dumps(said)}"], environment={}, home=Path("/nowhere"))
    (worker,) = worker_classes(configuration, "batch", {})
    return workload_manager(configuration, "batch", {}), worker


def _contact(folder: Path) -> Contact:
    names = (folder / "logs" / file for file in ("ca.pem", "worker.pem", "worker.key"))
    return Contact("tls://10.0.0.5:8786", "probe", "surgeline-1a2b3c4d", folder / "logs", tuple(names))  # type: ignore[arg-type]


def _run(command: list[str], folder: Path, text: str | None = None) -> list[str]:
    """The words that the recorder was given by a shell; in a folder in which nothing else may happen."""
    before = sorted(folder.iterdir())
    ran = subprocess.run(command, input=text, cwd=folder, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr
    assert sorted(folder.iterdir()) == before
    words: list[str] = json.loads(ran.stdout)
    return words[1:]


def _words_of_condor(line: str) -> list[str]:
    """The words of `arguments = "…"`, as HTCondor's manual says they are read."""
    match = re.fullmatch(r'Arguments = "(.*)"', line)
    assert match, line
    inside = match[1].replace('""', "\0")
    assert '"' not in inside
    words, quoted, word = [], False, ""
    for piece in re.findall(r"''|'|[^']+", inside):
        if piece == "'":
            quoted = not quoted
        elif piece == "''" and quoted:
            word += "'"
        elif quoted:
            word += piece
        else:
            *whole, last = piece.split(" ")
            words += [word + whole[0], *whole[1:]] if whole else []
            word = last if whole else word + last
    assert not quoted
    return [found.replace("\0", '"') for found in (*words, word) if found]


def _macros(text: str) -> str:
    """A text with HTCondor's macros replaced."""
    return text.replace("$(ClusterId)", "12").replace("$(ProcId)", "0").replace("$(DOLLAR)", "$")


def _expected(worker: Any, contact: Contact, names: list[str]) -> dict[str, str]:
    """The options that a worker is to be given."""
    told = {"--tls-ca-file": names[0], "--tls-cert": names[1], "--tls-key": names[2]}
    if worker.settings.interface:
        told["--interface"] = worker.settings.interface
    if worker.settings.local_directory:
        told["--local-directory"] = worker.settings.local_directory
    return told


def _of(words: list[str], told: dict[str, str]) -> dict[str, str]:
    return {name: words[words.index(name) + 1] for name in told if name in words}


def _directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.split("\n") if line.startswith("#SBATCH ")]


def _settings(kind: str) -> st.SearchStrategy[dict[str, str]]:
    some = st.sampled_from(_KEYS[kind])
    return st.dictionaries(some, texts(), max_size=2)


@examples(40)
@given(name=texts(), settings=_settings("slurm"))
def test_slurm_runs_the_words_that_were_meant(name: str, settings: dict[str, str]) -> None:
    folder = _folders(name)
    assume(folder is not None)
    assert folder is not None
    with TemporaryDirectory() as scratch:
        recorder = Path(scratch) / '-it\'s $HOME `a` "b";python'
        recorder.write_text(_RECORDER)
        recorder.chmod(0o755)
        try:
            manager, worker = _cluster("slurm", {**settings, "python": str(recorder)})
        except ConfigError as error:
            assert_told(error)
            return
        script = manager.text(worker, _contact(folder), 2)
        # What is said before the first command is directives, each on its line, of the settings that were given.
        head = script.partition("\nexport ")[0].split("\n")
        assert all(line.startswith(("#SBATCH ", "#!")) or not line for line in head), script
        quoted = f'-D "{re.sub(chr(92) * 2, chr(92) * 4, str(folder / "logs"))}"'
        assert {f"-D {folder / 'logs'}", quoted} & set(_directives(script)), script
        (Path(scratch) / "in").mkdir()
        local = settings.get("local_directory", "")
        if local.startswith("$"):
            # A variable where the job runs, by the user's own wish.
            return
        words = _run(["bash"], Path(scratch) / "in", script)
    told = _expected(worker, _contact(folder), [str(path) for path in _contact(folder).certificates or ()])
    assert _of(words, told) == told
    assert words[:2] == ["-m", "probe"]


@examples(40)
@given(name=texts(), settings=_settings("htcondor"), transfer=st.booleans())
def test_htcondor_runs_the_words_that_were_meant(name: str, settings: dict[str, str], transfer: bool) -> None:
    folder = _folders(name)
    assume(folder is not None)
    assert folder is not None
    with TemporaryDirectory() as scratch:
        recorder = Path(scratch) / '-it\'s $HOME $(ProcId) `a` "b";python'
        recorder.write_text(_RECORDER)
        recorder.chmod(0o755)
        said: dict[str, Any] = {**settings, "python": str(recorder), "transfer_files": transfer}
        try:
            manager, worker = _cluster("htcondor", said)
        except ConfigError as error:
            assert_told(error)
            return
        lines = manager.text(worker, _contact(folder), 2).split("\n")
        commands = dict(line.partition(" = ")[::2] for line in lines if " = " in line)
        assert all(re.match(r"[\w.]+ = |#!|Queue 2$|$", line) for line in lines), lines
        assert _macros(commands["initialdir"]) == str(folder / "logs")
        if transfer:
            assert commands["transfer_input_files"] == "ca.pem,worker.pem,worker.key"
        (line,) = (line for line in lines if line.startswith("Arguments"))
        words = _words_of_condor(_macros(line))
        assert words[0] == "-c" and len(words) == 2
        (Path(scratch) / "in").mkdir()
        if settings.get("local_directory", "").startswith("$"):
            return
        command = words[1].replace("$_CONDOR_JOB_AD", "/dev/null")
        ran = _run(["/bin/sh", "-c", command], Path(scratch) / "in")
    files = [path.name if transfer else str(path) for path in _contact(folder).certificates or ()]
    told = _expected(worker, _contact(folder), files)
    assert _of(ran, told) == told
    assert ran[:2] == ["-m", "probe"]


@examples(40)
@given(name=texts(), settings=_settings("kubernetes"), prefect=st.booleans())
def test_pods_are_given_lists_of_words(name: str, settings: dict[str, str], prefect: bool) -> None:
    folder = _folders(name)
    assume(folder is not None)
    assert folder is not None
    try:
        _, worker = _cluster("kubernetes", settings)
    except ConfigError as error:
        assert_told(error)
        return
    assert isinstance(worker.settings, KubernetesSettings)
    made = [cluster_manifest(worker.settings, _contact(folder), 1), worker_manifest(worker, _contact(folder), "w-1")]
    for manifest in made:
        # What the API reads is what was said.
        assert yaml.safe_load(yaml.safe_dump(manifest)) == manifest
    container = made[1]["spec"]["worker"]["spec"]["containers"][0]
    assert container["command"] == ["python3", "-m", "probe"]
    assert all(isinstance(word, str) for word in container["args"])


@pytest.mark.parametrize("text", ["a\n#SBATCH --uid=0", "a\ntouch pwned", "a\rb", "a\x00b"])
@pytest.mark.parametrize("key", ["account", "queue", "job_extra_directives", "shebang", "log_directory"])
def test_a_setting_of_two_lines_is_refused(key: str, text: str) -> None:
    said: Any = [text] if key == "job_extra_directives" else f"/{text}" if key == "log_directory" else text
    with pytest.raises(ConfigError, match="one line"):
        _cluster("slurm", {key: said})
    if key == "job_extra_directives":
        with pytest.raises(ConfigError, match="one line"):
            _cluster("htcondor", {key: {"+Project": text}})  # type: ignore[dict-item]


def test_the_command_of_a_worker_is_a_list_of_words() -> None:
    _, worker = _cluster("slurm", {"python": "/opt/a b/$(touch pwned)"})
    words = worker_command(worker, _contact(Path("/w/a b;c")), "slurm-1")
    assert words[0] == "/opt/a b/$(touch pwned)" and "/w/a b;c/logs/ca.pem" in words
    assert shlex.split(shlex.join(words)) == words
