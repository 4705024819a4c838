"""The examples that come with the package: recipes, scripts, a notebook, and packages of one's own."""

from __future__ import annotations

import ast
import json
import shutil
import tomllib
from pathlib import Path

from surgeline.errors import BadInput, nearest

PACKAGED = Path(__file__).parent.parent / "examples"


def examples() -> dict[str, str]:
    """What each is, in a line, by its name: that of its file or folder."""
    found = sorted(path for path in PACKAGED.glob("*") if not path.name.startswith(("_", ".")))
    return {path.name: _told(path) for path in found}


def copy_example(name: str, folder: Path) -> Path:
    """Copy an example into a folder, to be changed and run.

    Args:
        name: as in `examples`; the suffix of a recipe may be left out.
        folder: where it goes.

    Returns:
        the file, or the folder, that was made.

    Raises:
        BadInput: there is no such example, or something of its name is there already.
    """
    known = examples()
    found = name if name in known else f"{name}.yaml"
    if found not in known:
        raise BadInput(f"there is no example {name!r}", nearest(name, known))
    source, target = PACKAGED / found, folder / found
    if target.exists():
        raise BadInput(f"{target} already exists", "go to another folder, or remove it")
    try:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        raise BadInput(f"{target} cannot be written: {error.strerror}", "go to another folder") from error
    return target


def _told(path: Path) -> str:
    """The first words that an example says of itself."""
    if path.is_dir():
        described = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))
        return str(described["project"]["description"])
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "".join(json.loads(text)["cells"][0]["source"])
    elif path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    lines = [line.lstrip("# ") for line in text.splitlines()]
    return " ".join(lines[: lines.index("") if "" in lines else None]).partition(". ")[0].rstrip(".:")
