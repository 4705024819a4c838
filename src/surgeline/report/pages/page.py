"""What a page is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GROUPS = ("", "By topic", "By stage", "By MS", "The run")


@dataclass(frozen=True)
class Page:
    """One page of the weblog.

    Attributes:
        file: its name in the folder.
        title: what stands above it.
        template: the template beside the module that made it.
        values: what the template is given beside what all are given.
        group: under which of the GROUPS the menu has it; None: not in the menu.
        label: what the menu calls it; its title unless given.
        parent: the page that it is a part of, for the menu to point at.
        stage: the name of the stage that it is about, whose state the menu shows.
    """

    file: str
    title: str
    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    label: str = ""
    parent: str = ""
    stage: str = ""
