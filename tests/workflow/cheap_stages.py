"""Stages that cost next to nothing, as a package brings them: they make, change and sum up files of numbers.

`make` writes a file, `change` adds to its numbers in place, `total` writes their sum; `pause` seconds in each job
leave time to interrupt it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from surgeline import FunctionCall
from surgeline.context.records import Fact
from surgeline.stages.stage import Parameters, Stage, stage
from surgeline.work.procedure import Everywhere, Procedure


class Numbers(Fact):
    """A file of numbers."""

    kind_name: ClassVar[str] = "cheap.Numbers"
    identity: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    count: int


class Total(Fact):
    """What numbers sum up to."""

    kind_name: ClassVar[str] = "cheap.Total"
    identity: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    total: int


class MakeParameters(Parameters):
    """What to make."""

    path: str = "data/numbers.json"
    count: int = 20


class ChangeParameters(Parameters):
    """What to change, by how much, in how many jobs."""

    path: str = "data/numbers.json"
    by: int = 1
    jobs: int = 3
    pause: float = 0.0


class TotalParameters(Parameters):
    """What to sum up."""

    path: str = "data/numbers.json"
    output: str = "products/total.json"
    pause: float = 0.0


def write_numbers(path: str, count: int) -> int:
    Path(path).write_text(json.dumps(list(range(count))))
    return count


def change_numbers(path: str, by: int, pause: float) -> None:
    """Changes half of the file, waits, and changes the rest: an interruption leaves it half changed."""
    numbers = json.loads(Path(path).read_text())
    half = len(numbers) // 2
    for place in range(half):
        numbers[place] = numbers[place] * 3 + by
    _overwrite(path, numbers)
    time.sleep(pause)
    for place in range(half, len(numbers)):
        numbers[place] = numbers[place] * 3 + by
    _overwrite(path, numbers)


def sum_up(path: str, output: str, pause: float) -> int:
    time.sleep(pause)
    total = sum(json.loads(Path(path).read_text()))
    Path(output).write_text(json.dumps(total))
    return total


def _overwrite(path: str, numbers: list[int]) -> None:
    """In place, as CASA changes tables."""
    with Path(path).open("r+") as handle:
        handle.write(json.dumps(numbers))
        handle.truncate()
        handle.flush()
        os.fsync(handle.fileno())


@stage
def make(stage: Stage, parameters: MakeParameters) -> Procedure[list[Fact]]:
    call = FunctionCall(write_numbers, parameters.path, parameters.count)
    (count,) = yield [call.declare(name="make", writes=[parameters.path])]
    return [Numbers(path=parameters.path, count=count)]


@stage
def change(stage: Stage, parameters: ChangeParameters) -> Procedure[list[Fact]]:
    numbers = stage.required(Numbers, path=parameters.path)
    for number in range(parameters.jobs):
        call = FunctionCall(change_numbers, numbers.path, parameters.by + number, parameters.pause)
        yield [call.declare(name=f"change {number}", changes=[numbers.path])]
    return []


@stage
def total(stage: Stage, parameters: TotalParameters) -> Procedure[list[Fact]]:
    numbers = stage.required(Numbers, path=parameters.path)
    call = FunctionCall(sum_up, numbers.path, parameters.output, parameters.pause)
    (total,) = yield [call.declare(name="sum up", reads=[numbers.path], writes=[parameters.output])]
    return [Total(path=parameters.output, total=total)]


class PrepareParameters(Parameters):
    """Nothing to say."""


def remember(text: str) -> int:
    os.environ["CHEAP_STAGES"] = text
    return os.getpid()


def recall(pause: float) -> tuple[int, str | None]:
    time.sleep(pause)
    return os.getpid(), os.environ.get("CHEAP_STAGES")


@stage
def prepare(stage: Stage, parameters: PrepareParameters) -> Procedure[list[Fact]]:
    """Sets each worker up, and sees that jobs find it so; says how many workers there are."""
    processes = yield Everywhere(FunctionCall(remember, "ready"))
    recalled = yield [FunctionCall(recall, 0.05) for _ in range(8)]
    assert {text for _, text in recalled} == {"ready"}
    assert {process for process, _ in recalled} <= set(processes)
    return [Total(path="prepared", total=len(set(processes)))]


class ConsiderParameters(Parameters):
    """Which of the totals to keep."""

    least: int = 0


@stage
def consider(stage: Stage, parameters: ConsiderParameters) -> Procedure[list[Fact]]:
    """Tries a total and its double, and keeps the first that is large enough; takes back what it came from."""
    for total in stage.known(Total):
        for factor in (1, 2):
            draft = stage.draft()
            draft.add(Total(path="considered", total=factor * total.total))
            draft.remove(Total, path=total.path)
            assert len(draft.all(Total)) == 1
            considered = draft.last(Total, path="considered")
            if considered and considered.total >= parameters.least:
                draft.accept()
                break
            draft.drop()
    yield from ()
    return []


ENTRY_POINTS: Mapping[str, Mapping[str, Any]] = {
    "surgeline.stages": {name: f"cheap_stages:{name}" for name in ("make", "change", "total", "consider", "prepare")},
    "surgeline.facts": {"numbers": "cheap_stages:Numbers", "total": "cheap_stages:Total"},
}


def install(folder: Path) -> None:
    """Make the folder a place from which this module is an installed package: for PYTHONPATH."""
    info = folder / "cheap_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cheap-stages\nVersion: 1.0\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in ENTRY_POINTS.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    (folder / "cheap_stages.py").write_text(Path(__file__).read_text())
