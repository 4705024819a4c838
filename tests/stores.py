"""What tests of contexts share: facts, a plain model of what a context says, and processes that use one at once."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from surgeline.context.attempts import Attempt, AttemptWriter
from surgeline.context.records import Command, Decision, Extension, Fact, FluxDensity, subject_of
from surgeline.context.store import Context

# Processes are forked from one that has imported what they need, which makes many of them cheap.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "psycopg", "surgeline.context.store"])


def decision(what: str, value: str = "yes") -> Decision:
    """A fact without an identity."""
    return Decision(stage="flag", what=what, value=value, reason="because")


def flux(field: int, value: float) -> FluxDensity:
    """A fact whose subject is a field's number."""
    return FluxDensity(
        vis="my.ms", field=field, name=f"field {field}", spectral_window=0, kind="measured", flux=value, standard="x"
    )


def extension(name: str, value: Any) -> Extension:
    """A fact whose subject is a name."""
    return Extension(namespace="tests", name=name, value=value)


@dataclass
class Change:
    """What one commit is made of."""

    added: list[Fact] = field(default_factory=list)
    removed: list[tuple[type[Fact], str]] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)

    def commit_to(self, context: Context, stage: str, **arguments: Any) -> int:
        """Make the commit."""
        return context.commit(
            stage, self.added, removed=self.removed, withdrawn=self.withdrawn, details={"stage": stage}, **arguments
        )


def random_change(numbers: random.Random, standing: Sequence[int]) -> Change:
    """Some facts, said for the first time or anew; some taken back; some of the commits that stand withdrawn."""
    change = Change()
    for _ in range(numbers.randrange(4)):
        value = numbers.random()
        # The same subject may come twice in one commit.
        change.added.append(
            numbers.choice([flux(numbers.randrange(5), value), extension("x", value), decision("random", str(value))])
        )
    if numbers.random() < 0.2:
        known = numbers.choice([flux(numbers.randrange(5), 0.0), extension("x", 0.0)])
        change.removed.append((type(known), subject_of(known)))
    if standing and numbers.random() < 0.2:
        change.withdrawn = numbers.sample(standing, min(len(standing), numbers.randrange(1, 3)))
    return change


@dataclass
class Model:
    """What a context says, worked out from the beginning each time."""

    changes: list[Change] = field(default_factory=list)

    def standing(self, version: int | None = None) -> list[int]:
        """The commits up to a version that are not withdrawn by one of them."""
        changes = self.changes[:version]
        withdrawn = {number for change in changes for number in change.withdrawn}
        return [number for number in range(1, len(changes) + 1) if number not in withdrawn]

    def at(self, version: int) -> list[Fact]:
        """The facts that hold at a version, oldest first."""
        words: dict[Any, Fact] = {}
        for number in self.standing(version):
            change = self.changes[number - 1]
            for fact in change.added:
                subject = (type(fact), subject_of(fact)) if fact.identity else object()
                words.pop(subject, None)
                words[subject] = fact
            for removed in change.removed:
                words.pop(removed, None)
        return list(words.values())


_barrier: Barrier


def _meet_at(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _together(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    _barrier.wait(60)
    return function(*arguments)


@contextmanager
def at_once(function: Callable[..., Any], *arguments: tuple[Any, ...]) -> Iterator[list[Future[Any]]]:
    """Call a function of this file in as many processes as there are tuples of arguments, all at the same time."""
    barrier = PROCESSES.Barrier(len(arguments))
    with ProcessPoolExecutor(len(arguments), PROCESSES, _meet_at, (barrier,)) as executor:
        yield [executor.submit(_together, function, each) for each in arguments]


def open_and_commit(where: str | Path, identifier: str | None, stage: str) -> tuple[str, int]:
    """Open a context, perhaps a new one, and commit to it; returns its identifier and the version."""
    with closing(Context(where, identifier)) as context:
        return context.identifier, context.commit(stage, [decision(stage)])


def commit_many(where: str | Path, identifier: str, name: str, number: int) -> list[int]:
    """Commit again and again; returns the versions."""
    with closing(Context(where, identifier)) as context:
        return [context.commit(f"{name}.{turn}", [extension(f"{name}.{turn}", turn)]) for turn in range(number)]


def commit_with_keys(where: str | Path, identifier: str, keys: Sequence[str]) -> list[int]:
    """Commit what has a key; returns the versions."""
    with closing(Context(where, identifier)) as context:
        return [context.commit(f"stage of {key}", [decision(key)], key=key) for key in keys]


def commit_until_killed(where: Path, seed: int, acknowledged: Connection) -> None:
    """Open a context and commit changes of all kinds to it; tells 0 before, and each version once it is committed."""
    numbers = random.Random(seed)
    acknowledged.send(0)
    with closing(Context(where)) as context:
        while True:
            standing = [commit.version for commit in context.log() if commit.withdrawn_by is None]
            change = random_change(numbers, standing)
            acknowledged.send(change.commit_to(context, f"seed {seed}"))


def read_pairs(where: str | Path, identifier: str, number: int) -> list[int]:
    """Open a context and read two facts, which each commit says with its own version; returns the versions seen."""
    versions = []
    for _ in range(number):
        with closing(Context(where, identifier, read_only=True)) as context:
            seen = context.at()
            values = [fact.value for fact in seen.all(Extension, namespace="pairs")]
            assert values == [seen.version, seen.version], (values, seen.version)
            versions.append(seen.version)
    return versions


def pair(version: int) -> list[Fact]:
    """What a commit says for `read_pairs`, and something that takes room beside it."""
    room = [Command(stage="s", text=f"a command of some length, {number} {version}") for number in range(20)]
    return [*(Extension(namespace="pairs", name=name, value=version) for name in ("one", "other")), *room]


def write_attempts_of(where: str | Path, identifier: str, environments: Sequence[str]) -> None:
    """Write attempts that ran in these environments."""
    with closing(Context(where, identifier)) as context, closing(AttemptWriter(context)) as writer:
        for name in environments:
            writer.add(Attempt("run", "stage", "job", 1, "finished", 0.5, 1.5, "worker", "host", name), {"is": name})
        writer.flush()
