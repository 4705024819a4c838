"""Making planned images by an engine instead of CASA's imager, and what the session is told of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imagechecks import in_this_process
from surgeline.context.records import Decision, Fact, Image, ImagePlan
from surgeline.context.store import Context
from surgeline.errors import BadInput, JobFailed
from surgeline.stages import make_images
from surgeline.stages.stage import Stage
from surgeline.work.jobs import Job
from surgeline.work.procedure import drive


@pytest.fixture(scope="module")
def vis(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    from surgeline.simulate import Simulation, simulate

    path = tmp_path_factory.mktemp("observation") / "simulated.ms"
    simulate(path, Simulation(antennas=8, channels=2, target_scans=1, target_scan_seconds=60.0))
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Context]:
    with closing(Context(tmp_path / "context.db")) as store:
        yield store


def plan(vis: str, folder: Path, **arguments: Any) -> ImagePlan:
    own = {"vis": vis, "field": "2", "datacolumn": "data", "imsize": 32, "cell": "20arcsec",
           "weighting": "briggs", "niter": 5, "nmajor": 1, "imagename": str(folder / "target")}  # fmt: skip
    own |= arguments
    return ImagePlan(
        name="target.all_spws", vis=vis, field="TARGET", spectral_windows="", kind="continuum", arguments=own
    )


def made(
    store: Context, planned: ImagePlan, gpus: int | None, jobs: list[Job] | None = None, **asked: Any
) -> list[Fact]:
    store.commit("plan", [planned])
    stage = Stage("images", (), store.at(), workers=2, gpus=gpus)

    def run(batch: Sequence[Job]) -> list[Any]:
        if jobs is not None:
            jobs.extend(batch)
        return [in_this_process(job) for job in batch]

    procedure = make_images.run(stage, make_images.Parameters(**asked))
    return drive(procedure, run, lambda aside: None, lambda job: [])


def what_grids(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    return [
        (fact.value, fact.reason)
        for fact in facts
        if isinstance(fact, Decision) and fact.what == "what grids target.all_spws"
    ]


def test_an_engine_is_told_among_the_decisions(vis: str, store: Context, tmp_path: Path) -> None:
    facts = made(store, plan(vis, tmp_path), None, engine="cpu")
    assert what_grids(facts) == [("engine cpu", "it was asked for")]
    (found,) = (fact for fact in facts if isinstance(fact, Image))
    assert found.maximum > 0.1


def test_casas_imager_is_no_decision(vis: str, store: Context, tmp_path: Path) -> None:
    assert what_grids(made(store, plan(vis, tmp_path), 0)) == []


def test_without_a_gpu_the_cpu_takes_over_only_if_the_recipe_allows_it(
    vis: str, store: Context, tmp_path: Path
) -> None:
    jobs: list[Job] = []
    with pytest.raises(JobFailed, match="no worker has a GPU"):
        made(store, plan(vis, tmp_path), 0, jobs, engine="gpu")
    assert jobs == []
    facts = made(store, plan(vis, tmp_path), 0, jobs, engine="gpu", otherwise="cpu")
    assert what_grids(facts) == [("engine cpu", "no worker has a GPU")]
    assert {job.declared.resources.gpus for job in jobs} == {0}


def test_what_an_engine_cannot_image_is_refused_before_any_job(vis: str, store: Context, tmp_path: Path) -> None:
    jobs: list[Job] = []
    with pytest.raises(BadInput, match="specmode"):
        made(store, plan(vis, tmp_path, specmode="cube", nchan=2), 1, jobs, engine="gpu")
    assert jobs == []
