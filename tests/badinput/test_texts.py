"""Configurations and recipes that are wrong in any way: read as what they say, or refused with a way out."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from hypothesis import given
from hypothesis import strategies as st

from badinput.hostile import assert_told, examples, texts, yaml_files
from surgeline import config
from surgeline.errors import ConfigError, RecipeError
from surgeline.workflow import recipe

_CONFIGURATION = {
    "backend": "dask",
    "dask": {"cluster": "queue", "n_workers": 4, "host": "127.0.0.1"},
    "clusters": {
        "queue": {
            "type": "slurm",
            "cores": 2,
            "memory": "4GB",
            "walltime": "1:00:00",
            "workers": {"large": {"cores": 8}},
        },
        "pool": {"type": "htcondor", "job_extra_directives": {"+Project": "x"}},
        "pods": {"type": "kubernetes", "image": "x", "volumes": [{"claim": "c", "path": "/data"}]},
    },
    "worker": {"threads": 2, "memory": "8GB"},
    "casaconfig": {"nogui": True},
    "pipeconfig": {"dask": {"autostart": True, "host": "h"}},
}
_KEYS = ("dask.n_workers", "clusters.x.type", "backend", "dask", "worker.memory")
_RECIPE = {
    "name": "mine",
    "vis": ["my.ms", "casadata:demo/x.fits"],
    "stages": [
        {"task": "import", "arguments": {"target": ["3C*"], "matches": []}},
        {"task": "flag", "name": "first", "arguments": {"quack": 5, "commands": ["antenna='1'"]}},
        {"task": "gaincal", "needs": ["first"], "cluster": "queue", "resources": {"memory": "4GB", "cores": 2}},
        {"task": "plan_images", "backend": "dask", "arguments": {"cube": {"niter": 5}, "continuum": {"robust": 0.5}}},
    ],
}


def _load_configuration(folder: Path, **more: object) -> config.Configuration:
    return config.load(folder, environment=more.pop("environment", {}), home=folder / "home", **more)  # type: ignore[arg-type]


@examples(250)
@given(yaml_files(_CONFIGURATION))
def test_any_configuration_is_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_bytes(content)
        try:
            read = _load_configuration(folder)
        except ConfigError as error:
            assert_told(error)
        else:
            assert read.settings.clusters[read.settings.dask.cluster]
        assert [found.name for found in folder.iterdir()] == ["config.yaml"]


@examples(120)
@given(
    st.lists(
        st.builds(
            "{}={}".format, texts() | st.sampled_from(["dask.n_workers", "clusters.x.type", "backend"]), texts()
        )
    )
)
def test_any_override_is_taken_or_refused(overrides: list[str]) -> None:
    with TemporaryDirectory() as name:
        variables = {f"SURGELINE__{text.partition('=')[0]}": text.partition("=")[2] for text in overrides}
        for more in ({"overrides": overrides}, {"environment": variables}):
            try:
                _load_configuration(Path(name), **more)
            except ConfigError as error:
                assert_told(error)


@examples(250)
@given(yaml_files(_RECIPE))
def test_any_recipe_is_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "recipe.yaml"
        path.write_bytes(content)
        try:
            read = recipe.load(str(path))
        except RecipeError as error:
            assert_told(error)
            return
        path.write_text(read.to_yaml(), encoding="utf-8")
        assert recipe.load(str(path)) == read
        assert recipe.saved(path) == read


@examples(60)
@given(texts())
def test_any_name_of_a_recipe_is_known_or_refused(name: str) -> None:
    try:
        recipe.load(name)
    except RecipeError as error:
        assert_told(error)


def test_the_documents_that_are_mutated_are_valid(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_CONFIGURATION))
    assert set(_load_configuration(tmp_path).settings.clusters) >= {"queue", "pool", "pods"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(_RECIPE))
    assert len(recipe.load(str(tmp_path / "recipe.yaml")).stages) == 4
