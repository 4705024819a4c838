"""Small pieces of HTML by which objects show themselves in a notebook: escaped, with no style sheet and no script.

Colours are those of Jupyter's own theme, light or dark, where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

COLOURS = {
    "finished": "var(--jp-success-color1, #2e7d32)",
    "failed": "var(--jp-error-color1, #c62828)",
    "interrupted": "var(--jp-warn-color1, #b26a00)",
    "running": "var(--jp-brand-color1, #1565c0)",
    "waiting": "var(--jp-ui-font-color2, #757575)",
}
_CELL = "text-align:left;padding:2px 14px 2px 0;vertical-align:top"


class Markup(str):
    """A text that is HTML already."""


def html(content: object) -> Markup:
    """Anything as HTML: what is no HTML yet is escaped."""
    return content if isinstance(content, Markup) else Markup(escape(str(content)))


def joined(parts: Iterable[object], between: str = "") -> Markup:
    """Several things one after the other."""
    return Markup(between.join(map(html, parts)))


def element(tag: str, content: object, style: str = "", **attributes: object) -> Markup:
    """An element; an attribute's underscores stand for hyphens."""
    told = {"style": style, **attributes} if style else attributes
    written = "".join(f' {name.replace("_", "-")}="{escape(str(value))}"' for name, value in told.items())
    return Markup(f"<{tag}{written}>" if tag == "img" else f"<{tag}{written}>{html(content)}</{tag}>")


def coloured(state: str) -> Markup:
    """A state in its colour; the word says the same."""
    return element("strong", state, f"color:{COLOURS.get(state.partition(' ')[0], 'inherit')}")


def bar(done: int, of: int, state: str, label: str) -> Markup:
    """A bar that is filled as far as something is done."""
    share = 100 * done / of if of else 0.0
    filled = element("div", "", f"width:{share:.1f}%;height:100%;background:{COLOURS.get(state, COLOURS['running'])}")
    return element(
        "div",
        filled,
        "width:9em;height:0.7em;margin-top:0.3em;border-radius:0.35em;overflow:hidden;"
        "background:color-mix(in srgb, currentColor 14%, transparent)",
        role="progressbar",
        aria_label=label,
        aria_valuemin=0,
        aria_valuemax=of,
        aria_valuenow=done,
    )


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> Markup:
    """A table with a heading."""
    head = element("tr", joined(element("th", cell, _CELL, scope="col") for cell in header))
    body = joined(element("tr", joined(element("td", cell, _CELL) for cell in row)) for row in rows)
    return element(
        "table", joined([element("thead", head), element("tbody", body)]), "border-collapse:collapse;margin:0.4em 0"
    )


def link(path: Path, words: object) -> Markup:
    """A link to a file; relative where it is below the current directory, so that Jupyter serves it."""
    here = Path.cwd()
    # A name with a colon in it is no scheme.
    target = f"./{quote(path.relative_to(here).as_posix())}" if path.is_relative_to(here) else path.as_uri()
    return element("a", words, href=target, target="_blank")


def folded(title: object, content: object) -> Markup:
    """What is shown when its title is clicked."""
    return element("details", joined([element("summary", title), content]))
