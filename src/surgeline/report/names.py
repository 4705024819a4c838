"""The names of the weblog's files."""

from __future__ import annotations

from surgeline.paths import safe_name


def stage_file(number: int, name: str) -> str:
    """The page of a stage; `number` is its place in the recipe, from 0."""
    return f"stage-{number + 1}-{safe_name(name)}.html"


def observation_file(number: int, name: str) -> str:
    """The page of an MS."""
    return f"ms-{number + 1}-{safe_name(name)}.html"


def image_file(number: int, name: str) -> str:
    """The page of an image."""
    return f"image-{number + 1}-{safe_name(name)}.html"


def job_anchor(number: int) -> str:
    """The place of a job on its stage's page; `number` is its place there, from 0."""
    return f"job-{number + 1}"
