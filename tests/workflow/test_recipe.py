from __future__ import annotations

from pathlib import Path

import pytest

from surgeline.errors import RecipeError
from surgeline.stages.stage import find_stage, stage_names
from surgeline.work.resources import Resources
from surgeline.workflow import recipe as recipes
from surgeline.workflow.template import recipe_for

RECIPE = """\
name: small
description: Two stages
vis: [one.ms, two.ms]
stages:
  - task: import
    arguments: {target: ["N5921*"]}
  - task: flag
    name: flag again
    needs: [import]
    cluster: batch
    resources: {cores: 2, memory: 4GB, walltime: 90m}
    arguments:
      quack: 10
      commands: ["antenna='ea05'"]
"""


# Self-calibration, linear mosaics and the CASA Pipeline are for those who ask for them.
_USUAL = [name for name in stage_names() if name not in ("self_calibrate", "combine_pointings", "casa_pipeline")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my_recipe.yaml"


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipes.load(str(path))
    return str(caught.value)


def test_a_recipe_says_what_its_file_says(path: Path) -> None:
    path.write_text(RECIPE)
    recipe = recipes.load(str(path))
    assert (recipe.name, recipe.vis) == ("small", ("one.ms", "two.ms"))
    first, second = recipe.stages
    assert (first.task, first.name, first.needs, first.cluster) == ("import", "import", None, None)
    assert (second.task, second.name, second.needs, second.cluster) == ("flag", "flag again", ("import",), "batch")
    assert second.resources == Resources(cores=2, memory=4 * 10**9, walltime=5400)
    assert second.arguments == {"quack": 10, "commands": ["antenna='ea05'"]}


def test_a_recipe_survives_being_written_and_read_again(path: Path, tmp_path: Path) -> None:
    path.write_text(RECIPE)
    recipe = recipes.load(str(path))
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert recipes.load(str(tmp_path / "again.yaml")) == recipe


def test_a_recipe_without_a_name_is_called_as_its_file_and_other_data_may_be_given(path: Path) -> None:
    path.write_text("vis: [one.ms]\nstages: [{task: import}]\n")
    recipe = recipes.load(str(path), vis=("other.ms",))
    assert (recipe.name, recipe.vis) == ("my_recipe", ("other.ms",))


def test_the_packaged_recipe_is_found_by_its_name_and_runs_every_usual_stage() -> None:
    recipe = recipes.load("calimage", vis=("my.ms",))
    assert [stage.task for stage in recipe.stages] == _USUAL
    for stage in recipe.stages:
        assert stage.definition is find_stage(stage.task)


def test_a_file_wins_over_a_packaged_recipe_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("calimage").write_text("stages: [{task: import}]\n")
    assert len(recipes.load("calimage").stages) == 1


def test_a_recipe_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load("calimagee")
    assert "'calimagee'" in str(caught.value)
    assert "'calimage'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stages: [{task: imprt}]", ["stage 1 (imprt)", "'imprt'", "'import'"]),
        ("stages: [{task: import}, {task: flga}]", ["stage 2 (flga)", "'flag'"]),
        ("stages: [{task: flag, arguments: {quak: 4}}]", ["stage 1 (flag)", "'quak'", "'quack'"]),
        ("stages: [{task: flag, arguments: {quack: long}}]", ["stage 1 (flag)", "quack", "'long'", "number"]),
        ("stages: [{task: flag, arguments: {commands: x}}]", ["commands", "list"]),
        ("stages: [{task: flag, argumnts: {}}]", ["stage 1 (flag)", "'argumnts'", "'arguments'"]),
        ("stages: [{task: flag, resources: {memry: 4}}]", ["'resources.memry'", "'memory'"]),
        ("stages: [{task: flag, resources: {memory: lots}}]", ["resources.memory", "8GB"]),
        ("stages: [{task: flag, resources: {cores: 0}}]", ["resources.cores", "0"]),
        ("stages: [{task: flag}, {task: flag}]", ["stage 2 (flag)", "same name", "name:"]),
        ("stages: [{name: x}]", ["stage 1 (x)", "task is missing"]),
        ("stages: [import, flag]", ["stage 1", "'import'", "mapping"]),
        ("stages: [{task: import, needs: flag}]", ["needs", "list"]),
        ("stages: []", ["stages", "at least 1"]),
        ("stages: {task: import}", ["stages", "list"]),
        ("vis: my.ms\nstages: [{task: import}]", ["vis", "'my.ms'", "list"]),
        ("vsi: [my.ms]\nstages: [{task: import}]", ["'vsi'", "'vis'"]),
        ("name: x", ["stages is missing"]),
        ("", ["no `stages:`"]),
        ("- task: import", ["no `stages:`"]),
        ("stages: [", ["not YAML"]),
        ("name: 2024-99-99", ["not YAML"]),
        ("name: !!python/name:os.system", ["not YAML"]),
    ],
)
def test_a_wrong_recipe_names_its_file_the_place_and_the_way_out(path: Path, text: str, told: list[str]) -> None:
    message = refused(path, text + "\n")
    assert str(path) in message
    assert "\n" in message
    for words in told:
        assert words in message


def test_a_recipe_that_is_no_text_is_told_as_such(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00stages")
    with pytest.raises(RecipeError, match="not YAML"):
        recipes.load(str(path))


def test_the_recipe_that_init_writes_is_valid_and_shows_every_argument(path: Path) -> None:
    text = recipe_for("casadata:demo/NGC5921.fits")
    path.write_text(text)
    recipe = recipes.load(str(path))
    assert recipe.vis == ("casadata:demo/NGC5921.fits",)
    assert [stage.task for stage in recipe.stages] == _USUAL
    assert "# - task: self_calibrate" in text
    assert "# - task: combine_pointings" in text
    # What is commented out is valid, too, once the comment signs are taken away.
    uncommented = [line.replace("    # ", "    ", 1) for line in text.splitlines() if "cluster: local" not in line]
    path.write_text("\n".join(uncommented) + "\n")
    full = recipes.load(str(path))
    for stage in full.stages:
        assert set(stage.arguments) == set(find_stage(stage.task).parameters.model_fields)
        defaults = stage.definition.parameters()
        assert stage.definition.parameters.model_validate(stage.arguments) == defaults
