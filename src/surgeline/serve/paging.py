"""Lists in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from fastapi import Request

Item = TypeVar("Item")


def part_of(
    request: Request, found: Sequence[Item], limit: int, key: Callable[[Item], Any], **pinned: Any
) -> tuple[list[Item], str | None]:
    """A part of a list, and where the next one is.

    Args:
        request: what was asked.
        found: the items that follow, one more than wanted if there are so many.
        limit: how many are wanted.
        key: what the next part is found by, of the last item of this one.
        pinned: parameters by which the next part is of the same list, whatever happens meanwhile.
    """
    if len(found) <= limit:
        return list(found), None
    part = list(found[:limit])
    return part, "?" + urlencode({**request.query_params, **pinned, "cursor": key(part[-1])})
