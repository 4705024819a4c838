"""Stages as people make them: by a decorator, in a module or where they are run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from surgeline import FunctionCall, Results, Session, stage
from surgeline.context.records import Fact
from surgeline.errors import BadInput, RecipeError, WorkfolderError
from surgeline.stages import export
from surgeline.stages.stage import Parameters, Stage, find_stage
from surgeline.workflow import recipe as recipes
from surgeline.workflow.recipe import Recipe, StageRequest


class Sum(Fact):
    identity = ("name",)
    name: str
    value: int


@stage
def squares(stage, upto: Annotated[int, Field(gt=0)] = 3, power: int = 2):
    """The sum of squares."""
    values = yield [FunctionCall(pow, number, power) for number in range(upto)]
    return [Sum(name=stage.name, value=sum(values))]


@stage
def silent(stage: Stage) -> Iterator[Any]:
    """Finds nothing out."""
    yield []


def recipe_of(*stages: dict[str, Any]) -> Recipe:
    return recipes.given({"stages": list(stages)})


def test_its_parameters_are_what_a_recipe_may_say() -> None:
    assert set(squares.parameters.model_fields) == {"upto", "power"}
    assert squares.parameters().model_dump() == {"upto": 3, "power": 2}
    assert set(silent.parameters.model_fields) == set()
    assert (squares.__name__, squares.__doc__) == ("squares", "The sum of squares.")
    assert repr(squares) == "<stage squares(upto, power)>"
    for wrong, told in (({"upto": 0}, "greater than 0"), ({"upt": 1}, "did you mean 'upto'")):
        with pytest.raises(RecipeError, match=told):
            recipe_of({"task": squares, "arguments": wrong})


def test_many_parameters_are_a_class() -> None:
    class Many(Parameters):
        one: int = 1

    def run(stage: Stage, parameters: Many):
        """Do it."""
        return [Sum(name="one", value=parameters.one)]
        yield

    run.__annotations__["parameters"] = Many
    made = stage(run)
    assert made.parameters is Many
    with pytest.raises(StopIteration) as ended:
        next(made.run(None, Many(one=5)))
    assert ended.value.value == [Sum(name="one", value=5)]
    assert find_stage("export") is export.run


def test_what_is_no_stage_is_refused_with_the_reason() -> None:
    def plain(stage: Stage) -> list[Fact]:
        return []

    def lonely():
        yield []

    def unknown(stage: Stage, vis: "Nowhere"):  # noqa: F821, UP037
        yield []

    for function, told in ((plain, "it yields no jobs"), (lonely, "takes no stage"), (unknown, "Nowhere")):
        with pytest.raises(BadInput, match=told):
            stage(function)


def test_a_recipe_is_given_as_text_mapping_or_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipes.given("calimage", "my.ms").vis == (str(tmp_path / "my.ms"),)
    assert recipes.given("calimage", ["casadata:demo/a", Path("b.ms")]).vis == ("casadata:demo/a", f"{tmp_path}/b.ms")
    path = tmp_path / "small.yaml"
    path.write_text("stages: [{task: import}]\n")
    assert recipes.given(path).name == "small"
    made = recipes.given(
        Recipe(name="made", stages=(StageRequest(task=squares, name="two"), StageRequest(task="flag")))
    )
    assert [(request.name, request.task) for request in made.stages] == [("two", "squares"), ("flag", "flag")]
    assert made.stages[0].definition is squares
    assert "task: squares" in made.to_yaml()
    with pytest.raises(RecipeError, match="a script or a notebook defined is known there alone"):
        recipes.given({"stages": [{"task": "squares"}]})

    @stage
    def flag(stage: Stage) -> Iterator[Any]:
        yield []

    with pytest.raises(RecipeError, match="call yours otherwise"):
        recipe_of({"task": flag})


def test_a_session_runs_it_goes_on_with_it_and_gives_objects(casa: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("backend: serial\nsession: {weblog: false}\n")
    stages = [{"task": squares}, {"task": silent}, {"task": squares, "name": "cubes", "arguments": {"power": 3}}]
    with Session({"stages": stages}, tmp_path) as session:
        assert repr(session).endswith("waiting, 0 of 3 stages finished>")
        results = session.run()
    assert [fact.value for fact in results.facts(Sum)] == [5, 9]
    assert results.facts(Sum, name="cubes") == [Sum(name="cubes", value=9)]
    assert (results.images, results.products, results.pictures) == ([], [], [])
    assert "0 images" in repr(results) and "0 images" in results._repr_html_()
    stages[2]["arguments"] = {"power": 4}
    with Session({"stages": stages}, str(tmp_path)) as session:
        assert repr(session).endswith("waiting, 2 of 3 stages finished>")
        session.run()
        assert "finished before" in session._repr_html_()
        assert repr(session).endswith("finished, 3 of 3 stages finished>")
    assert Results(tmp_path).facts(Sum, name="cubes") == [Sum(name="cubes", value=17)]
    with pytest.raises(RecipeError, match="known there alone"):
        Session.resume(tmp_path)
    with pytest.raises(WorkfolderError, match="holds no session"):
        Results(tmp_path / "elsewhere")
