"""YAML that somebody wrote, read as data: plain values only, and no more of them than a person writes."""

from __future__ import annotations

from typing import Any

import yaml

# With what aliases stand for counted each time: a few lines of them could stand for more than any memory holds.
_MOST_NODES = 200_000
_DEEPEST = 100


def load(text: str) -> Any:
    """What a text says.

    Raises:
        yaml.YAMLError: it is no YAML, asks for objects of Python's, or says too much.
        ValueError: it holds what cannot be, such as a date that there is not.
    """
    root = compose(text)
    return None if root is None else yaml.SafeLoader("").construct_document(root)


def compose(text: str) -> yaml.Node | None:
    """The nodes of a text, for whoever wants to know their lines; None where it says nothing.

    Raises:
        yaml.YAMLError: it is no YAML, or says too much.
    """
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _check(root, {}, set(), 1)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    return root


def _check(node: yaml.Node, sizes: dict[int, int], above: set[int], depth: int) -> int:
    """How many nodes there are in one, itself included."""
    if id(node) in above:
        raise yaml.YAMLError(f"a value holds itself{node.start_mark}")
    if depth > _DEEPEST:
        raise yaml.YAMLError(f"it is nested more than {_DEEPEST} deep{node.start_mark}")
    if id(node) not in sizes:
        above.add(id(node))
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_check(part, sizes, above, depth + 1) for part in parts)
        above.discard(id(node))
    if sizes[id(node)] > _MOST_NODES:
        raise yaml.YAMLError(f"it says more than {_MOST_NODES} values, with what its aliases stand for")
    return sizes[id(node)]
