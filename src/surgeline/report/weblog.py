"""The weblog: a folder of pages that say what a session did, when, where and with what result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.report.material import Material
from surgeline.report.pages.page import GROUPS
from surgeline.report.rendering import render, templates, write_changed, write_static
from surgeline.report.site import all_pages

# Pages of which there are as many as stages, MSs and images.
_NUMBERED = ("stage-*.html", "ms-*.html", "image-*.html")


def write_weblog(paths: SessionPaths, record: Mapping[str, Any], context: Context) -> Path:
    """Write the pages, each whole or not at all, and those that have not changed not again.

    They need nothing but the working folder, which may be moved: they link to its pictures, products and logs.

    Args:
        paths: where they go.
        record: what `run.json` says of the run; it may be a run that still runs, or failed.
        context: the facts that its stages committed, if any.

    Returns:
        the path of the first page.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = paths.weblog.parent
    folder.mkdir(parents=True, exist_ok=True)
    material = Material(paths, record, context)
    pages = list(all_pages(material))
    menu = [(group, [page for page in pages if page.group == group]) for group in GROUPS]
    environment = templates()
    write_static(folder)
    digests = {}
    for page in pages:
        given = {"m": material, "run": material.run, "page": page, "menu": menu, **page.values}
        text, digests[page.file] = render(environment, page.template, given)
        write_changed(folder / page.file, text)
    write_changed(paths.script, material.script)
    _remove_others(folder, digests)
    # Last, since it tells pages that are open of the new ones.
    write_changed(folder / "now.js", _news(material, digests))
    return paths.weblog


def _remove_others(folder: Path, written: Iterable[str]) -> None:
    """Remove pages of stages, MSs and images that there are no longer."""
    known = set(written)
    for pattern in _NUMBERED:
        for path in folder.glob(pattern):
            if path.name not in known:
                path.unlink(missing_ok=True)


def _news(material: Material, digests: Mapping[str, str]) -> str:
    """What pages that are open are told of: how the session stands, and which page has which content."""
    news = {
        "state": material.run["state"],
        "stages": {stage.file: stage.state for stage in material.stages},
        "pages": digests,
    }
    return f"surgelineNews({json.dumps(news)});\n"
