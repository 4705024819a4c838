"""The weblog of a session that is not necessarily running, and the comparison of two."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from surgeline.config import load
from surgeline.errors import WorkfolderError
from surgeline.paths import SessionPaths, comparison_folder
from surgeline.workflow.known import open_context
from surgeline.workflow.workfolder import check_session, read_record


def make_report(paths: SessionPaths) -> Path:
    """Write the weblog of a session anew, from its record and its context; gives its first page.

    Raises:
        WorkfolderError: the folder holds no session that has run, or the weblog cannot be written.
        ContextError: its context cannot be read.
    """
    from surgeline.report.weblog import write_weblog

    _check_has_run(paths)
    try:
        with closing(open_context(paths, load(paths.workdir), read_only=True)) as context:
            return write_weblog(paths, read_record(paths), context)
    except OSError as error:
        raise _unwritable(paths, error) from error


def compare_sessions(left: SessionPaths, right: SessionPaths) -> Path:
    """Write a page that shows two sessions side by side, in a folder in the weblog of the first; gives its path.

    Raises:
        WorkfolderError: one of the folders holds no session that has run, or the page cannot be written.
        ContextError: the context of one cannot be read.
    """
    from surgeline.report.comparison import write_comparison

    for paths in (left, right):
        _check_has_run(paths)
    try:
        return write_comparison(left, right, comparison_folder(left, right.workdir))
    except OSError as error:
        raise _unwritable(left, error) from error


def _check_has_run(paths: SessionPaths) -> None:
    check_session(paths)
    if not read_record(paths):
        raise WorkfolderError(
            f"the session of {paths.workdir} has not run, and there is nothing to report",
            f"let it run: surgeline resume --workdir {paths.workdir}",
        )


def _unwritable(paths: SessionPaths, error: OSError) -> WorkfolderError:
    return WorkfolderError(
        f"the weblog of {paths.workdir} cannot be written: {error.strerror or error}",
        "free space, or have its owner let you write there",
    )
