"""`python guided.py TARGET`: bytes for it, guided by atheris to those that reach new lines; part of `make fuzz`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["surgeline", "yaml"]):
    from badinput.hostile import assert_told
    from surgeline import config
    from surgeline.context.legacy import read_pickled_context
    from surgeline.errors import SurgelineError
    from surgeline.workflow import recipe

_TARGETS: dict[str, Callable[[Path], object]] = {
    "configuration": lambda path: config.load(path.parent, environment={}, home=path.parent / "home"),
    "recipe": lambda path: recipe.load(str(path)),
    "pickle": lambda path: read_pickled_context(path, trusted=True),
}


def main() -> None:
    """Feed a target until the time is over, or something else than an error of ours comes out of it."""
    read = _TARGETS[sys.argv.pop(1)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"

        def once(content: bytes) -> None:
            path.write_bytes(content)
            try:
                read(path)
            except SurgelineError as error:
                assert_told(error)

        atheris.Setup(sys.argv, once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
