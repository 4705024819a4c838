"""How pages become files: rendered, written only where they changed, and renamed when they are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeline.paths import write_text
from surgeline.report import units
from surgeline.report.timeline import COLOURS

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent
_STATIC = _FOLDER / "static"
# Stands in a page where its digest goes; the first in the text, before any data.
_DIGEST = "the-digest-of-this-page"


@cache
def templates() -> Environment:
    """What renders pages: all that comes out of data is escaped, and a name that there is not is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(u=units, colours=range(COLOURS), digest=_DIGEST)
    return environment


def render(environment: Environment, template: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """A page, and the digest by which it is known in a browser whether it has changed."""
    text = environment.get_template(template).render(values)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return text.replace(_DIGEST, digest, 1), digest


def write_changed(path: Path, text: str) -> bool:
    """Write a file unless it says so already; returns whether it was written.

    Raises:
        OSError: it cannot be written.
    """
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (OSError, UnicodeDecodeError):
        pass
    write_text(path, text)
    return True


def write_static(folder: Path) -> None:
    """Put the style and the scripts of pages beside them.

    Raises:
        OSError: the folder cannot be written.
    """
    for source in _STATIC.iterdir():
        write_changed(folder / source.name, source.read_text(encoding="utf-8"))
