"""Finished stages and their facts, as the first version of Surgeline kept them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "commits",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("stage", sa.String, nullable=False, index=True),
        sa.Column("when", sa.Float, nullable=False),
    )
    op.create_table(
        "facts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("version", sa.Integer, sa.ForeignKey("commits.version"), nullable=False, index=True),
        sa.Column("kind", sa.String, nullable=False, index=True),
        sa.Column("body", sa.String, nullable=False),
    )
