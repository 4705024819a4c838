"""The command line. Nothing heavy is imported before a command needs it, so that `--help` is quick."""

from __future__ import annotations

import os
from typing import NoReturn


def main() -> NoReturn:
    """The console script: runs the command that the user typed, and ends with its exit code."""
    try:
        from surgeline.cli.entry import run_command
    except KeyboardInterrupt:
        # Ctrl-C while Python was still loading this.
        os._exit(130)
    run_command()
