"""What a browser would make of a page, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class ParsedPage(HTMLParser):
    """The texts of a page, and every tag with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def anchors(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every tag of a name."""
        return [attributes for name, attributes in self.tags if name == tag]

    def links(self) -> Iterator[str]:
        """All that the page loads or leads to."""
        for _, attributes in self.tags:
            for name in ("src", "href", "data", "action", "srcset"):
                value = attributes.get(name)
                if value is not None and value != "data:,":
                    yield value


def broken_links(folder: Path) -> list[str]:
    """Links of all pages of a folder that lead to no file, or to no place on a page; or to elsewhere."""
    pages = {path.resolve(): ParsedPage(path) for path in folder.glob("*.html")}
    anchors = {path: set(page.anchors) for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        for link in page.links():
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc or not target.is_file():
                broken.append(f"{path.name}: {link}")
            elif parts.fragment and unquote(parts.fragment) not in anchors.get(target, ()):
                broken.append(f"{path.name}: {link} has no such place")
    return broken
