from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from support import ordinary_user
from surgeline.context.records import CalibrationTable, Decision, FluxDensity, Image, Roles
from surgeline.context.store import Context
from surgeline.errors import WorkfolderError


def decision(what: str, value: str = "yes") -> Decision:
    return Decision(stage="flag", what=what, value=value, reason="because")


def flux(field: int, value: float, kind: str = "measured", vis: str = "my.ms") -> FluxDensity:
    return FluxDensity.model_validate(
        {
            "vis": vis,
            "field": field,
            "name": f"field {field}",
            "spectral_window": 0,
            "kind": kind,
            "flux": value,
            "standard": "Perley-Taylor 99",
        }
    )


def roles(vis: str, *target: int) -> Roles:
    return Roles(vis=vis, flux=(0,), bandpass=(0,), phase=(1,), target=target, reason="by intent")


class Unwritable(Decision):
    """A fact that fails when it is about to be written, as late as a fact can."""

    kind: ClassVar[str] = "Decision"

    def model_dump_json(self, **_: object) -> str:
        raise RuntimeError("cannot be told")


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with closing(Context(tmp_path / "context.db")) as opened:
        yield opened


def test_a_new_context_knows_nothing(context: Context) -> None:
    assert context.stages() == []
    assert context.all(Decision) == []
    assert context.last(Roles, vis="my.ms") is None
    assert context.every() == []


def test_what_was_committed_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    with closing(Context(tmp_path / "context.db")) as context:
        assert context.commit("import", [roles("my.ms", 2, 3)]) == 1
        assert context.commit("flag", [decision("one"), decision("two")]) == 2
    with closing(Context(tmp_path / "context.db")) as again:
        assert again.stages() == ["import", "flag"]
        assert again.last(Roles) == roles("my.ms", 2, 3)
        assert again.every() == [
            ("import", roles("my.ms", 2, 3)),
            ("flag", decision("one")),
            ("flag", decision("two")),
        ]
        assert again.commit("bandpass", []) == 3


def test_a_context_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Context(None)) as context:
        context.commit("import", [decision("one")])
        assert context.all(Decision) == [decision("one")]
    assert list(tmp_path.iterdir()) == []


def test_a_stage_is_committed_whole_or_not_at_all(context: Context) -> None:
    context.commit("import", [decision("before")])
    unwritable = Unwritable(**decision("second").model_dump())
    with pytest.raises(RuntimeError, match="cannot be told"):
        context.commit("flag", [decision("first"), unwritable, decision("third")])
    assert context.stages() == ["import"]
    assert context.all(Decision) == [decision("before")]
    assert context.commit("flag", [decision("first")]) == 2


def test_a_process_that_is_killed_while_it_commits_leaves_the_last_good_state(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from surgeline.context.records import Decision
from surgeline.context.store import Context

def facts():
    for number in range(5000):
        yield Decision(stage="flag", what=str(number), value="yes" * 100, reason="because")
        if number == 4999:
            os.kill(os.getpid(), signal.SIGKILL)

context = Context(Path(sys.argv[1]))
context.commit("import", [Decision(stage="import", what="before", value="yes", reason="because")])
context.commit("flag", facts())
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "context.db")])
    assert killed.returncode == -9
    with closing(Context(tmp_path / "context.db")) as context:
        assert context.stages() == ["import"]
        assert [fact.what for fact in context.all(Decision)] == ["before"]
        assert context.commit("flag", [decision("again")]) == 2


def test_facts_that_say_the_same_thing_anew_replace_the_older_ones(context: Context) -> None:
    context.commit("set_model", [flux(0, 14.76, "model"), flux(1, 1.0)])
    context.commit("fluxscale", [flux(1, 2.486), flux(2, 3.0)])
    assert context.all(FluxDensity) == [flux(0, 14.76, "model"), flux(1, 2.486), flux(2, 3.0)]
    # Nothing is forgotten, though.
    assert [fact for _, fact in context.every()].count(flux(1, 1.0)) == 1
    # A fact said anew is the latest.
    context.commit("again", [flux(0, 14.8, "model")])
    assert context.last(FluxDensity) == flux(0, 14.8, "model")


def test_facts_without_an_identity_are_all_kept_in_order(context: Context) -> None:
    context.commit("flag", [decision("one", "a"), decision("one", "a"), decision("one", "b")])
    assert [fact.value for fact in context.all(Decision)] == ["a", "a", "b"]


def test_facts_are_found_by_what_they_say(context: Context) -> None:
    context.commit("import", [roles("a.ms", 1), roles("b.ms", 2)])
    context.commit("fluxscale", [flux(1, 2.0, vis="a.ms"), flux(1, 3.0, vis="b.ms"), flux(2, 4.0, vis="b.ms")])
    assert context.all(FluxDensity, vis="b.ms") == [flux(1, 3.0, vis="b.ms"), flux(2, 4.0, vis="b.ms")]
    assert context.all(FluxDensity, vis="b.ms", field=2) == [flux(2, 4.0, vis="b.ms")]
    assert context.all(FluxDensity, vis="c.ms") == []
    assert context.last(Roles, vis="a.ms") == roles("a.ms", 1)
    assert context.all(CalibrationTable) == []


def test_a_filter_applies_to_what_holds_now_and_not_to_what_held(context: Context) -> None:
    table = CalibrationTable(vis="my.ms", path="my.G", kind="G", solved_on=(0,))
    context.commit("gaincal", [table])
    context.commit("again", [table.model_copy(update={"kind": "F"})])
    assert context.all(CalibrationTable, kind="G") == []
    assert len(context.all(CalibrationTable, kind="F")) == 1


def test_no_number_is_lost_not_even_those_that_are_none(tmp_path: Path) -> None:
    blank = Image(
        path="my.image",
        stem="my",
        kind="cube",
        field="N5921",
        unit="Jy/beam",
        shape=(256, 256, 1, 46),
        maximum=math.inf,
        minimum=-math.inf,
        mean=0.1 + 0.2,
        rms=math.nan,
    )
    with closing(Context(tmp_path / "context.db")) as context:
        context.commit("make_images", [blank])
    with closing(Context(tmp_path / "context.db")) as context:
        found = context.last(Image)
    assert found is not None
    assert math.isnan(found.rms)
    assert (found.maximum, found.minimum, found.mean) == (math.inf, -math.inf, 0.1 + 0.2)
    assert found.shape == (256, 256, 1, 46)


def test_names_may_be_anything(context: Context) -> None:
    hostile = "Sgr A* '; DROP TABLE facts; -- \N{GREEK SMALL LETTER ALPHA}\n\x00"
    context.commit(hostile, [decision(hostile)])
    assert context.stages() == [hostile]
    assert context.all(Decision, what=hostile) == [decision(hostile)]


def test_a_sessions_threads_may_share_a_context(context: Context) -> None:
    def commit(number: int) -> None:
        for turn in range(10):
            context.commit(f"stage {number}.{turn}", [decision(f"{number}.{turn}"), decision(f"{number}.{turn}")])
            assert len(context.all(Decision, what=f"{number}.{turn}")) == 2

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(context.stages()) == 50
    assert len(context.all(Decision)) == 100


@pytest.mark.parametrize("content", [b"not a database at all", bytes(5000), b"SQLite format 3\x00" + b"x" * 5000])
def test_a_file_that_is_no_context_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "context.db"
    path.write_bytes(content)
    with pytest.raises(WorkfolderError) as caught:
        Context(path)
    assert str(path) in str(caught.value)
    assert "move it away" in str(caught.value)
    assert path.read_bytes() == content


def test_a_damaged_context_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    with closing(Context(path)) as context:
        context.commit("flag", [decision(str(number), "yes" * 100) for number in range(500)])
    with path.open("r+b") as file:
        # The tables' own descriptions stay whole; what they hold does not.
        file.seek(3 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 3 * 4096))
    with pytest.raises(WorkfolderError) as caught, closing(Context(path)) as context:
        context.every()
    assert str(path) in str(caught.value)


def test_a_context_of_another_version_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    with closing(Context(path)) as context:
        context.commit("import", [roles("my.ms", 1)])
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TRIGGER no_update_of_facts")
        database.execute("UPDATE facts SET body = replace(body, 'bandpass', 'passband')")
        database.commit()
    with closing(Context(path)) as context, pytest.raises(WorkfolderError) as caught:
        context.all(Roles)
    for told in (str(path), "Roles", "another version"):
        assert told in str(caught.value)


def test_a_context_in_a_folder_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkfolderError, match="nowhere"):
        Context(tmp_path / "nowhere" / "context.db")


def test_a_context_that_may_only_be_read_can_be_read_and_says_why_it_cannot_be_written() -> None:
    # In a folder that other users may enter, too.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "context.db"
        with closing(Context(path)) as context:
            context.commit("import", [decision("before")])
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        with ordinary_user(), closing(Context(path)) as context:
            assert context.all(Decision) == [decision("before")]
            with pytest.raises(WorkfolderError) as caught:
                context.commit("flag", [decision("after")])
        Path(folder).chmod(0o755)
        message = str(caught.value)
        for told in ("'flag'", str(path), "readonly", "surgeline resume"):
            assert told in message
        with closing(Context(path)) as context:
            assert context.stages() == ["import"]


def test_a_full_disk_is_told_and_costs_nothing_that_was_committed(tmp_path: Path) -> None:
    # A file that may not grow is refused by the system as a full disk is.
    code = """
import resource, signal, sys
from pathlib import Path
from surgeline.context.records import Decision
from surgeline.context.store import Context
from surgeline.errors import WorkfolderError

def facts(number):
    return [Decision(stage="s", what=str(n), value="yes" * 100, reason="because") for n in range(number)]

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
context = Context(Path(sys.argv[1]))
context.commit("import", facts(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    context.commit("flag", facts(5000))
except WorkfolderError as error:
    print(error)
print(context.stages(), len(context.all(Decision)))
"""
    path = tmp_path / "context.db"
    answer = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    message, way_out, kept = answer.stdout.splitlines()
    assert str(path) in message
    assert "'flag'" in message
    assert "surgeline resume" in way_out
    assert kept == "['import'] 1"


def test_the_file_is_an_ordinary_sqlite_database(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    with closing(Context(path)) as context:
        context.commit("import", [roles("my.ms", 1)])
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT stage, kind FROM facts JOIN commits USING (version)").fetchall()
    assert rows == [("import", "Roles")]
