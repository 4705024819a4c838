"""Imaging as graphs of jobs; `clean` does it by one call."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeline.imaging.cleaning import clean

__all__ = ["clean"]


def __getattr__(name: str) -> Any:
    # Imported when it is first used, as all that is public.
    if name == "clean":
        return import_module("surgeline.imaging.cleaning").clean
    raise AttributeError(f"module 'surgeline.imaging' has no attribute {name!r}")
