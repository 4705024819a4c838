"""Worker processes do not run the script again that they are started from."""

from __future__ import annotations

from functools import wraps
from multiprocessing import spawn
from typing import Any

# As Dask's nannies call the processes that they start.
_WORKER = "Dask Worker process (from Nanny)"
_OF_MAIN = ("init_main_from_name", "init_main_from_path")


def keep_main_out_of_workers() -> None:
    """Have Dask's worker processes begin without the main module of this one.

    Python would run it in each of them, which starts workers again, and fails, unless the script is guarded by
    `if __name__ == "__main__"`. Workers do not need it: functions of the main module travel whole.
    """
    prepare = spawn.get_preparation_data
    if hasattr(prepare, "__wrapped__"):
        return

    @wraps(prepare)
    def without_main(name: str) -> dict[str, Any]:
        data = prepare(name)
        return {key: value for key, value in data.items() if name != _WORKER or key not in _OF_MAIN}

    spawn.get_preparation_data = without_main
