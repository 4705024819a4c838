"""Signals that end a session."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from surgeline.cli.signals import signals_interrupt
from surgeline.errors import Interrupted


def swallowed(number: int) -> None:
    """A signal whose exception comes to nothing, as in some libraries while they are loaded."""
    with suppress(BaseException):
        signal.raise_signal(number)


def test_a_signal_ends_a_session_where_what_it_raises_is_swallowed() -> None:
    told = threading.Event()
    with pytest.raises(Interrupted) as caught, signals_interrupt(Path("here"), lambda: None) as signals:
        signals.stop_by(told.set)
        swallowed(signal.SIGTERM)
        assert told.wait(60)
        raise Interrupted("the session was stopped", "go on with: surgeline resume")
    assert "stopped by SIGTERM" in str(caught.value) and "resume --workdir here" in str(caught.value)
    assert caught.value.exit_code == 128 + signal.SIGTERM


def test_it_ends_one_that_was_just_being_made() -> None:
    with pytest.raises(Interrupted) as caught, signals_interrupt(Path("here"), lambda: None) as signals:
        swallowed(signal.SIGINT)
        signals.stop_by(lambda: None)
        raise AssertionError("it went on")
    assert caught.value.exit_code == 128 + signal.SIGINT


def test_a_session_that_is_stopped_otherwise_says_so() -> None:
    with pytest.raises(Interrupted, match="cancelled"), signals_interrupt(Path("here"), lambda: None):
        raise Interrupted("cancelled", "go on with: surgeline resume")
