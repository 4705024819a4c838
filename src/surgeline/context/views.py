"""Plain SQL views over the store's tables, for anybody to query; docs/context.md describes their columns."""

from __future__ import annotations

from sqlalchemy import Connection

from surgeline.context.tables import STILL

_VIEWS = {
    "current_facts": f"""
        SELECT v.context, f.version, c.stage, v.kind, v.subject, f.schema_version, f.body
        FROM validity v
        JOIN facts f ON f.id = v.fact
        JOIN commits c ON c.context = f.context AND c.version = f.version
        WHERE v.until = {STILL}
    """,
    "fact_history": f"""
        SELECT v.context, v.kind, v.subject, v.since, CASE WHEN v.until = {STILL} THEN NULL ELSE v.until END AS until,
               f.version, c.stage, f.schema_version, f.body
        FROM validity v
        JOIN facts f ON f.id = v.fact
        JOIN commits c ON c.context = f.context AND c.version = f.version
    """,
    "commit_log": """
        SELECT c.context, c.version, c.stage, c.base, c.committed, w.withdrawn_by, c.details
        FROM commits c
        LEFT JOIN withdrawals w ON w.context = c.context AND w.version = c.version
    """,
    "job_attempts": """
        SELECT a.context, a.run, a.stage, a.job, a.number, a.state, a.started, a.ended,
               a.ended - a.started AS seconds, a.worker, a.host, a.body, e.body AS environment
        FROM attempts a
        LEFT JOIN environments e ON e.id = a.environment
    """,
}
# What is written once is never changed: the database itself sees to it.
_IMMUTABLE = ("commits", "facts", "attempts", "withdrawals", "environments")


def make_views(connection: Connection) -> None:
    """Make the views, and what keeps history from being rewritten, anew."""
    for name, query in _VIEWS.items():
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")
    if connection.dialect.name == "sqlite":
        for table in _IMMUTABLE:
            for verb in ("UPDATE", "DELETE"):
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS no_{verb.lower()}_of_{table}")
                connection.exec_driver_sql(
                    f"CREATE TRIGGER no_{verb.lower()}_of_{table} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} are never changed'); END"
                )
        return
    connection.exec_driver_sql(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' are never changed'; END $$"
    )
    for table in _IMMUTABLE:
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS never_changed ON {table}")
        connection.exec_driver_sql(
            f"CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
