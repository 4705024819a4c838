from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import surgeline

SOURCE = Path(surgeline.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# cli → workflow → stages, report, serve → imaging, adopt → context, parallel → clusters → work → config, …
# A simulation stands beside the stages: it makes what they reduce.
STOREYS: list[set[str]] = [
    {"cli"},
    {"workflow"},
    {"stages", "report", "serve", "simulate"},
    {"imaging", "adopt"},
    {"context", "parallel"},
    {"clusters"},
    {"work"},
    {"config", "errors", "masking", "paths", "yamltext"},
]
# These five are one folder's worth of files: the ground that all else stands on.
GROUND = STOREYS[-1]

HEAVY = {
    "astropy", "casaconfig", "casadata", "casampi", "casatasks", "casatools", "dask", "distributed", "jinja2",
    "kubernetes", "matplotlib", "mpi4py", "numpy", "prefect", "scipy",
}  # fmt: skip
# What a file may import at once, because it is imported only where that is already, or wanted at once: three say what
# Dask's own classes do, a simulation computes from end to end, two are flows of Prefect's.
MAY_BE_HEAVY = {
    "parallel/othertasks.py": {"dask", "distributed"},
    "parallel/podidle.py": {"distributed"},
    "parallel/workerprocess.py": {"distributed"},
    **{
        f"simulate/{name}.py": {"numpy"}
        for name in ("corruption", "fields", "layout", "observation", "simulation", "sky")
    },
    "clusters/poolworker.py": {"prefect"},
    "workflow/prefect_flow.py": {"prefect"},
}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def part_of(module: str) -> str | None:
    """The part of the house that a module belongs to, such as `stages` for `surgeline.stages.flag`."""
    package, _, rest = module.partition(".")
    if package != "surgeline":
        return None
    return rest.partition(".")[0] or None


def storey(part: str) -> int:
    return next(number for number, parts in enumerate(STOREYS) if part in parts)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module that is imported anywhere in a file, for type checkers too, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            module = node.module or ""
            for alias in node.names:
                # `from surgeline import paths` imports a part, `from surgeline.paths import product` a name of it.
                yield node.lineno, f"{module}.{alias.name}"
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "import_module"
            and node.args
        ):
            argument = node.args[0]
            text = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
            if isinstance(text, ast.Constant):
                yield node.lineno, str(text.value)


def imports_at_module_level(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What is imported when the file itself is, whatever it is wrapped in; not what waits in functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        waiting += ast.iter_child_nodes(node)


def test_every_part_of_the_house_has_its_place() -> None:
    parts = {part_of(f"surgeline.{name_of(path).removesuffix('.py').replace('/', '.')}") for path in FILES}
    assert parts - {"__init__"} == set().union(*STOREYS)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent != SOURCE or path.name != "__init__.py"], ids=name_of
)
def test_a_file_imports_only_from_its_own_folder_and_from_what_stands_to_the_right(path: Path) -> None:
    own = part_of(f"surgeline.{name_of(path).removesuffix('.py').replace('/', '.')}")
    assert own is not None
    wrong = []
    for line, module in imports(ast.parse(path.read_text())):
        part = part_of(module)
        if part is None or part == own or (own in GROUND and part in GROUND) or part == "__version__":
            continue
        if storey(part) <= storey(own):
            wrong.append(f"{name_of(path)}:{line} imports {module}")
    assert wrong == []


def test_the_package_itself_imports_nothing_until_it_is_asked() -> None:
    found = {
        module.partition(".")[0]
        for _, module in imports_at_module_level(ast.parse((SOURCE / "__init__.py").read_text()))
    }
    assert found <= set(sys.stdlib_module_names)
    for name in surgeline.__all__:
        assert getattr(surgeline, name).__name__ == name
    with pytest.raises(AttributeError, match="tclean"):
        _ = surgeline.tclean


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_is_heavy_is_imported_where_it_is_used(path: Path) -> None:
    allowed = MAY_BE_HEAVY.get(name_of(path), set())
    heavy = [
        f"{name_of(path)}:{line} imports {module}"
        for line, module in imports_at_module_level(ast.parse(path.read_text()))
        if module.partition(".")[0] in HEAVY - allowed
    ]
    assert heavy == []


@pytest.mark.parametrize("module", ["surgeline", "surgeline.cli.commands", "surgeline.workflow.session"])
def test_importing_surgeline_imports_nothing_heavy_and_does_nothing(module: str, tmp_path: Path) -> None:
    code = (
        "import sys, threading, json; before = set(sys.modules)\n"
        f"import {module}\n"
        "print(json.dumps([sorted({name.partition('.')[0] for name in set(sys.modules) - before}), "
        "threading.active_count()]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded, threads = json.loads(answer.stdout)
    assert set(loaded) & HEAVY == set()
    if module == "surgeline":
        assert set(loaded) - set(sys.stdlib_module_names) == {"surgeline"}
    assert threads == 1
    assert answer.stderr == ""
    assert list(tmp_path.iterdir()) == []


def undocumented(
    body: list[ast.stmt], prefix: str, bases: dict[str, ast.ClassDef], documented: set[str]
) -> Iterator[str]:
    """Public functions, classes and methods without a docstring.

    Attributes (properties) are told by their name, and a method that a documented one of a base class stands for
    by that.
    """
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and not is_property(node) and node.name not in documented:
            yield f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            inherited = {
                method.name
                for base in node.bases
                if isinstance(base, ast.Name) and base.id in bases
                for method in bases[base.id].body
                if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
            }
            yield from undocumented(node.body, f"{prefix}{node.name}.", bases, inherited)


def is_property(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list
    )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_public_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{name_of(path)} does not say what it is for"
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert list(undocumented(tree.body, "", classes, set())) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_error_is_caught_without_a_name_or_a_reason(path: Path) -> None:
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name_of(path)}:{node.lineno}: a bare except"
