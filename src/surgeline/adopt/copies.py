"""The copy of the Pipeline that would be imported: where it is, and which names its callers use."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from surgeline.adopt.engine import INFRASTRUCTURE, PIPELINE
from surgeline.errors import BadInput

# The modules of its parallel layer.
SUPPLIED = ("mpihelpers", "daskhelpers")


@dataclass(frozen=True)
class Copy:
    """A copy of the Pipeline.

    Attributes:
        package: its folder.
    """

    package: Path

    @property
    def home(self) -> str:
        """The folder to import it from."""
        return str(self.package.parent)

    def source_of(self, module: str) -> Path:
        """The file of a module of its infrastructure, whether there is one or not."""
        return self.package / "infrastructure" / f"{module}.py"

    def modules(self) -> list[str]:
        """Those modules of its parallel layer that it has."""
        return [module for module in SUPPLIED if self.source_of(module).is_file()]

    def tasks(self) -> set[str]:
        """The names of the functions among which its tasks are: those at the top of its modules called `cli`."""
        names: set[str] = set()
        for path in (*self.package.glob("**/cli.py"), *self.package.glob("**/cli/*.py")):
            names.update(_defined(ast.parse(path.read_bytes()).body))
        return names

    def differences(self, supplied: Mapping[str, Sequence[str]]) -> list[str]:
        """How the names that Surgeline supplies, by module, differ from those of this copy, in words.

        Those that only the module itself uses do not matter.
        """
        used = self._used()
        told = []
        for module in SUPPLIED:
            source = self.source_of(module)
            if not source.is_file():
                told.append(f"it has no {module}")
                continue
            lacking = sorted(used[module].keys() - set(supplied[module]))
            told += [f"{module}.{name}, which it uses in {used[module][name]}, is not supplied" for name in lacking]
            unknown = sorted(set(supplied[module]) - set(_defined(ast.parse(source.read_bytes()).body)))
            if unknown:
                told.append(f"its {module} has no {', '.join(unknown)}")
        return told

    def _used(self) -> dict[str, dict[str, str]]:
        """The names of each module that the copy's other files use, with the first file that does."""
        found: dict[str, dict[str, str]] = {module: {} for module in SUPPLIED}
        own = {self.source_of(module) for module in SUPPLIED}
        for path in sorted(self.package.rglob("*.py")):
            text = path.read_bytes()
            if path in own or not any(module.encode() in text for module in SUPPLIED):
                continue
            tree = ast.parse(text)
            for module in SUPPLIED:
                for name in _names_of(module, tree):
                    found[module].setdefault(name, path.relative_to(self.package).as_posix())
        return found


def find() -> Copy:
    """The copy that `import pipeline` would take.

    Raises:
        BadInput: there is none, or what is called so is something else.
    """
    spec = PathFinder.find_spec(PIPELINE)
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(
            "no copy of the CASA Pipeline can be imported here",
            f"put the folder that holds its package, {PIPELINE!r}, on PYTHONPATH",
        )
    copy = Copy(Path(next(iter(spec.submodule_search_locations))).resolve())
    if not copy.modules():
        raise BadInput(
            f"{copy.package} is no CASA Pipeline: it has no {INFRASTRUCTURE}.{SUPPLIED[0]}",
            "put the folder that holds the Pipeline's package before it on PYTHONPATH",
        )
    return copy


def _defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    """The names that a module has at its top, also where it has them by conditions."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.If | ast.Try):
            yield from _defined([*node.body, *node.orelse])


def _names_of(module: str, tree: ast.AST) -> Iterator[str]:
    """The names of a module that a file uses, as `module.name` or imported from it."""
    called = {module} | {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.asname and alias.name.rpartition(".")[2] == module
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2] == module:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            owner = node.value
            if (isinstance(owner, ast.Name) and owner.id in called) or (
                isinstance(owner, ast.Attribute) and owner.attr == module
            ):
                yield node.attr
