"""Where a context may be: tests that ask for it run on every kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from surgeline.context.store import Context


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """A store that is not there yet: a file, or a PostgreSQL database."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgresql_url")
        return url
    return tmp_path / "context.db"


@pytest.fixture
def store(where: str | Path) -> Iterator[Context]:
    """A new context on either."""
    with closing(Context(where)) as opened:
        yield opened
