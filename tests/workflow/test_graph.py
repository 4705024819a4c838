from __future__ import annotations

from typing import Any

import pytest

from surgeline.errors import RecipeError
from surgeline.workflow.graph import needs
from surgeline.workflow.recipe import Recipe, parse


def recipe(*stages: tuple[str, list[str] | None]) -> Recipe:
    content: dict[str, Any] = {"name": "test", "stages": []}
    for name, before in stages:
        content["stages"].append({"task": "flag", "name": name, **({} if before is None else {"needs": before})})
    return parse(content, "test")


def test_a_stage_needs_the_one_before_it_unless_it_says_otherwise() -> None:
    found = needs(recipe(("a", None), ("b", None), ("c", None)))
    assert found == {"a": (), "b": ("a",), "c": ("b",)}
    assert list(found) == ["a", "b", "c"]


def test_stages_may_need_none_or_several() -> None:
    found = needs(recipe(("a", None), ("b", []), ("c", ["a"]), ("d", ["b", "c"])))
    assert found == {"a": (), "b": (), "c": ("a",), "d": ("b", "c")}


def test_the_order_is_one_in_which_they_can_run() -> None:
    found = needs(recipe(("late", ["early"]), ("middle", ["early"]), ("early", []), ("last", ["late", "middle"])))
    order = list(found)
    for name, before in found.items():
        assert all(order.index(other) < order.index(name) for other in before)
    assert set(order) == {"late", "middle", "early", "last"}


def test_a_circle_is_told_stage_by_stage() -> None:
    with pytest.raises(RecipeError) as caught:
        needs(recipe(("a", ["c"]), ("b", ["a"]), ("c", ["b"]), ("d", ["a"])))
    message = str(caught.value)
    assert "a → c → b → a" in message or "c → b → a → c" in message or "b → a → c → b" in message
    assert "'d'" not in message
    assert "take one of these `needs` away" in message


def test_a_stage_that_needs_itself_is_a_circle() -> None:
    with pytest.raises(RecipeError, match="a → a"):
        needs(recipe(("a", ["a"])))


def test_a_need_that_there_is_not_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        needs(recipe(("calibrate", None), ("image", ["calibrat"])))
    message = str(caught.value)
    assert "'image'" in message
    assert "'calibrat'" in message
    assert "'calibrate'" in message
