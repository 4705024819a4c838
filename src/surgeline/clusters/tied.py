"""Ends a program when the process that started it ends, whatever ended that.

Run as `python -m surgeline.clusters.tied PARENT MODULE ARGUMENT…`; it becomes `python -m MODULE ARGUMENT…`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Have SIGTERM sent here at the end of the thread that started this process, and become the program."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it was gone already
        sys.exit(1)
    os.execv(sys.executable, [sys.executable, "-m", *command])


if __name__ == "__main__":
    main()
