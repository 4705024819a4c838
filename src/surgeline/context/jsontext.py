"""JSON as text, piece by piece."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def separated(texts: Iterable[str]) -> Iterator[str]:
    """Items of a list or object, with commas between them."""
    return (f",\n{text}" if place else text for place, text in enumerate(texts))


def as_json(value: Any) -> str:
    """A value as JSON; numbers that JSON has no word for as the texts that facts have for them."""
    return json.dumps(_in_words_of_json(value), allow_nan=False)


def _in_words_of_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _in_words_of_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_words_of_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
