"""What a session has found and made, as objects."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from surgeline.config import Configuration, load
from surgeline.context.records import AnyFact, Image, Picture, Product
from surgeline.errors import WorkfolderError
from surgeline.paths import SessionPaths
from surgeline.work.htmltext import element, folded, html, joined, link
from surgeline.workflow.known import open_context

# So many pictures are shown at once; the weblog has them all.
_MOST_PICTURES = 4


class Results:
    """What the session of a working folder has found and made: read when it is asked for, also while it runs."""

    def __init__(self, workdir: str | Path = "surgeline-session", configuration: Configuration | None = None) -> None:
        """Take a working folder.

        Args:
            workdir: the folder.
            configuration: that of the folder unless given; it says where the context is.

        Raises:
            WorkfolderError: it holds no session.
        """
        self.paths = SessionPaths(Path(workdir).absolute())
        if not self.paths.context.is_file() and not self.paths.identifier.is_file():
            raise WorkfolderError(f"{workdir} holds no session", "give the working folder of one")
        self._configuration = configuration or load(self.paths.workdir)

    def facts(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind that hold now, and whose fields equal those given; oldest first.

        Args:
            kind: such as `surgeline.context.records.FluxDensity`, or a `Fact` of a stage of your own; units are said
                with each.
            equal: such as name="1331+305=3C286".

        Raises:
            ContextError: the context cannot be read.
        """
        with closing(open_context(self.paths, self._configuration, read_only=True)) as context:
            return context.all(kind, **equal)

    @property
    def images(self) -> list[Path]:
        """Absolute paths of the CASA images; `facts(Image)` has their kinds, shapes and statistics (in `unit`)."""
        return self._files(self.facts(Image))

    @property
    def products(self) -> list[Path]:
        """Absolute paths of what was exported, such as FITS files; `facts(Product)` has their sizes, in bytes."""
        return self._files(self.facts(Product))

    @property
    def pictures(self) -> list[Path]:
        """Absolute paths of the plots and pictures, as PNG; `facts(Picture)` has their titles."""
        return self._files(self.facts(Picture))

    @property
    def weblog(self) -> Path:
        """The first page of the weblog; it is there once a stage has finished, unless session.weblog is off."""
        return self.paths.weblog

    def _files(self, facts: Sequence[Image | Product | Picture]) -> list[Path]:
        return [self.paths.workdir / fact.path for fact in facts]

    def __repr__(self) -> str:
        counted = f"{len(self.images)} images, {len(self.products)} products, {len(self.pictures)} pictures"
        return f"<Results of {self.paths.workdir}: {counted}>"

    def _repr_html_(self) -> str:
        """How they are shown in a notebook: some pictures of images, and links to the rest."""
        pictures = [shown for shown in self.facts(Picture) if not shown.one_of_many]
        pictures.sort(key=lambda shown: shown.topic != "image")
        products = self.products
        listed = element("ul", joined(element("li", link(path, path.name)) for path in products))
        weblog = [link(self.weblog, "weblog")] if self.weblog.is_file() else []
        told = [
            element("div", joined([html(repr(self)), *weblog], " ")),
            *map(self._figure, pictures[:_MOST_PICTURES]),
        ]
        return joined([*told, folded(f"{len(products)} products", listed)] if products else told)

    def _figure(self, picture: Picture) -> str:
        path = self.paths.workdir / picture.path
        if not path.is_file():
            return ""
        # A notebook is read elsewhere, too.
        source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        image = element(
            "img", "", "max-width:100%;max-height:22em", src=source, alt=picture.title, title=picture.caption
        )
        return element(
            "figure", joined([image, element("figcaption", picture.title)]), "display:inline-block;margin:0.4em"
        )
