"""What MkDocs puts into pages from the code, so that they cannot go stale; mkdocs.yml names this file as a hook.

A page asks for it by a line such as `<!-- from the code: commands -->`; `SECTIONS` has what there is to ask for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import cleandoc, get_annotations
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import griffe
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

REPOSITORY = Path(__file__).parent.parent
_ASKED = re.compile(r"^<!-- from the code: (\w+) -->$", re.MULTILINE)
# A link out of docs/, to a file of the repository.
_LINK_OUT = re.compile(r"\]\(((?:\.\./)+[^)#]+)\)")
_IN_WORDS = (
    (r"Annotated\[(\w+), .*?\)\]", r"\1"),
    (r"Positive(Int|Float)", r"\1 above 0"),
    (r"NonNegative(Int|Float)", r"\1, 0 or more"),
    ("Int", "int"),
    ("Float", "float"),
    (r"tuple\[(.*), \.\.\.\]", r"list of \1"),
    (r"(?i)dict\[str, Any\]", "mapping"),
    (r" \| ", " or "),
    ("None", "null"),
)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what a page asks for, and bring along the files of the repository that it links to."""
    filled = _ASKED.sub(lambda asked: SECTIONS[asked[1]](), markdown)
    here = Path(config.docs_dir, page.file.src_uri).parent

    def brought(link: re.Match[str]) -> str:
        path = (here / link[1]).resolve()
        if path.is_relative_to(config.docs_dir) or not path.is_file():
            return link[0]
        uri = f"files/{path.relative_to(REPOSITORY).as_posix()}"
        if uri not in files.src_uris:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
        return f"]({'../' * page.file.src_uri.count('/')}{uri})"

    return _LINK_OUT.sub(brought, filled)


def commands() -> str:
    """Every command, with what `--help` says of it."""
    from typer.main import get_command

    from surgeline.cli.commands import app

    return "\n\n".join(_command(get_command(app), None, "surgeline"))


def _command(command: Any, parent: Any, name: str) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent)
    if hasattr(command, "commands"):
        for inner in command.commands.values():
            yield from _command(inner, context, inner.name)
        return
    yield f"## {context.command_path}"
    yield cleandoc(command.help)
    yield f"```text\n{context.get_usage().removeprefix('Usage: ')}\n```"
    told = [parameter.get_help_record(context) for parameter in command.params]
    yield _table(("argument or option", "what it is"), [(f"`{record[0]}`", record[1]) for record in told if record])


def exit_codes() -> str:
    """What each exit code means, and the errors in Python that lead to it."""
    from surgeline import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and "exit_code" in vars(kind)]
    named = {kind.exit_code: f"`{kind.__name__}`" for kind in kinds}
    rows = [(code, meaning, named.get(code, "")) for code, meaning in errors.EXIT_CODES.items()]
    return _table(("code", "what happened", "error in Python"), rows)


def events() -> str:
    """Every kind of event that `run --json` prints."""
    from surgeline.workflow.events import KINDS, Event

    pieces = []
    for kind in KINDS:
        (name,) = get_args(kind.model_fields["event"].annotation)
        told = _told_of(kind)
        rows = [(f"`{field}`", told[field]) for field in kind.model_fields if field not in Event.model_fields]
        pieces += [f"## {name}", _about(kind), _table(("field", "what it is"), rows)]
    return "\n\n".join(pieces)


def configuration() -> str:
    """The packaged configuration, a heading for each section, with its own comments."""
    from surgeline.config import PACKAGED

    pieces = []
    for paragraph in re.split(r"\n\n(?=#|\w)", PACKAGED.read_text(encoding="utf-8").strip())[1:]:
        keys = [line.partition(":")[0] for line in paragraph.splitlines() if re.match(r"\w+:", line)]
        if keys == ["clusters"]:
            pieces += ["## clusters", *_clusters(paragraph)]
        elif keys:
            pieces += [f"## {', '.join(keys)}", _code("yaml", paragraph)]
    return "\n\n".join(pieces)


def _clusters(paragraph: str) -> Iterator[str]:
    """The named clusters: those that are there, and from the comments one of each type, with all of its keys."""
    plain, _, commented = paragraph.partition("\n  # ")
    yield _code("yaml", plain)
    block: list[str] = []
    for line in [line.removeprefix("  #").removeprefix(" ") for line in ("  # " + commented).splitlines()]:
        if line.startswith(" ") or not line:
            block.append(line)
            continue
        if block:
            yield _code("yaml", "\n".join(["clusters:", *(f"  {kept}".rstrip() for kept in block)]))
            block = []
        if re.fullmatch(r"\w+:", line):
            block = [line]
        elif told := re.match("A cluster of type (.*) has the keys below", line):
            yield f"### {told[1]}\n\n{line}"
        else:
            yield line
    if block:
        yield _code("yaml", "\n".join(["clusters:", *(f"  {kept}".rstrip() for kept in block)]))


def recipe_keys() -> str:
    """What a recipe, a stage of it and its `resources` may say."""
    from surgeline.work.resources import Resources
    from surgeline.workflow.recipe import Recipe, StageRequest

    titles = {"A recipe": Recipe, "A stage": StageRequest, "Its resources": Resources}
    return "\n\n".join(f"## {title}\n\n{_about(model)}\n\n{_fields(model)}" for title, model in titles.items())


def recipes() -> str:
    """The recipes that come with the package."""
    from surgeline.workflow.recipe import PACKAGED

    pieces = []
    for path in sorted(PACKAGED.glob("*.yaml")):
        text = path.read_text(encoding="utf-8").strip()
        pieces += [f"### {path.stem}", yaml.safe_load(text)["description"] + ".", _code("yaml", text)]
    return "\n\n".join(pieces)


def stages() -> str:
    """Every standard stage, with its parameters."""
    from surgeline.stages.stage import find_stage, stage_names

    pieces = []
    for name in stage_names():
        definition = find_stage(name)
        pieces += [f"## {name}", _about(definition.run), _about(definition.parameters)]
        if definition.parameters.model_fields:
            pieces.append(_fields(definition.parameters))
    return "\n\n".join(pieces)


def facts() -> str:
    """Every kind of fact that the standard stages commit."""
    from surgeline.context.records import KINDS

    pieces = []
    for name, kind in KINDS.items():
        identity = ", ".join(f"`{field}`" for field in kind.identity)
        replaced = (
            f"A later one with the same {identity} replaces it." if identity else "Each stands beside the others."
        )
        pieces += [f"## {name}", _about(kind), replaced, _fields(kind)]
    return "\n\n".join(pieces)


def routes() -> str:
    """What the HTTP API answers."""
    from surgeline.serve.app import make_app

    rows = [
        (f"`{method.upper()} {path}`", operation["description"])
        for path, operations in make_app([]).openapi()["paths"].items()
        for method, operation in operations.items()
    ]
    return _table(("request", "what it answers"), rows)


SECTIONS: dict[str, Callable[[], str]] = {
    section.__name__: section
    for section in (commands, exit_codes, events, configuration, recipe_keys, recipes, stages, facts, routes)
}


def _about(documented: Any) -> str:
    """The words of a docstring, without its lists of arguments and attributes; errors that it may raise as a list."""
    pieces = []
    for section in _docstring(documented):
        if section.kind is griffe.DocstringSectionKind.text:
            pieces.append(section.value)
        elif section.kind is griffe.DocstringSectionKind.raises:
            pieces += [
                "It fails with",
                "\n".join(f"- `{error.annotation}`: {error.description}" for error in section.value),
            ]
    return "\n\n".join(pieces)


def _fields(model: type[BaseModel]) -> str:
    """The fields of a model: its type, its default, and what its docstring says of it."""
    told = _told_of(model)
    written = get_annotations(model)
    rows = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default is PydanticUndefined else f"`{_as_yaml(default)}`"
        rows.append((f"`{name}`", _type(field.annotation, written.get(name, "")), shown, told.get(name, "")))
    return _table(("name", "type", "default", "what it is"), rows)


def _told_of(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring of a model says of each of its fields."""
    told = {}
    for section in _docstring(model):
        if section.kind is griffe.DocstringSectionKind.attributes:
            for attribute in section.value:
                # Of several that are told of together, griffe takes all after the first for a type.
                together = attribute.name.endswith(",")
                names = f"{attribute.name} {attribute.annotation}" if together else attribute.name
                told |= dict.fromkeys(names.split(", "), attribute.description)
    return told


def _docstring(documented: Any) -> Sequence[Any]:
    text = cleandoc(documented.__doc__ or "")
    return griffe.Docstring(text).parse("google", warnings=False)


def _type(annotation: Any, written: str) -> str:
    """A type in words for who writes YAML: of a choice the words themselves, without what Python needs besides."""
    parts = (annotation, *get_args(annotation))
    choices = next((part for part in parts if get_origin(part) is Literal), None)
    if choices is not None and "tuple" not in written:
        return ", ".join(f"`{choice}`" for choice in get_args(choices))
    for pattern, words in _IN_WORDS:
        written = re.sub(pattern, words, written)
    return f"`{written}`"


def _as_yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text.strip(chr(10))}\n```"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [[_in_cell(str(cell)) for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _in_cell(text: str) -> str:
    """One line; in code a bar ends no cell."""
    line = " ".join(text.split())
    return line if "`" in line else line.replace("|", "\\|")
