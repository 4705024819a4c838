"""The tables of a context's store. Changes of them are migrations, in `migrations/`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# SQLite counts up by itself only what is called INTEGER.
_Number = BigInteger().with_variant(Integer(), "sqlite")

# Later than any version: until then holds a fact that still holds.
STILL = 2**62

# One working folder's context. A database may hold many.
contexts = Table(
    "contexts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("surgeline", String(32), nullable=False),
)

# What happened, in order; never changed. `commit_key` makes a commit that is tried again the same commit.
commits = Table(
    "commits",
    metadata,
    Column("context", ForeignKey("contexts.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("commit_key", String(64), nullable=False),
    Column("stage", Text, nullable=False),
    Column("base", Integer, nullable=False),
    Column("committed", Float, nullable=False),
    Column("details", Text, nullable=False),
    UniqueConstraint("context", "commit_key"),
)

# What was said, never changed: an empty body says that the subject's fact holds no longer.
facts = Table(
    "facts",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("context", String(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    ForeignKeyConstraint(["context", "version"], ["commits.context", "commits.version"]),
    Index("facts_of_subject", "context", "kind", "subject", "id"),
    Index("facts_of_version", "context", "version"),
)

# Which commits hold no longer, and since which.
withdrawals = Table(
    "withdrawals",
    metadata,
    Column("context", String(32), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("withdrawn_by", Integer, nullable=False),
)

# From which version a fact holds, and until which not: made from the above, so that queries need no history.
validity = Table(
    "validity",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("context", String(32), nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("fact", ForeignKey("facts.id"), nullable=False),
    Column("since", Integer, nullable=False),
    Column("until", BigInteger, nullable=False),
    Index("validity_of_kind", "context", "kind", "until", "since"),
    Index("validity_of_subject", "context", "kind", "subject", "until"),
)

# The machines and versions that attempts ran with, each once.
environments = Table(
    "environments",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("body", Text, nullable=False),
)

# Every attempt of every job, in the order in which they ended.
attempts = Table(
    "attempts",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("context", ForeignKey("contexts.id"), nullable=False),
    Column("run", String(32), nullable=False),
    Column("stage", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float, nullable=False),
    Column("worker", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("environment", String(80), nullable=False),
    Column("body", Text, nullable=False),
    Index("attempts_of_stage", "context", "stage", "id"),
    Index("attempts_in_order", "context", "id"),
)
