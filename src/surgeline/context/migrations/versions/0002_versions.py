"""Versions that stay, facts that can be withdrawn, attempts of jobs, and many contexts in one database."""

import json
import math
import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_STILL = 2**62
# What facts of that time were told apart by.
_IDENTITY = {
    "Observation": ("vis",),
    "Roles": ("vis",),
    "ReferenceAntenna": ("vis",),
    "FlagSummary": ("vis", "after"),
    "FluxDensity": ("vis", "field", "spectral_window", "kind"),
    "CalibrationTable": ("path",),
    "Dataset": ("path",),
    "ImagePlan": ("name",),
    "Image": ("path",),
    "Product": ("path",),
    "Picture": ("path",),
}


def upgrade() -> None:
    """Make the new tables, carry everything over, and drop the old ones."""
    op.rename_table("commits", "commits_before")
    op.rename_table("facts", "facts_before")
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    contexts = op.create_table(
        "contexts",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("surgeline", sa.String(32), nullable=False),
    )
    commits = op.create_table(
        "commits",
        sa.Column("context", sa.String(32), sa.ForeignKey("contexts.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("commit_key", sa.String(64), nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("base", sa.Integer, nullable=False),
        sa.Column("committed", sa.Float, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.UniqueConstraint("context", "commit_key"),
    )
    facts = op.create_table(
        "facts",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("context", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["context", "version"], ["commits.context", "commits.version"]),
    )
    op.create_index("facts_of_subject", "facts", ["context", "kind", "subject", "id"])
    op.create_index("facts_of_version", "facts", ["context", "version"])
    op.create_table(
        "withdrawals",
        sa.Column("context", sa.String(32), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("withdrawn_by", sa.Integer, nullable=False),
    )
    validity = op.create_table(
        "validity",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("context", sa.String(32), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("fact", number, sa.ForeignKey("facts.id"), nullable=False),
        sa.Column("since", sa.Integer, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.create_index("validity_of_kind", "validity", ["context", "kind", "until", "since"])
    op.create_index("validity_of_subject", "validity", ["context", "kind", "subject", "until"])
    op.create_table(
        "environments",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("context", sa.String(32), sa.ForeignKey("contexts.id"), nullable=False),
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("environment", sa.String(80), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("attempts_of_stage", "attempts", ["context", "stage", "id"])
    op.create_index("attempts_in_order", "attempts", ["context", "id"])
    _carry_over(op.get_bind(), contexts, commits, facts, validity)
    op.drop_table("facts_before")
    op.drop_table("commits_before")


def _carry_over(
    connection: sa.Connection, contexts: sa.Table, commits: sa.Table, facts: sa.Table, validity: sa.Table
) -> None:
    before = connection.execute(sa.text('SELECT version, stage, "when" FROM commits_before ORDER BY version')).all()
    if not before:
        return
    context = uuid.uuid4().hex
    connection.execute(contexts.insert().values(id=context, name="", created=before[0].when, surgeline="0.1.0"))
    for version, stage, when in before:
        connection.execute(
            commits.insert().values(
                context=context,
                version=version,
                commit_key=uuid.uuid4().hex,
                stage=stage,
                base=version - 1,
                committed=when,
                details="{}",
            )
        )
    held: list[dict[str, Any]] = []
    current: dict[tuple[str, str], dict[str, Any]] = {}
    for place, version, kind, body in connection.execute(
        sa.text("SELECT id, version, kind, body FROM facts_before ORDER BY id")
    ).all():
        content = _without_nan(json.loads(body))
        identity = _IDENTITY.get(kind)
        subject = json.dumps([content[name] for name in identity] if identity else [version, place])
        fact = {"context": context, "version": version, "kind": kind, "schema_version": 1, "subject": subject}
        # The database numbers them, so that it knows which number is next.
        inserting = facts.insert().values(**fact, body=json.dumps(content)).returning(facts.c.id)
        number = connection.execute(inserting).scalar_one()
        if (kind, subject) in current:
            current[kind, subject]["until"] = version
        span = {"context": context, "kind": kind, "subject": subject, "fact": number, "since": version}
        current[kind, subject] = {**span, "until": _STILL}
        held.append(current[kind, subject])
    # Of what one commit says twice, the last word holds.
    held = [span for span in held if span["since"] < span["until"]]
    if held:
        connection.execute(validity.insert(), held)


def _without_nan(content: Any) -> Any:
    """What JSON has no word for, as the texts that facts now have for it."""
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else "Infinity" if content > 0 else "-Infinity"
    return content
