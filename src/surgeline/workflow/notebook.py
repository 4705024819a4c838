"""How a session shows itself in a notebook, while it runs and afterwards, and as a text."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from surgeline.errors import Interrupted
from surgeline.paths import SessionPaths
from surgeline.work.htmltext import Markup, bar, coloured, element, folded, joined, link, table
from surgeline.work.outcome import Loss, Outcome
from surgeline.workflow.queuewatch import Arrival
from surgeline.workflow.tally import Now, StageNow, Tally
from surgeline.workflow.timeleft import duration

_SECONDS_BETWEEN_LOOKS = 1.0
# So many of each are shown; the weblog has them all.
_MOST_WARNINGS = 8
_MOST_PRODUCTS = 20


class Shown(Tally):
    """What a session shows of itself: how far it is, what went wrong, and where its results are."""

    def __init__(self, name: str, paths: SessionPaths) -> None:
        """Of a recipe's name, and of a working folder."""
        super().__init__()
        self._name = name
        self._paths = paths
        self._state = "waiting"
        self._ended: float | None = None
        self._warnings: list[str] = []
        self._last = ""

    @contextmanager
    def while_it_runs(self) -> Iterator[None]:
        """Show, in a notebook, how far the session is until the block ends; elsewhere only know how it ended."""
        self._state, self._began, self._ended = "running", time.time(), None
        try:
            with _shown_live(self):
                try:
                    yield
                except BaseException as error:
                    stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
                    self._state = "interrupted" if stopped else "failed"
                    raise
                else:
                    done = all(stage.state == "finished" for stage in self.now().stages)
                    self._state = "finished" if done else "interrupted"
                finally:
                    self._ended = time.time()
        finally:
            self._last = ""

    def runs_again(self, stage: str, reason: str) -> None:
        """A stage that had finished runs again."""
        self._last = f"{stage} runs again: {reason}"

    def notice(self, text: str) -> None:
        """Something that a user wants to know happens."""
        self._last = text

    def starting_workers(self, description: str) -> None:
        """Workers are being started."""
        self._last = f"starting {description}"

    def workers_came(self, arrival: Arrival) -> None:
        """Workers came out of a queue."""
        self._last = str(arrival)

    def stage_began(self, stage: str) -> None:
        """A stage's heuristics begin."""
        super().stage_began(stage)
        self._last = ""

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""
        super().job_ended(stage, ticket, outcome)
        if outcome.failure and outcome.failure.kind != "cancelled":
            self._warnings.append(f"{stage}: job {outcome.job!r} failed: {outcome.failure.message}")

    def worker_lost(self, job: str, loss: Loss) -> None:
        """A worker died running a job."""
        super().worker_lost(job, loss)
        self._warnings.append(f"worker {loss.worker} died running {job!r}, which runs again: {loss.how}")

    def stage_ended(self, stage: str, error: str | None) -> None:
        """A stage has finished, or failed."""
        super().stage_ended(stage, error)
        if error is not None:
            self._warnings.append(error)

    def weblog_failed(self, error: str) -> None:
        """The weblog could not be made."""
        self._warnings.append(f"the weblog could not be made: {error}")

    def as_text(self) -> str:
        """In one line."""
        stages = self.now().stages
        done = sum(stage.state == "finished" for stage in stages)
        told = f"{self._state}, {done} of {len(stages)} stages finished"
        warned = f", warnings: {len(self._warnings)}" if self._warnings else ""
        return f"<Session {self._name!r} in {self._paths.workdir}: {told}{warned}>"

    def as_html(self) -> str:
        """As a notebook shows it; whatever comes from outside is escaped."""
        now = self.now()
        done = sum(stage.state == "finished" for stage in now.stages)
        rows = [self._row(stage, now) for stage in now.stages]
        parts = [
            self._heading(now, done),
            *self._warned(),
            table(("stage", "state", "jobs", "", "time", "now"), rows),
            *([element("div", self._last)] if self._last and self._state == "running" else []),
            *self._links(),
        ]
        return element("div", joined(parts), "line-height:1.4;max-width:60em", role="group", aria_label="session")

    def _heading(self, now: Now, done: int) -> Markup:
        seconds = (self._ended or now.time) - self._began if self._state != "waiting" else 0.0
        told = [
            element("strong", self._name),
            coloured(self._state),
            f"{done} of {len(now.stages)} stages",
            *([duration(seconds)] if seconds else []),
            *(map(str, now.workers) if self._state == "running" else []),
            *([now.left] if now.left and self._state == "running" else []),
        ]
        return element("div", joined([joined(told, " · "), bar(done, len(now.stages), self._state, "stages")]))

    def _row(self, stage: StageNow, now: Now) -> tuple[object, ...]:
        state = f"{stage.state} before" if stage.before else stage.state
        jobs = bar(stage.done, stage.jobs, "failed" if stage.failed else stage.state, f"jobs of {stage.name}")
        took = duration((stage.ended or now.time) - stage.began) if stage.began else ""
        more = f" and {stage.working - len(stage.names)} more" if stage.working > len(stage.names) else ""
        doing = "; ".join([text for text in (", ".join(stage.names) + more, *stage.waits) if text])
        counted = f"{stage.done}/{stage.jobs}" if stage.jobs else ""
        return stage.name, coloured(state), counted, jobs if stage.jobs else "", took, doing

    def _warned(self) -> list[Markup]:
        warnings = list(dict.fromkeys(self._warnings))
        if not warnings:
            return []
        shown = [element("li", text) for text in warnings[:_MOST_WARNINGS]]
        if len(warnings) > len(shown):
            shown.append(element("li", f"and {len(warnings) - len(shown)} more"))
        counted = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}"
        return [element("div", joined([element("strong", counted), element("ul", joined(shown), "margin:0.2em 0")]))]

    def _links(self) -> list[Markup]:
        paths = self._paths
        weblog = [link(paths.weblog, "weblog")] if paths.weblog.is_file() else []
        products = sorted(path for path in paths.products.glob("*") if path.is_file()) if self._ended else []
        listed = element("ul", joined(element("li", link(path, path.name)) for path in products[:_MOST_PRODUCTS]))
        folder = joined(["working folder ", element("code", str(paths.workdir))])
        told = [element("div", joined([*weblog, folder], " · "))]
        return [*told, folded(f"{len(products)} products", listed)] if products else told


@contextmanager
def _shown_live(shown: Shown) -> Iterator[None]:
    """Show how far a session is as long as the block lasts, where there is a notebook to show it in."""
    display = _display()
    if display is None:
        yield
        return
    handle = display(_Page(shown.as_html()), display_id=True)
    over = threading.Event()

    def keep_up() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            handle.update(_Page(shown.as_html()))

    thread = threading.Thread(target=keep_up, name="notebook", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        handle.update(_Page(shown.as_html()))


class _Page:
    """What IPython displays."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        return self._text


def _display() -> Any:
    """IPython's `display`, where this process is the kernel of a notebook; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # In a terminal IPython has no kernel, and nothing that is shown can change.
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
