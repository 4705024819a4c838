"""Input that means harm, or is only broken: texts, values, mutations of what is valid, and how many to try.

`make fuzz` sets how many by SURGELINE_FUZZ_EXAMPLES, and then they differ each time; otherwise there are few, always
the same.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from surgeline.errors import SurgelineError

# Names that are commands to a shell, paths to elsewhere, markup, or no names at all.
NAMES = (
    "a b",
    "a'b",
    'a"b',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned;",
    "a\ntouch pwned\n",
    "& touch pwned &",
    "| touch pwned",
    "> pwned",
    "-rf",
    "--help",
    "../up",
    "../../../../tmp/pwned",
    "/tmp/pwned",
    "~/pwned",
    "$HOME/pwned",
    "$(ClusterId)",
    "%j",
    "*",
    "[a-z]?{1,2}",
    "0~3",
    "<script>alert(1)</script>",
    "' OR 1=1 --",
    "{{ 7 * 7 }}",
    "[red]x[/x]",
    "\x1b[2J",
    "nul\x00",
    "\ud800",
    "é\u202eü",
    "日本",
    "CON",
    ".",
    "..",
    "",
    " ",
    "x" * 300,
)
_TAGS = ("!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "!unknown x", "!!binary '=='")
_LINES: tuple[str, ...] = (
    "&a [*a]",
    "<<: {a: 1}",
    "? [a, b]\n: c",
    "%YAML 9.9",
    "---",
    "...",
    "\t- x",
    "2001-99-99",
    "? {}",
    "- - -",
    *_TAGS,
)


def examples(few: int) -> Callable[[Any], Any]:
    """How many examples a test tries: a few, always the same, or as many random ones as `make fuzz` asks for."""
    many = int(os.environ.get("SURGELINE_FUZZ_EXAMPLES", "0"))
    return settings(
        max_examples=many or few,
        derandomize=not many,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def assert_told(error: SurgelineError) -> None:
    """An error of ours says what happened, and what to do."""
    assert error.message.strip() and error.way_out.strip(), repr(error)
    # It can be printed.
    str(error).encode(errors="backslashreplace")


def texts() -> st.SearchStrategy[str]:
    """Names that mean harm, and any others; also such as are no text to most."""
    return st.sampled_from(NAMES) | st.text(st.characters(codec=None), max_size=20)


def values() -> st.SearchStrategy[Any]:
    """What YAML and JSON can say, in places where it is not expected."""
    numbers = st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 1e308, float("nan"), float("inf"), -0.0])
    plain = (
        st.none()
        | st.booleans()
        | numbers
        | st.integers()
        | st.floats()
        | texts()
        | st.dates()
        | st.binary(max_size=9)
    )
    keys = texts() | st.integers() | st.none() | st.booleans() | st.dates()
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
    )


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """A document with some of its parts dropped, doubled, renamed, nested, or replaced by anything."""
    document = copy.deepcopy(valid)
    mutate(draw, document)
    return document


def mutate(draw: st.DrawFn, document: Any) -> None:
    """Do that to a document of mappings, lists and objects itself."""
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(document))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["drop", "replace", "rename", "nest", "add"]))
        if change == "drop":
            del holder[key]
        elif change == "replace":
            holder[key] = draw(values())
        elif change == "nest":
            for _ in range(draw(st.integers(1, 4))):
                holder[key] = draw(st.sampled_from([[holder[key]], {"x": holder[key]}]))
        elif isinstance(holder, dict):
            holder[draw(texts() | st.sampled_from([str(key), f"{key}s", str(key).upper()]))] = (
                holder.pop(key) if change == "rename" else draw(values())
            )
        else:
            holder.insert(key, holder[key])


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a document, as what holds it and under which key."""
    if hasattr(document, "__dict__") and not isinstance(document, type):
        document = vars(document)
    parts = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(parts):
        yield document, key
        yield from _places(value)


@st.composite
def yaml_files(draw: st.DrawFn, valid: Any) -> bytes:
    """A mutated document as a YAML file, in which lines and bytes may be wrong, too."""
    document = draw(mutated(valid))
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 2))):
        lines = text.splitlines()
        place = draw(st.integers(0, len(lines)))
        again = st.sampled_from(lines or ["x: 1"])
        odd = st.sampled_from(_LINES) | again | st.builds("k: {}".format, st.sampled_from(_LINES)) | texts()
        lines.insert(place, draw(odd))
        text = "\n".join(lines)
    encoded = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"])), errors="replace")
    return draw(damaged(encoded)) if draw(st.booleans()) else encoded


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of which some are others, gone, or there twice."""
    body = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(body) - 1)))
        length = draw(st.integers(1, 40))
        change = draw(st.sampled_from(["flip", "replace", "cut", "end", "double", "zero"]))
        if change == "flip" and body:
            body[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "replace":
            body[place : place + length] = draw(st.binary(max_size=40))
        elif change == "cut":
            del body[place : place + length]
        elif change == "end":
            del body[place:]
        elif change == "double":
            body[place:place] = body[place : place + length]
        else:
            body[place : place + length] = bytes(len(body[place : place + length]))
    return bytes(body)
