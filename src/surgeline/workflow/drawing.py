"""The graph of a recipe's stages as text: time goes down, a line leads from each stage to those that wait for it."""

from __future__ import annotations

from collections.abc import Sequence

from surgeline.workflow.planning import Plan, PlannedStage
from surgeline.workflow.timeleft import duration

_MARKS = {"finished": "✓", "unseen": "○", "foretold": "●"}
# So many jobs of a stage are told one by one.
_MOST_JOBS = 4
# For terminals that have no more than ASCII.
_ASCII = str.maketrans("●○✓│─├╮╯┬┴·", "*o+|-|\\/--.")


def draw(plan: Plan, ascii_only: bool = False) -> str:
    """Draw the stages of a plan, each with what is known of its jobs.

    A line keeps its column from the stage that it leaves to the one that it leads to.

    Args:
        plan: what is to be drawn.
        ascii_only: with no other letters than those of ASCII.
    """
    lines = [*plan.heading, ""]
    # In each column the stage that its line leads to; None where it is free.
    columns: list[str | None] = []
    # The column of the last stage, where nothing waits for that.
    ended: int | None = None
    dependents: dict[str, list[str]] = {stage.name: [] for stage in plan.stages}
    for stage in plan.stages:
        for name in stage.needs:
            dependents[name].append(stage.name)
    for stage in plan.stages:
        arriving = [place for place, target in enumerate(columns) if target == stage.name]
        place = arriving[0] if arriving else _free(columns)
        if len(arriving) > 1:
            lines.append(_joint(columns, place, arriving[1:], "╯"))
            for other in arriving[1:]:
                columns[other] = None
            _trim(columns)
        if not arriving and place == ended:
            # Else the line of the stage above would seem to lead here.
            lines.append(_row(columns))
        columns[place] = stage.name
        title, *details = _texts(stage)
        lines.append(_row(columns, place, _MARKS[stage.state]) + f"  {title}")
        following = dependents[stage.name]
        columns[place] = following[0] if following else None
        ended = None if following else place
        lines += [f"{_row(columns)}    {detail}".rstrip() for detail in details]
        leaving = []
        for name in following[1:]:
            leaving.append(_free(columns, place + 1))
            columns[leaving[-1]] = name
        if leaving:
            lines.append(_joint(columns, place, leaving, "╮"))
        _trim(columns)
    if any(stage.state == "unseen" for stage in plan.stages):
        lines += ["", "○ nothing is known of its jobs before the import has run"]
    text = "\n".join(line.rstrip() for line in lines)
    return text.translate(_ASCII) if ascii_only else text


def _texts(stage: PlannedStage) -> list[str]:
    """What is said of a stage beside its mark, and below."""
    task = f" ({stage.task})" if stage.task != stage.name else ""
    jobs = len(stage.jobs)
    number = f"{'' if stage.complete else 'at least '}{jobs} job{'s' if jobs != 1 else ''}" if jobs else ""
    title = "   ".join(filter(None, (stage.name + task, "finished before" if stage.state == "finished" else number)))
    details = [f"runs again: {stage.again}"] if stage.again else []
    shown = stage.jobs if jobs <= _MOST_JOBS + 1 else stage.jobs[:_MOST_JOBS]
    for job in shown:
        seconds = job.declared.seconds
        about = f", about {duration(seconds)}" if seconds and seconds >= 1 else ""
        details.append(f"· {job.declared.name}   {job.declared.resources}{about}")
    if jobs > len(shown):
        details.append(f"· and {jobs - len(shown)} more")
    return [title, *details, *stage.refusal]


def _trim(columns: list[str | None]) -> None:
    """Take away the free columns on the right."""
    while columns and columns[-1] is None:
        columns.pop()


def _free(columns: list[str | None], least: int = 0) -> int:
    """The first column from a number on that no line is in; a new one if there is none."""
    for column, target in enumerate(columns):
        if column >= least and target is None:
            return column
    columns.append(None)
    return len(columns) - 1


def _row(columns: Sequence[str | None], place: int = -1, mark: str = "") -> str:
    """The lines that pass, and the mark of a stage."""
    return " ".join(mark if column == place else "│" if target else " " for column, target in enumerate(columns))


def _joint(columns: Sequence[str | None], place: int, others: Sequence[int], corner: str) -> str:
    """A row in which lines from the right come to a column, or leave it; what they cross goes on behind."""
    end = max(others)
    cells = []
    for column, target in enumerate(columns):
        if column == place:
            cell = "├"
        elif column in others:
            cell = corner if column == end else {"╯": "┴", "╮": "┬"}[corner]
        else:
            cell = "│" if target else "─" if place < column < end else " "
        cells.append(cell + ("─" if place <= column < end else " "))
    return "".join(cells)
