from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text

from stores import at_once, decision, flux, open_and_commit
from surgeline.context.records import Decision, Fact, FlagSummary, FluxDensity, Image
from surgeline.context.store import Context
from surgeline.context.tables import metadata
from surgeline.errors import ContextError

# As the first version of Surgeline made them.
FIRST_TABLES = (
    'CREATE TABLE commits (version {key}, stage VARCHAR NOT NULL, "when" FLOAT NOT NULL, PRIMARY KEY (version))',
    "CREATE INDEX ix_commits_stage ON commits (stage)",
    "CREATE TABLE facts (id {key}, version INTEGER NOT NULL, kind VARCHAR NOT NULL, body VARCHAR NOT NULL, "
    "PRIMARY KEY (id), FOREIGN KEY(version) REFERENCES commits (version))",
    "CREATE INDEX ix_facts_kind ON facts (kind)",
    "CREATE INDEX ix_facts_version ON facts (version)",
)


def image(path: str, rms: float) -> Image:
    return Image(
        path=path,
        stem="my",
        kind="cube",
        field="N5921",
        unit="Jy/beam",
        shape=(256, 256, 1, 46),
        maximum=math.inf,
        minimum=-math.inf,
        mean=0.1 + 0.2,
        rms=rms,
    )


FIRST_FACTS: dict[str, list[Fact]] = {
    "import": [
        flux(1, 0.5),
        flux(1, 1.0),
        flux(2, 2.0),
        decision("umläut \N{GREEK SMALL LETTER ALPHA}"),
        decision("umläut"),
    ],
    "flag": [FlagSummary(vis="my.ms", after="flag", total=0.5, fields={"0": math.nan}, antennas={})],
    "empty": [],
    "make_images": [image("one.image", math.nan), image("two.image", 0.001), flux(1, 3.0)],
    "make_images again": [image("one.image", 0.002)],
}


def engine_of(where: str | Path) -> Engine:
    return create_engine(where if isinstance(where, str) else f"sqlite:///{where}")


def make_first_store(where: str | Path) -> None:
    """A store of the first version, with facts as it wrote them: NaN is NaN."""
    with engine_of(where).begin() as connection:
        for table in FIRST_TABLES:
            connection.execute(text(table.format(key="SERIAL" if isinstance(where, str) else "INTEGER NOT NULL")))
        for version, (stage, facts) in enumerate(FIRST_FACTS.items(), start=1):
            connection.execute(
                text('INSERT INTO commits (stage, "when") VALUES (:stage, :time)'),
                {"stage": stage, "time": 1.5e9 + version},
            )
            for fact in facts:
                body = fact.model_dump_json()
                for name, constant in (('"NaN"', "NaN"), ('"Infinity"', "Infinity"), ('"-Infinity"', "-Infinity")):
                    body = body.replace(name, constant)
                connection.execute(
                    text("INSERT INTO facts (version, kind, body) VALUES (:version, :kind, :body)"),
                    {"version": version, "kind": type(fact).__name__, "body": body},
                )


def differences(where: str | Path) -> list[object]:
    """What distinguishes the tables that there are from those that the code knows."""
    with engine_of(where).connect() as connection:
        return compare_metadata(MigrationContext.configure(connection), metadata)


def same(one: list[Fact], other: list[Fact]) -> bool:
    """Whether facts are equal, where NaN is equal to NaN."""
    return repr(one) == repr(other)


def test_a_new_store_has_the_tables_that_the_code_knows(where: str | Path) -> None:
    Context(where).close()
    assert differences(where) == []


def test_a_store_of_the_first_version_opens_with_everything_it_had(where: str | Path) -> None:
    make_first_store(where)
    with closing(Context(where)) as context:
        assert differences(where) == []
        assert context.version == 5
        assert context.stages() == list(FIRST_FACTS)
        assert [commit.committed for commit in context.log()] == [1.5e9 + version for version in range(1, 6)]
        assert same([fact for _, fact in context.every()], [fact for all in FIRST_FACTS.values() for fact in all])
        assert context.all(FluxDensity) == [flux(2, 2.0), flux(1, 3.0)]
        assert context.at(3).all(FluxDensity) == [flux(1, 1.0), flux(2, 2.0)]
        assert same(context.at(4).all(Image), [image("one.image", math.nan), image("two.image", 0.001)])
        assert context.all(Image) == [image("two.image", 0.001), image("one.image", 0.002)]
        assert len(context.all(Decision)) == 2
        with engine_of(where).connect() as connection:
            history = connection.execute(text("SELECT since, until FROM fact_history WHERE kind = 'FluxDensity'"))
            assert sorted(history, key=str) == [(1, 4), (1, None), (4, None)]
        summary = context.last(FlagSummary)
        assert summary is not None
        assert math.isnan(summary.fields["0"])
        # It goes on where the first version ended.
        assert context.commit("later", [flux(2, 4.0), decision("later")]) == 6
        assert context.all(FluxDensity) == [flux(1, 3.0), flux(2, 4.0)]
        context.commit("rerun", [], withdrawn=[4, 6])
        assert context.all(FluxDensity) == [flux(1, 1.0), flux(2, 2.0)]
    with closing(Context(where, context.identifier)) as again:
        assert again.version == 7
        assert again.identifier == context.identifier


def test_an_empty_store_of_the_first_version_opens(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    with closing(sqlite3.connect(path)) as database:
        for table in FIRST_TABLES:
            database.execute(table.format(key="INTEGER NOT NULL"))
    with closing(Context(path)) as context:
        assert context.commit("import", [decision("one")]) == 1
    assert differences(path) == []


def test_a_store_of_the_first_version_is_left_as_it_is_by_who_only_reads(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    make_first_store(path)
    before = path.read_bytes()
    with pytest.raises(ContextError, match=r"older version[\s\S]*surgeline resume"):
        Context(path, read_only=True)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    make_first_store(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE facts SET body = 'no JSON' WHERE id = 7")
        database.commit()
        before = list(database.iterdump())
    with pytest.raises(ContextError, match=r"damaged: Expecting value[\s\S]*move it away"):
        Context(path)
    with closing(sqlite3.connect(path)) as database:
        assert list(database.iterdump()) == before


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_of_a_newer_version_is_refused(where: str | Path, read_only: bool) -> None:
    with closing(Context(where)) as context:
        context.commit("import", [decision("one")])
    with engine_of(where).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    with pytest.raises(ContextError) as caught:
        Context(where, read_only=read_only)
    for told in ("newer version of Surgeline", "0099", "0002", "use that version"):
        assert told in str(caught.value)
    with engine_of(where).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM facts")).scalar() == 1


def test_processes_may_open_a_new_store_at_once(where: str | Path) -> None:
    writers = [(where, "the context", f"stage {number}") for number in range(6)]
    with at_once(open_and_commit, *writers) as processes:
        found = [process.result() for process in processes]
    assert sorted(found) == [("the context", version) for version in range(1, 7)]
    assert differences(where) == []
    with closing(Context(where, "the context")) as context:
        assert len(context.all(Decision)) == 6
