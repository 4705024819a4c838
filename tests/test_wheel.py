"""The wheel, installed where there is no repository: what `pip install surgeline` gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import cheap_stages
from support import ROOT

pytest.importorskip("pip", reason="pip is not installed beside Surgeline")


def pip(*arguments: str | Path) -> None:
    # What builds it is here already: nothing is fetched.
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since building leaves files behind."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "examples"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.glob("surgeline-*.whl")
    return built


class Place:
    """A new environment that has this one's libraries, but not its Surgeline; and an empty home."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self.environment = folder / "elsewhere", folder / "environment"
        self.folder.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        venv.create(self.environment, with_pip=False)
        (packages,) = self.environment.glob("lib/python*/site-packages")
        (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in sysconfig_paths()))
        self.install(wheel)

    def install(self, project: Path) -> None:
        pip("--python", self.environment / "bin" / "python", "install", "--no-deps", "--no-build-isolation", project)

    def run(self, *command: str) -> str:
        variables = {"PATH": f"{self.environment / 'bin'}:{os.environ['PATH']}", "HOME": str(self.home)}
        done = subprocess.run(
            command, cwd=self.folder, env={**variables, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def sysconfig_paths() -> list[str]:
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"), wheel)


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    source = ROOT / "src" / "surgeline"
    has = {f"surgeline/{path.relative_to(source)}" for path in source.rglob("*") if path.is_file()}
    # What the examples are is behind a link.
    has |= {f"surgeline/{path.relative_to(ROOT)}" for path in (ROOT / "examples").rglob("*") if path.is_file()}
    built = set(zipfile.ZipFile(wheel).namelist())
    assert "surgeline/py.typed" in built
    assert sorted(name for name in has - built if "__pycache__" not in name and ".egg-info" not in name) == []


def test_it_is_a_command_with_a_version_and_examples(place: Place) -> None:
    assert place.run("surgeline", "--version").strip().endswith("0.1.0")
    where = place.run("python", "-c", "import surgeline; print(surgeline.__file__)")
    assert where.startswith(str(place.environment))
    assert "ngc5921.yaml" in place.run("surgeline", "init", "--list")
    place.run("surgeline", "init", "ngc5921")
    assert "bandpass" in place.run("surgeline", "plan", "ngc5921.yaml")


def test_packages_bring_stages_and_types_of_clusters(place: Place) -> None:
    for example in ("own-stage", "own-cluster"):
        place.run("surgeline", "init", example)
        place.install(place.folder / example)
    planned = place.run(
        *("surgeline", "plan", "own-stage/recipe.yaml", "--vis", "casadata:demo/NGC5921.fits"),
        *("--set", "dask.cluster=site", "--set", "clusters.site={type: spool, folder: /tmp/none}"),
    )
    assert "odd_antennas" in planned
    assert "on cluster 'site' of type spool" in planned


def test_a_session_runs_there(place: Place) -> None:
    (packages,) = place.environment.glob("lib/python*/site-packages")
    cheap_stages.install(place.folder / "cheap")
    (packages / "cheap.pth").write_text(f"{place.folder / 'cheap'}\n")
    stages = [{"task": "make"}, {"task": "change"}, {"task": "total"}]
    (place.folder / "recipe.yaml").write_text(yaml.safe_dump({"stages": stages}))
    place.run("surgeline", "run", "recipe.yaml", "--workdir", "work", "--set", "dask.n_workers=2")
    assert (place.folder / "work" / "products" / "total.json").is_file()
    assert (place.folder / "work" / "weblog" / "index.html").is_file()
    assert "finished" in place.run("surgeline", "status", "--workdir", "work")
