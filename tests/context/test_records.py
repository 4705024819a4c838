from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stores import decision
from surgeline.context.records import KINDS, Fact
from surgeline.context.store import Context
from surgeline.errors import ContextError, WorkfolderError


class Beam(Fact):
    """A kind as it was."""

    identity: ClassVar[tuple[str, ...]] = ("image",)

    image: str
    size: float
    unit: str


class BeamNow(Fact):
    """The same kind as it is now: with two axes, another word for its unit, and where it comes from."""

    kind_name: ClassVar[str] = "Beam"
    identity: ClassVar[tuple[str, ...]] = ("image",)
    schema_version: ClassVar[int] = 3

    image: str
    major: float
    minor: float
    unit: str = "arcsec"
    origin: str = "fitted"

    @classmethod
    def from_older(cls, body: dict[str, Any], schema_version: int) -> dict[str, Any]:
        size = body.pop("size")
        return {**body, "major": size, "minor": size, "unit": "arcsec", "origin": f"schema {schema_version}"}


@pytest.fixture
def newer(store: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A store with facts of a schema that has changed since, and one of the new schema."""
    monkeypatch.setitem(KINDS, "Beam", Beam)
    older = {"one": float("inf"), "two": 2.0, "three": 0.5}
    store.commit("image", [Beam(image=image, size=size, unit='"') for image, size in older.items()])
    monkeypatch.setitem(KINDS, "Beam", BeamNow)
    store.commit("again", [BeamNow(image="three", major=3.0, minor=1.0)])
    return store


def test_facts_of_an_older_schema_are_brought_up_to_date(newer: Context) -> None:
    one, two, three = newer.all(BeamNow)
    assert (one.image, one.major, one.minor, one.origin) == ("one", float("inf"), float("inf"), "schema 1")
    assert [fact.origin for fact in (two, three)] == ["schema 1", "fitted"]
    assert newer.at(1).all(BeamNow)[2].major == 0.5
    assert len(newer.every()) == 4
    assert [stored.schema_version for stored in newer.holding(2)] == [1, 1, 3]


def test_facts_of_an_older_schema_are_found_by_what_they_say_now(newer: Context) -> None:
    assert [beam.major for beam in newer.all(BeamNow, image="two")] == [2.0]
    assert [beam.image for beam in newer.all(BeamNow, unit="arcsec")] == ["one", "two", "three"]
    assert [beam.image for beam in newer.all(BeamNow, origin="schema 1")] == ["one", "two"]
    assert newer.all(BeamNow, unit='"') == []


def test_facts_of_a_newer_schema_are_refused(newer: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "Beam", Beam)
    for ask in (lambda: newer.all(Beam), newer.every):
        with pytest.raises(ContextError) as caught:
            ask()
        for told in ("Beam", "newer version", "schema 3", "knows 1"):
            assert told in str(caught.value)
    # What is known can still be read.
    assert newer.at(1).all(Beam)[1].size == 2.0


def test_facts_of_an_unknown_kind_are_told(store: Context) -> None:
    class Unheard(Fact):
        kind_name: ClassVar[str] = "package.Unheard"
        text: str

    store.commit("stage", [Unheard(text="x"), decision("known")])
    with pytest.raises(WorkfolderError, match=r"unknown kind: package\.Unheard; install what defines it"):
        store.every()
    # Who knows the kind can read it.
    assert store.all(Unheard, text="x") == [Unheard(text="x")]
    assert len(store.said_by(1)) == 2


PACKAGE = '''
from typing import ClassVar
from surgeline.context.records import Fact


class Pulse(Fact):
    """What a package of its own finds out."""

    kind_name: ClassVar[str] = "pulsars.Pulse"
    identity: ClassVar[tuple[str, ...]] = ("source",)

    source: str
    period: float
'''

METADATA = """Metadata-Version: 2.1
Name: pulsars
Version: 1.0
"""

USE = """
import sys
from pathlib import Path
from surgeline.context.store import Context

context = Context(Path(sys.argv[1]))
if "commit" in sys.argv:
    from pulsars import Pulse
    context.commit("fold", [Pulse(source="Vela", period=0.089), Pulse(source="Crab", period=0.033)])
for stage, fact in context.every():
    print(stage, type(fact).__module__, repr(fact))
"""


def test_an_installed_package_may_bring_kinds_of_its_own(tmp_path: Path) -> None:
    packages, path = tmp_path / "site-packages", tmp_path / "context.db"
    installed = packages / "pulsars-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(METADATA)
    (installed / "entry_points.txt").write_text("[surgeline.facts]\npulse = pulsars:Pulse\n")
    (packages / "pulsars.py").write_text(PACKAGE)

    def use(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", USE, str(path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})

    told = ["fold pulsars Pulse(source='Vela', period=0.089)", "fold pulsars Pulse(source='Crab', period=0.033)"]
    made = use("commit", PYTHONPATH=str(packages))
    assert made.stdout.splitlines() == told, made.stderr
    assert use(PYTHONPATH=str(packages)).stdout.splitlines() == told
    # Where the package is not installed, that is said, and what others said can be read.
    without = use()
    assert "unknown kind: pulsars.Pulse" in without.stderr
    with closing(Context(path)) as context:
        assert [fact.subject for fact in context.said_by(1)] == ['["Vela"]', '["Crab"]']
