"""A session at a moment as a terminal shows it: a row for each stage, and below what is common to all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from surgeline.workflow.tally import Now, StageNow
from surgeline.workflow.timeleft import duration

# State, then mark and colour: they say the same, as not everybody sees colours.
_LOOKS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "cyan"),
    "finished": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "interrupted": ("■", "yellow"),
}
_ASCII = {"·": ".", "▶": ">", "✓": "+", "✗": "x", "■": "#", "…": "..."}
_GAP = 2
_TITLES = ("", "stage", "state", "jobs", "time", "now")
# Wider names of stages are cut, to half of it in narrow windows, so that what they do now stays in sight.
_WIDEST_NAME = 36


class View:
    """Renders a moment for the width and the height of the terminal that there is."""

    def __init__(self, now: Now, folds: bool = True) -> None:
        """Take a moment; `folds`: finished and waiting stages go into one line each where there are too many."""
        self._now = now
        self._folds = folds

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        totals = self._totals()
        most = None
        if self._folds and console.is_terminal:
            # With a line for the titles, one between, and one for the cursor.
            most = max(console.height - len(totals) - 3, 3)
        rows = [self._cells(row) for row in _fold(self._now.stages, most)]
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        room = options.max_width
        for number, title in enumerate(_TITLES):
            width = max([len(title), *(row[number].cell_len for row in rows)])
            if title == "stage":
                width = min(width, _WIDEST_NAME if room >= 100 else _WIDEST_NAME // 2)
            # What does not fit is cut of what is done now; all else is as wide as what is in it.
            width = min(width, max(room, 1)) if title == _TITLES[-1] else width
            room -= width + _GAP
            justify: Literal["left", "right"] = "right" if title in ("jobs", "time") else "left"
            table.add_column(title, width=width, justify=justify, no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*(_plain(cell) if options.ascii_only else cell for cell in row))
        lines = [_plain(line) if options.ascii_only else line for line in totals]
        yield Group(table, *([Text(), *lines] if lines else []))

    def _cells(self, row: StageNow | str) -> tuple[Text, ...]:
        if isinstance(row, str):
            return Text("…"), Text(row, "dim"), Text(), Text(), Text(), Text()
        mark, style = _LOOKS[row.state]
        jobs = f"{row.done}/{row.jobs}" if row.jobs else ""
        seconds = (row.ended or self._now.time) - row.began if row.began else None
        return (
            Text(mark, style),
            Text(row.name, "" if row.state != "waiting" else "dim"),
            Text(_state(row), style),
            Text(jobs),
            Text("" if seconds is None else f"{seconds:.1f} s" if seconds < 60 else duration(seconds)),
            Text("; ".join(_doing(row, self._now.stages))),
        )

    def _totals(self) -> list[Text]:
        stages = self._now.stages
        jobs, ended, working, failed, stopped = (
            sum(getattr(stage, name) for stage in stages) for name in ("jobs", "done", "working", "failed", "stopped")
        )
        counts = (
            (ended - failed - stopped, "done"),
            (working, "running"),
            (jobs - ended - working, "waiting"),
            (failed, "failed"),
            (stopped, "stopped"),
        )
        told = ", ".join(f"{number} {what}" for number, what in counts if number)
        lines = [Text.assemble(("jobs     ", "dim"), told)] if told else []
        for number, cluster in enumerate(self._now.workers):
            lines.append(Text.assemble(("         " if number else "workers  ", "dim"), str(cluster)))
        if self._now.lost:
            died = (
                "1 worker died running a job"
                if self._now.lost == 1
                else f"{self._now.lost} workers died running jobs"
            )
            lines.append(Text.assemble(("lost     ", "dim"), (died, "yellow")))
        if self._now.left:
            lines.append(Text.assemble(("left     ", "dim"), self._now.left))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines


def _state(stage: StageNow) -> str:
    if stage.before:
        return "finished before"
    if stage.state == "running" and stage.jobs > stage.done:
        return "working" if stage.working else "waiting for a worker"
    return stage.state


def _doing(stage: StageNow, stages: Sequence[StageNow]) -> list[str]:
    """What a stage does, or waits for."""
    if stage.state == "waiting":
        finished = {other.name for other in stages if other.state == "finished"}
        before = [name for name in stage.needs if name not in finished]
        return [f"after {', '.join(before)}"] if before else []
    told = []
    if stage.state == "running":
        if stage.names:
            more = stage.working - len(stage.names)
            told.append(", ".join(stage.names) + (f" and {more} more" if more else ""))
        told += stage.waits
    if stage.failed:
        told.append(f"{stage.failed} failed")
    if stage.lost:
        told.append(f"{stage.lost} worker{'s' if stage.lost != 1 else ''} lost")
    return told


def _fold(stages: Sequence[StageNow], most: int | None) -> list[StageNow | str]:
    """The stages, or where these are too many rows, those that something happens in, and of the rest the number."""
    if most is None or len(stages) <= most:
        return list(stages)
    rows: list[StageNow | str] = []
    finished = [stage for stage in stages if stage.state == "finished"]
    waiting = [stage for stage in stages if stage.state == "waiting"]
    other = [stage for stage in stages if stage.state not in ("finished", "waiting")]
    room = max(most - len(other) - 2, 0)
    if finished:
        rows.append(f"{len(finished)} finished")
    rows += other
    rows += waiting[:room]
    if len(waiting) > room:
        rows.append(f"{len(waiting) - room} waiting")
    return rows


def _plain(text: Text) -> Text:
    """The same in ASCII, for terminals that have no more."""
    plain = text.copy()
    for mark, instead in _ASCII.items():
        if mark in plain.plain:
            plain.plain = plain.plain.replace(mark, instead)
    return plain
