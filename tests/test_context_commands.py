from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from prov.model import ProvDocument
from typer.testing import CliRunner

import cheap_stages
from support import surgeline
from surgeline.cli.context import app
from surgeline.context.attempts import Attempt, write_attempts
from surgeline.context.records import Decision, Extension, Fact, Image, Observation, Roles
from surgeline.context.store import Context
from surgeline.errors import BadInput, ContextError, SurgelineError, WorkfolderError

RUN = "7" * 32
ENVIRONMENT = {"software": {"surgeline": "0.1.0", "casatasks": "6.7.0"}, "machine": {"host": "node-1"}}


def roles(vis: str, *target: int) -> Roles:
    return Roles(vis=vis, flux=(0,), bandpass=(0,), phase=(1,), target=target, reason="by [intent] :smile:")


def image() -> Image:
    return Image(
        path="images/a.image", stem="images/a", kind="continuum", field="a", unit="Jy/beam", shape=(8, 8, 1, 1),
        maximum=float("nan"), minimum=0.0, mean=0.1, rms=0.01,
    )  # fmt: skip


class Strange(Fact):
    """Of a package that is not installed here."""

    what: str


def fill(context: Context) -> None:
    files = {"inputs": [{"path": "/raw.ms", "digest": "sha256:" + "1" * 64}]}
    body: dict[str, Any] = {
        **files, "outputs": [{"path": "my.ms", "digest": "sha256:" + "2" * 64}], "call": "split(vis='[/raw.ms]')",
        "commands": ["split(vis='[/raw.ms]', outputvis='my.ms')"], "peak_memory": 50 * 2**20,
    }  # fmt: skip
    failure = {"kind": "exception", "message": "no such column", "traceback": ""}
    attempts = [
        Attempt(RUN, "import", "split", 1, "failed", 1.7e9, 1.7e9 + 1, "w1", "node-1", "sha256:a",
                {"call": "split()", "failure": failure}),
        Attempt(RUN, "import", "split", 2, "finished", 1.7e9, 1.7e9 + 2.5, "w2", "node-1", "sha256:a", body),
    ]  # fmt: skip
    write_attempts(context, [(attempt, ENVIRONMENT) for attempt in attempts], set())
    context.commit(
        "import",
        [roles("my.ms"), Extension(namespace="telescope", name="x", value={"a": 1}), Strange(what="[/odd]")],
        details={
            "task": "import_data", "run": RUN, "surgeline": "0.1.0", "arguments": {"vis": ["[/raw.ms]"]},
            "files": {"read": {"/raw.ms": "sha256:" + "1" * 64}, "written": {"my.ms": "sha256:" + "2" * 64}},
        },
    )  # fmt: skip
    context.commit("correct", [roles("my.ms", 3), Decision(stage="correct", what="a", value="b", reason="c")])
    context.commit(
        "image",
        [image()],
        details={
            "read": [["Roles", '["my.ms"]', 2]],
            "files": {"read": {"my.ms": "sha256:" + "2" * 64}, "written": {"images/a.image": "sampled:" + "3" * 64}},
        },
    )
    context.commit("by hand", [], withdrawn=(2,))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "surgeline-session"
    folder.mkdir()
    with closing(Context(folder / "context.db")) as context:
        fill(context)
    monkeypatch.chdir(tmp_path)
    return folder


def told(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def told_as_json(*arguments: str) -> Any:
    return json.loads(told(*arguments, "--json"))


def refused(*arguments: str) -> SurgelineError:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, SurgelineError), result.output
    return result.exception


def test_the_kinds_are_counted_with_extensions_by_namespace(workdir: Path) -> None:
    lines = [line.split()[:2] for line in told("show").splitlines()]
    assert ["version", "4"] in lines
    assert ["Roles", "1"] in lines
    assert ["telescope", "1"] in lines
    assert ["Strange", "1"] in lines
    assert "not known to what is installed here" in told("show")
    assert told_as_json("show") == {
        "version": 4,
        "kinds": {"Extension": 1, "Image": 1, "Roles": 1, "Strange": 1},
        "namespaces": {"telescope": 1},
    }
    assert told_as_json("show", "--version", "2")["kinds"]["Decision"] == 1


def test_the_facts_of_a_kind_are_shown_as_of_a_version(workdir: Path) -> None:
    header, row = told("show", "Roles", "--version", "2").splitlines()
    assert header.split() == ["version", "stage", "vis", "flux", "bandpass", "phase", "target", "reason"]
    assert "[3]" in row
    assert "by [intent] :smile:" in row
    (fact,) = told_as_json("show", "Roles")
    assert (fact["version"], fact["stage"], fact["body"]["target"]) == (1, "import", [])


def test_facts_of_unknown_kinds_are_shown_as_they_are(workdir: Path) -> None:
    assert "[/odd]" in told("show", "Strange")
    assert told_as_json("show", "Strange")[0]["body"] == {"what": "[/odd]"}


def test_a_table_that_is_too_wide_gives_each_fact_its_lines(workdir: Path) -> None:
    observation = Observation(
        vis="my.ms", origin="x" * 300, telescope="VLA", observer="", project="", start=0, end=1, rows=1, size=1,
        fields=(), spectral_windows=(), scans=(), antennas=(), longest_baseline=1.0,
    )  # fmt: skip
    with closing(Context(workdir / "context.db")) as context:
        context.commit("import", [observation])
    lines = told("show", "Observation").splitlines()
    assert "telescope         VLA" in lines
    assert f"origin            {'x' * 160}… (300 characters)" in lines


def test_a_kind_that_has_no_facts_is_told_from_one_that_there_is_not(workdir: Path) -> None:
    assert told("show", "Product") == "there are none\n"
    error = refused("show", "Role")
    assert isinstance(error, BadInput)
    assert "'Roles'" in error.way_out


def test_the_log_tells_stages_and_what_was_withdrawn(workdir: Path) -> None:
    lines = told("log").splitlines()
    assert len(lines) == 5
    assert "import_data" in lines[1]
    assert "1 Extension, 1 Roles, 1 Strange" in lines[1]
    assert "by 4" in lines[2]
    log = told_as_json("log")
    assert [entry["withdrawn_by"] for entry in log] == [None, 4, None, None]
    assert log[1]["said"] == {"Decision": 1, "Roles": 1}
    assert log[0]["details"]["task"] == "import_data"


def test_versions_are_compared_field_by_field(workdir: Path) -> None:
    lines = told("diff", "1", "2").splitlines()
    assert lines[0].startswith("+ Decision, by correct (2): ")
    assert lines[1:] == ['~ Roles ["my.ms"], by import (1), then correct (2)', "    target: [] → [3]",
                         "1 added, 0 gone, 1 changed"]  # fmt: skip
    assert told("diff", "2", "1").startswith("- Decision, by correct (2): ")
    found = told_as_json("diff", "1", "2")
    assert found["changed"][0]["fields"] == [{"field": "target", "before": [], "after": [3]}]
    assert found["added"][0]["kind"] == "Decision"


def test_the_lineage_is_a_tree_with_the_newest_at_the_top(workdir: Path) -> None:
    text = told("lineage", "surgeline-session/images/a.image")
    lines = [line.strip("│├└─ ") for line in text.splitlines()]
    assert lines[0] == "images/a.image sampled:333333333333, as image (3) left it"
    stages = [line for line in lines if "(version" in line]
    assert [line.split()[0] for line in stages] == ["image", "correct", "import"]
    assert "withdrawn by version 4" in stages[1]
    assert "what it read is not on record; it followed version 1" in lines
    assert "read my.ms sha256:222222222222, as import (1) left it" in lines
    assert "read 1 Roles of correct (2)" in lines
    assert "job split: split(vis='[/raw.ms]')" in lines
    assert "CASA: split(vis='[/raw.ms]', outputvis='my.ms')" in lines
    assert any("2.5 s on w2 (node-1), attempt 2, environment 1" in line for line in lines)
    assert lines[-4:] == [
        "given to the session",
        "/raw.ms sha256:111111111111",
        "environment 1: node-1",
        "surgeline 0.1.0, casatasks 6.7.0",
    ]


def test_the_lineage_as_json_has_all_of_it(workdir: Path) -> None:
    found = told_as_json("lineage", "a.image")
    assert found["product"]["path"] == "images/a.image"
    assert found["facts"][0]["body"]["maximum"] == "NaN"
    assert [step["stage"] for step in found["steps"]] == ["image", "correct", "import"]
    assert found["steps"][2]["jobs"][0]["commands"] == ["split(vis='[/raw.ms]', outputvis='my.ms')"]
    assert [file["path"] for file in found["given"]] == ["/raw.ms"]
    assert found["environments"] == {"sha256:a": ENVIRONMENT}


def test_an_unknown_product_names_the_nearest(workdir: Path) -> None:
    error = refused("lineage", "surgeline-session/images/b.image")
    assert isinstance(error, ContextError)
    assert "'images/a.image'" in error.way_out


def test_attempts_are_told_by_stage_and_state(workdir: Path) -> None:
    lines = told("attempts").splitlines()
    assert len(lines) == 3
    assert "no such column" in lines[1]
    assert lines[2].split()[:4] == ["import", "split", "2", "finished"]
    assert "2.5" in lines[2]
    assert "w2 (node-1)" in lines[2]
    assert len(told("attempts", "--state", "failed", "--stage", "import").splitlines()) == 2
    assert [found["state"] for found in told_as_json("attempts", "--state", "finished")] == ["finished"]
    assert told("attempts", "--state", "lost") == "there are none\n"


def test_a_stage_or_state_without_attempts_names_the_nearest(workdir: Path) -> None:
    assert "'import'" in refused("attempts", "--stage", "imprt").way_out
    assert "'failed'" in refused("attempts", "--state", "faild").way_out


def test_the_context_is_exported_to_a_file_or_printed(workdir: Path, tmp_path: Path) -> None:
    assert told("export", "-o", "context.json") == "wrote context.json\n"
    content = json.loads((tmp_path / "context.json").read_text())
    assert content == json.loads(told("export"))
    assert json.loads(told("export", "--version", "2"))["version"] == 2
    schema = json.loads(told("export", "--format", "schema"))
    assert schema["$schema"].startswith("https://json-schema.org")
    assert set(json.loads(told("export", "--format", "prov"))["prefix"]) == {"surgeline", "context"}
    assert isinstance(refused("export", "-o", "context.json"), BadInput)


def test_an_export_that_fails_leaves_no_file(workdir: Path, tmp_path: Path) -> None:
    assert isinstance(refused("export", "--version", "9", "-o", "context.json"), ContextError)
    assert "cannot be written" in refused("export", "-o", "nowhere/context.json").message
    assert [path.name for path in tmp_path.iterdir()] == ["surgeline-session"]


@pytest.mark.parametrize(
    "command",
    [["show"], ["log"], ["diff", "0", "1"], ["lineage", "x"], ["attempts"], ["export"]],
    ids=lambda command: command[0],
)
def test_a_folder_without_a_session_is_told_and_stays_as_it_is(command: list[str], tmp_path: Path) -> None:
    error = refused(*command, "--workdir", str(tmp_path))
    assert isinstance(error, WorkfolderError)
    assert f"{tmp_path} holds no session" in error.message
    assert "--workdir" in error.way_out
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_context_is_told(tmp_path: Path) -> None:
    (tmp_path / "context.db").write_text("something else " * 100)
    assert "cannot be read as a context" in refused("log", "--workdir", str(tmp_path)).message


def test_one_of_a_database_s_contexts_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'many.db'}"
    for name in ("one", "two"):
        with closing(Context(url, name)) as context:
            context.commit(name, [roles(f"{name}.ms")])
    assert "holds 2 contexts" in refused("log", "--url", url).message
    assert [entry["stage"] for entry in told_as_json("log", "--url", url, "--context", "two")] == ["two"]
    assert told_as_json("show", "Roles", "--url", url, "--context", "two")[0]["body"]["vis"] == "two.ms"
    assert "'two'" in refused("log", "--url", url, "--context", "twoo").way_out


def test_a_database_that_cannot_be_reached_is_told_without_its_password() -> None:
    error = refused("log", "--url", "postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert isinstance(error, ContextError)
    assert "secret" not in str(error)


def test_a_working_folder_whose_context_is_in_a_database_is_enough(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'many.db'}"
    for name in ("one", "two"):
        with closing(Context(url, name)) as context:
            context.commit(name, [roles(f"{name}.ms")])
    folder = tmp_path / "session"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"context:\n  url: {url}\n")
    assert isinstance(refused("log", "--workdir", str(folder)), WorkfolderError)
    (folder / "context.id").write_text("two\n")
    assert [entry["stage"] for entry in told_as_json("log", "--workdir", str(folder))] == ["two"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "context.id"]


def test_a_session_that_ran_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "packages"
    cheap_stages.install(packages)
    stages = [
        {"task": "make"},
        {"task": "total", "name": "first", "arguments": {"output": "products/first.json"}},
        {"task": "change"},
        {"task": "total", "name": "second", "arguments": {"output": "products/second.json"}},
    ]
    (tmp_path / "cheap.yaml").write_text(yaml.safe_dump({"name": "cheap", "stages": stages}))
    workdir = ("--workdir", str(tmp_path / "session"))
    ran = surgeline("run", tmp_path / "cheap.yaml", *workdir, "--set", "backend=serial", PYTHONPATH=str(packages))
    assert ran.returncode == 0, ran.stderr
    monkeypatch.syspath_prepend(packages)
    assert told_as_json("show", *workdir)["kinds"] == {"cheap.Numbers": 1, "cheap.Total": 2}
    second = told_as_json("lineage", "second.json", *workdir)
    assert [step["stage"] for step in second["steps"]] == ["second", "change", "make"]
    assert [[job["job"] for job in step["jobs"]] for step in second["steps"][:1]] == [["sum up"]]
    assert {"change 0", "change 1", "change 2"} <= {job["job"] for job in second["steps"][1]["jobs"]}
    assert not any(file["altered"] for step in second["steps"] for file in step["read"])
    assert len(second["environments"]) == 1
    first = told_as_json("lineage", str(tmp_path / "session/products/first.json"), *workdir)
    assert [step["stage"] for step in first["steps"]] == ["first", "make"]
    content, schema = (json.loads(told("export", *workdir, "--format", form)) for form in ("json", "schema"))
    Draft202012Validator(schema).validate(content)
    ProvDocument.deserialize(content=told("export", *workdir, "--format", "prov"))


def test_nothing_is_imported_until_a_command_runs() -> None:
    code = (
        "import sys, surgeline.cli.context\n"
        "print([name for name in sys.modules if name.startswith(('sqlalchemy', 'pydantic', 'rich.table'))])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
