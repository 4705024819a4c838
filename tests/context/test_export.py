from __future__ import annotations

import json
import sqlite3
import stat
import tracemalloc
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prov.model import ProvAgent, ProvDocument, ProvRecord
from sqlalchemy import text

from surgeline.context.attempts import Attempt, write_attempts
from surgeline.context.export import export_json, json_schema
from surgeline.context.prov import export_prov
from surgeline.context.reading import kinds_at
from surgeline.context.records import KINDS, Decision, Extension, Fact, Image, Roles, subject_of
from surgeline.context.snapshot_file import export_snapshot
from surgeline.context.store import Context
from surgeline.errors import ContextError, WorkfolderError

RUN = "7" * 32
ENVIRONMENT = {"software": {"surgeline": "0.1.0", "dask-jobqueue": "0.9"}, "machine": {"host": "node-1"}, "gpus": {}}


@pytest.fixture
def context(store: Context) -> Context:
    return store


def roles(vis: str, *target: int) -> Roles:
    return Roles(vis=vis, flux=(0,), bandpass=(0,), phase=(1,), target=target, reason="by intent")


def decision(what: str) -> Decision:
    return Decision(stage="flag", what=what, value="yes", reason="because")


def image(rms: float = 0.1) -> Image:
    return Image(
        path="images/é.image", stem="images/é", kind="continuum", field="a", unit="Jy/beam", shape=(8, 8, 1, 1),
        maximum=1.0, minimum=0.0, mean=0.1, rms=rms,
    )  # fmt: skip


def attempt(
    context: Context,
    stage: str,
    job: str,
    inputs: dict[str, str],
    outputs: dict[str, str],
    *,
    state: str = "finished",
    ended: float = 1.7e9,
    environment: str = "sha256:a",
) -> None:
    files = [[{"path": path, "digest": digest} for path, digest in found.items()] for found in (inputs, outputs)]
    body = {"call": f"{job}()", "inputs": files[0], "outputs": files[1], "commands": [f"{job}(vis='my.ms')"]}
    made = Attempt(RUN, stage, job, 1, state, ended - 1, ended, "worker-1", "node-1", environment, body)
    write_attempts(context, [(made, ENVIRONMENT)], set())


def filled(context: Context) -> None:
    """A context with all that an export may meet: attempts, extensions, facts replaced, taken back and withdrawn."""
    attempt(context, "import", "copy", {"/raw.ms": "raw"}, {"my.ms": "1"})
    context.commit(
        "import",
        [roles("my.ms"), roles("b.ms"), Extension(namespace="mine", name="x", value={"not a number": float("nan")})],
        details={
            "task": "import_data", "run": RUN, "surgeline": "0.1.0", "arguments": {"vis": ["/raw.ms"]},
            "files": {"read": {"/raw.ms": "raw"}, "written": {"my.ms": "1"}},
        },
    )  # fmt: skip
    context.commit("correct", [roles("my.ms", 3), decision("one")], removed=[(Roles, subject_of(roles("b.ms")))])
    attempt(context, "image", "tclean", {"my.ms": "1"}, {"images/é.image": "p"}, state="failed")
    attempt(context, "image", "tclean", {}, {}, state="lost", environment="")
    attempt(context, "image", "tclean", {"my.ms": "1"}, {"images/é.image": "i", "my.ms": "1"})
    context.commit(
        "image",
        [image(float("inf"))],
        details={
            "run": RUN, "surgeline": "0.1.0", "read": [["Roles", '["my.ms"]', 2]],
            "files": {"read": {"my.ms": "1"}, "written": {"images/é.image": "i"}, "changed": {"notes.txt": "n"}},
        },
    )  # fmt: skip
    context.commit("by hand", [], withdrawn=(2,))


def exported(context: Context, version: int | None = None) -> dict[str, Any]:
    content: dict[str, Any] = json.loads("".join(export_json(context, version)), parse_constant=_no_constant)
    return content


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def prov(context: Context, version: int | None = None) -> ProvDocument:
    with warnings.catch_warnings():
        # What is not as it should be is only warned of.
        warnings.simplefilter("error")
        return ProvDocument.deserialize(content="".join(export_prov(context, version)), format="json")


def relations(document: ProvDocument, kind: str) -> list[tuple[str, ...]]:
    """The names of what is related, by what they are labelled, in the order in which PROV has them."""

    def label(name: Any) -> str:
        (record,) = document.get_record(name)
        (found,) = record.get_attribute("prov:label") or [name.localpart]
        return str(found)

    def of(record: ProvRecord) -> tuple[str, ...]:
        return tuple(label(value) for name, value in record.formal_attributes if name.localpart != "time" and value)

    return sorted(of(record) for record in document.get_records() if record.get_type().localpart == kind)


def test_the_export_is_as_its_schema_says_at_every_version(context: Context) -> None:
    filled(context)
    for version in range(5):
        content = exported(context, version)
        schema = json_schema(content["facts"])
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(content)


def test_the_export_holds_what_the_context_says(context: Context) -> None:
    filled(context)
    now = exported(context)
    assert (now["version"], now["context"]) == (4, context.identifier)
    assert {kind: len(facts) for kind, facts in now["facts"].items()} == kinds_at(context, 4)
    assert [Roles.model_validate(fact["body"]) for fact in now["facts"]["Roles"]] == context.all(Roles)
    assert [Image.model_validate(fact["body"]) for fact in now["facts"]["Image"]] == context.all(Image)
    assert "Decision" not in now["facts"]
    assert now["facts"]["Extension"][0]["body"]["value"] == {"not a number": "NaN"}
    assert [commit["withdrawn_by"] for commit in now["commits"]] == [None, 4, None, None]
    assert now["commits"][0]["details"]["arguments"] == {"vis": ["/raw.ms"]}
    assert [found["state"] for found in now["attempts"]] == ["failed", "lost", "finished", "finished"]
    assert now["environments"] == {"sha256:a": ENVIRONMENT}


def test_an_earlier_version_is_exported_as_it_was(context: Context) -> None:
    filled(context)
    then = exported(context, 2)
    assert [fact["body"]["target"] for fact in then["facts"]["Roles"]] == [[3]]
    assert len(then["facts"]["Decision"]) == 1
    assert [commit["withdrawn_by"] for commit in then["commits"]] == [None, None]
    assert "Image" not in then["facts"]
    assert exported(context, 0)["facts"] == {}


def test_attempts_belong_to_the_versions_after_their_end(context: Context) -> None:
    attempt(context, "early", "one", {}, {}, ended=1.0)
    context.commit("early", [])
    attempt(context, "late", "two", {}, {}, ended=4e9)
    context.commit("late", [])
    assert [found["job"] for found in exported(context, 1)["attempts"]] == ["one"]
    assert [found["job"] for found in exported(context)["attempts"]] == ["one", "two"]
    assert exported(context, 0)["attempts"] == []
    assert exported(context, 0)["environments"] == {}


def test_what_is_not_as_the_schema_says_is_found_out(context: Context) -> None:
    filled(context)
    content = exported(context)
    content["facts"]["Roles"][0]["body"]["target"] = "three"
    errors = list(Draft202012Validator(json_schema()).iter_errors(content))
    assert [error.json_path for error in errors] == ["$.facts.Roles[0].body.target"]


def test_the_schema_knows_all_kinds_of_surgeline() -> None:
    assert json_schema()["properties"]["facts"]["properties"].keys() == KINDS.keys()


def test_kinds_that_nobody_here_knows_are_exported_as_they_are(context: Context) -> None:
    class Strange(Fact):
        what: str

    context.commit("elsewhere", [Strange(what="?")])
    content = exported(context)
    assert content["facts"]["Strange"][0]["body"] == {"what": "?"}
    Draft202012Validator(json_schema(content["facts"])).validate(content)
    assert len(list(prov(context).get_records())) == 3


def test_a_damaged_fact_is_told(tmp_path: Path) -> None:
    with closing(Context(tmp_path / "damaged.db")) as context:
        context.commit("import", [roles("my.ms")])
        with closing(sqlite3.connect(tmp_path / "damaged.db")) as connection:
            connection.execute("DROP TRIGGER no_update_of_facts")
            connection.execute("UPDATE facts SET body = '{}'")
            connection.commit()
        with pytest.raises(WorkfolderError, match="a Roles in it has another vis"):
            exported(context)


def test_a_version_that_there_is_not_is_told(context: Context, tmp_path: Path) -> None:
    with pytest.raises(ContextError, match="no version 1"):
        exported(context, 1)
    with pytest.raises(ContextError, match="no version 1"):
        prov(context, 1)
    with pytest.raises(ContextError, match="no version 1"):
        export_snapshot(context, 1, tmp_path / "snapshot.db")


@pytest.mark.parametrize("export", [export_json, export_prov])
def test_many_facts_need_little_memory(context: Context, export: Any) -> None:
    context.commit("many", [decision(f"{number} {'x' * 2000}") for number in range(6000)])
    tracemalloc.start()
    size = sum(len(piece) for piece in export(context))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 12_000_000
    assert peak < size / 2


def test_prov_tells_who_made_what_of_what(context: Context) -> None:
    filled(context)
    document = prov(context)
    first = 'Roles ["my.ms"]'
    made = relations(document, "Generation")
    assert ("images/é.image", "tclean") in made
    assert ("my.ms", "copy") in made
    assert ("notes.txt", "image") in made
    pictured = f"Image {subject_of(image())}"
    assert (pictured, "image") in made
    assert not [made_by for file, made_by in made if file == "/raw.ms"]
    # The failed attempt made nothing, and what was left as it was is made once.
    assert len([file for file, _ in made if file in ("images/é.image", "my.ms")]) == 2
    used = relations(document, "Usage")
    assert ("image", first) in used
    assert ("import", "/raw.ms") in used
    assert ("tclean", "my.ms") in used
    derived = relations(document, "Derivation")
    assert ("images/é.image", "my.ms", "tclean") in derived
    # Not that which holds again from that which was withdrawn.
    assert derived.count((first, first)) == 1
    assert (pictured, "images/é.image") in derived
    # What the withdrawn commit had replaced and taken back, holds again.
    assert relations(document, "Invalidation") == [
        ("Decision [2, 1]", "by hand"),
        (first, "by hand"),
    ]
    assert ("copy", "node-1") in relations(document, "Association")
    assert ("image", "Surgeline 0.1.0") in relations(document, "Association")
    assert relations(document, "Communication") == [*[("image", "tclean")] * 3, ("import", "copy")]


def test_prov_of_an_earlier_version_knows_nothing_of_what_came_later(context: Context) -> None:
    filled(context)
    document = prov(context, 2)
    assert relations(document, "Invalidation") == [
        ('Roles ["b.ms"]', "correct"),
        ('Roles ["my.ms"]', "correct"),
    ]
    assert relations(prov(context, 1), "Invalidation") == []


def test_prov_names_versions_and_hosts(context: Context) -> None:
    filled(context)
    document = prov(context)
    (agent,) = [record for record in document.get_records(ProvAgent) if record.get_attribute("surgeline:host")]
    assert agent.get_attribute("surgeline:host") == {"node-1"}
    assert agent.get_attribute("surgeline:software.dask-jobqueue") == {"0.9"}
    assert {kind.localpart for kind in agent.get_asserted_types()} == {"SoftwareAgent", "Environment"}


def test_all_that_prov_relates_is_told(context: Context) -> None:
    filled(context)
    content = json.loads("".join(export_prov(context)))
    known = {name for section in ("entity", "activity", "agent") for name in content[section]}
    prefixes = {*content["prefix"], "prov"}
    assert all(name.partition(":")[0] in prefixes for name in known)
    for section in content.keys() - {"prefix", "entity", "activity", "agent"}:
        for relation in content[section].values():
            named = {value for value in relation.values() if isinstance(value, str) and value.startswith("context:")}
            assert named <= known
            assert len(named) >= 2


def test_the_provenance_of_an_empty_context_is_empty(context: Context) -> None:
    assert list(prov(context).get_records()) == []


def test_a_snapshot_answers_as_the_context_does(context: Context, tmp_path: Path) -> None:
    filled(context)
    for version in range(5):
        path = tmp_path / f"{version}.db"
        export_snapshot(context, version, path)
        with closing(Context(path, read_only=True)) as snapshot:
            assert (snapshot.identifier, snapshot.version) == (context.identifier, version)
            for kind in KINDS.values():
                assert snapshot.at(version).all(kind) == context.at(version).all(kind)
            assert snapshot.at(version).last(Roles, vis="my.ms") == context.at(version).last(Roles, vis="my.ms")
            assert snapshot.holding(version) == context.holding(version)


def test_a_snapshot_holds_nothing_else(context: Context, tmp_path: Path) -> None:
    filled(context)
    path = tmp_path / "snapshot.db"
    export_snapshot(context, 2, path)
    with closing(Context(path, context.identifier, read_only=True)) as snapshot:
        counted = snapshot.database.reading(
            lambda c: [c.execute(text(f"SELECT count(*) FROM {name}")).scalar() for name in ("facts", "attempts")]
        )
        assert counted == [len(context.holding(2)), 0]
        assert len(snapshot.at(2).all(Extension)) == 1
        assert snapshot.at(1).all(Extension) == []
        assert [commit.details for commit in snapshot.log()] == [{}, {}]


def test_a_snapshot_is_for_reading_and_leaves_nothing_beside_it(context: Context, tmp_path: Path) -> None:
    filled(context)
    folder = tmp_path / "snapshots"
    folder.mkdir()
    export_snapshot(context, 4, folder / "snapshot.db")
    export_snapshot(context, 4, folder / "snapshot.db")
    assert stat.S_IMODE((folder / "snapshot.db").stat().st_mode) == 0o444
    with closing(Context(folder / "snapshot.db", read_only=True)) as snapshot:
        assert snapshot.stages() == context.stages()
    assert [path.name for path in folder.iterdir()] == ["snapshot.db"]
    with closing(sqlite3.connect(f"file:{folder / 'snapshot.db'}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_snapshot_that_cannot_be_written_is_told(context: Context, tmp_path: Path) -> None:
    with pytest.raises(WorkfolderError, match=r"snapshot .*snapshot\.db could not be written"):
        export_snapshot(context, 0, tmp_path / "nowhere" / "snapshot.db")
    (tmp_path / "folder" / "snapshot.db").mkdir(parents=True)
    with pytest.raises(WorkfolderError, match="could not be written"):
        export_snapshot(context, 0, tmp_path / "folder" / "snapshot.db")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["snapshot.db"]
