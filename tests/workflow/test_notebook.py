"""The notebook of the examples, in a real kernel; and what objects show of themselves."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from surgeline import FunctionCall, TaskQueue, open_backend
from surgeline.config import load
from surgeline.errors import Interrupted, JobFailed
from surgeline.paths import SessionPaths
from surgeline.work.outcome import Failure, Loss, Outcome
from surgeline.work.taskqueue import Backend
from surgeline.workflow.notebook import Shown

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat")
NASTY = "<script>alert('1')</script>&\""


@pytest.fixture(scope="module")
def backend(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("backend")
    opened = open_backend(load(folder, ["backend=serial"]), folder=folder)
    yield opened
    opened.close()


class Executed:
    """A notebook that was executed, and all that it displayed meanwhile."""

    def __init__(self, notebook: Any, folder: Path) -> None:
        self.displayed: list[str] = []
        told = self.displayed

        class Client(nbclient.NotebookClient):
            def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
                if msg["msg_type"] in ("display_data", "update_display_data"):
                    told.append(msg["content"]["data"].get("text/html", ""))
                return super().process_message(msg, cell, cell_index)

        client = Client(notebook, timeout=240, resources={"metadata": {"path": str(folder)}})
        # As that of somebody who has activated the environment.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        done = client.execute(env={**os.environ, "PATH": path})
        self.cells = [cell for cell in done.cells if cell.cell_type == "code"]

    def data(self, text: str) -> dict[str, str]:
        """What the cell that has this text gave last."""
        (cell,) = (cell for cell in self.cells if text in cell.source)
        found: dict[str, str] = next(output.data for output in reversed(cell.outputs) if "data" in output)
        return found


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "config.yaml").write_text("dask: {n_workers: 2}\n")
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without its outputs"
    return Executed(notebook, folder)


def test_jobs_images_and_stages_of_a_notebook_work(executed: Executed) -> None:
    assert re.findall(r"<Outcome of 'rows': (\d+);", executed.data("queue.map")["text/plain"]) == ["180", "90", "450"]
    assert re.search(r"\('.+', [1-9]\d*\)", executed.data("clean(")["text/plain"])
    assert executed.data("fact.scan")["text/plain"] == "[(1, 180), (2, 90), (3, 450)]"


def test_a_notebook_shows_how_far_a_session_is_while_it_runs(executed: Executed) -> None:
    shown = [page for page in executed.displayed if "count_rows" in page]
    assert ">running<" in shown[0] and "1 of 2" not in shown[0]
    assert "2 of 2 stages" in shown[-1] and ">running<" not in shown[-1]
    assert len(shown) > 2
    # What stands in the notebook afterwards is the last that was shown.
    assert executed.data("Session(recipe")["text/html"] == shown[-1]
    assert 'href="./session/weblog/index.html"' in shown[-1]
    assert "working folder" in shown[-1]


def test_the_page_about_notebooks_shows_what_the_notebook_does(executed: Executed) -> None:
    def lines(code: str) -> set[str]:
        return {line.strip() for line in code.splitlines()}

    page = (ROOT / "docs" / "how-to" / "python.md").read_text()
    shown = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    done = set().union(*(lines(cell.source) for cell in executed.cells))
    for number, block in enumerate(shown):
        compile(block, f"block {number}", "exec")
        # What takes longer is done by the demo.
        if "calimage" not in block and "FluxDensity" not in block:
            assert lines(block) <= done


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def checked(page: str) -> str:
    """The words of a page in which nothing from outside became HTML."""
    read = Tags(page)
    assert "script" not in read.tags
    return " ".join(read.texts)


def test_what_a_session_shows_is_escaped_and_says_what_went_wrong(backend: Backend, tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path / "a<b> folder")
    paths.make()
    paths.weblog.write_text("weblog")
    (paths.products / "odd?#.fits").write_text("")
    shown = Shown(NASTY, paths)
    shown.began(["one", NASTY], ["one"])
    assert "waiting, 1 of 2 stages finished" in shown.as_text()
    with pytest.raises(JobFailed), shown.while_it_runs():
        shown.stage_began(NASTY)
        shown.job_added(NASTY, "1", FunctionCall(len, "abc").declare(name=NASTY), backend)
        assert "running" in checked(shown.as_html())
        shown.worker_lost(NASTY, Loss("worker-7", "killed by signal 9", 0.0))
        shown.job_ended(NASTY, "1", Outcome(NASTY, "len()", failure=Failure("exception", NASTY)))
        shown.stage_ended(NASTY, NASTY)
        raise JobFailed("it failed")
    words = checked(shown.as_html())
    assert "3 warnings" in words and "killed by signal 9" in words and words.count(NASTY) >= 4
    assert "finished before" in words and "1 products" in words
    assert "odd%3F%23.fits" in shown.as_html()
    assert shown.as_text().endswith("failed, 1 of 2 stages finished, warnings: 3>")
    with pytest.raises(Interrupted), shown.while_it_runs():
        raise Interrupted("told to stop")
    assert "interrupted" in shown.as_text()


def test_outcomes_and_queues_show_themselves() -> None:
    well = Outcome(
        "noise", "noise('my.ms')", 0.5, started=10.0, ended=12.5, worker="worker-1", peak_memory=120 * 10**6
    )
    assert repr(well) == "<Outcome of 'noise': 0.5; 2.5 s, on worker-1, 120 MB>"
    assert "noise('my.ms')" in checked(well._repr_html_())
    failed = Outcome("noise", "f()", failure=Failure("exception", NASTY, f"Traceback\n{NASTY}"))
    assert "failed (exception)" in repr(failed)
    assert checked(failed._repr_html_()).count(NASTY) == 2
    long = repr(Outcome("long", "f()", "x" * 10**6))
    assert len(long) < 1000


def test_a_queue_shows_how_far_it_is(backend: Backend) -> None:
    queue = TaskQueue(backend)
    assert repr(queue) == "<TaskQueue on serial, 1 workers: 0 jobs, 0 ended>"
    queue.add_functioncall(len, "four")
    queue.add(FunctionCall(int, "no number").declare(name=NASTY))
    with queue:
        pass
    assert repr(queue) == "<TaskQueue on serial, 1 workers: 2 jobs, 2 ended, 1 failed>"
    assert NASTY in checked(queue._repr_html_())
