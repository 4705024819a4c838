"""Which command lines begin sessions."""

from __future__ import annotations

from collections.abc import Sequence

SESSION_COMMANDS = ("run", "resume", "casa-pipeline run")


def session_command(arguments: Sequence[str]) -> str:
    """The words by which a command line begins a session; empty where it begins none."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    return next((name for name in SESSION_COMMANDS if words[: len(name.split())] == name.split()), "")
