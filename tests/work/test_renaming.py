from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeline import FunctionCall, JobRequest
from surgeline.work.renaming import Renaming, declared_paths, in_value


@dataclass(frozen=True)
class Part:
    vis: str
    others: tuple[Path, ...]


def nothing(*_: Any) -> None:
    """A job's function."""


def test_absolute_paths_have_names_in_the_jobs_folder_and_neighbours_stay_neighbours() -> None:
    renaming = Renaming(["/data/in/a.ms", "/data/in/b.*", "data/c.ms", "../d.ms"])
    a, b, beside, inside = map(
        renaming.there, ["/data/in/a.ms", "/data/in/b.image", "/data/in/a.ms.flagversions", "/data/in/a.ms/ANTENNA"]
    )
    assert a.startswith("elsewhere/") and a.endswith("/a.ms")
    assert Path(a).parent == Path(b).parent
    assert (beside, inside) == (f"{a}.flagversions", f"{a}/ANTENNA")
    assert renaming.there("data/c.ms") == "data/c.ms"
    assert renaming.there("/data/in/another") == "/data/in/another"
    assert renaming.there("../d.ms").startswith("elsewhere/")
    assert [renaming.back(name) for name in (a, b, inside)] == [
        "/data/in/a.ms",
        "/data/in/b.image",
        "/data/in/a.ms/ANTENNA",
    ]
    told = f"WARN {b} is new, so is /scratch/job/c"
    assert renaming.text_home(told, "/scratch/job", "/work") == "WARN /data/in/b.image is new, so is /work/c"
    home = renaming.home("/scratch/job", "/work")
    assert [home(path) for path in (f"/scratch/job/{b}", "/scratch/job/x", "x")] == [
        "/data/in/b.image",
        "/work/x",
        "x",
    ]


def test_a_job_and_its_value_have_their_paths_renamed_wherever_these_are() -> None:
    vis = "/data/a.ms"
    job = FunctionCall(nothing, Part(vis, (Path(vis),)), {"vis": [vis, 3]}, {vis}, other=f"{vis}/FIELD").declare(
        reads=[vis], writes=["data/b.ms"]
    )
    renaming = Renaming(declared_paths(job.declared))
    there = renaming.there(vis)
    renamed = renaming.job(job)
    assert renamed.arguments == (Part(there, (Path(there),)), {"vis": [there, 3]}, {there})
    assert renamed.keywords == {"other": f"{there}/FIELD"}
    assert renamed.declared.reads == (there,)
    assert renamed.declared.writes == ("data/b.ms",)
    assert in_value(renamed.arguments, renaming.back) == job.arguments
    # The job itself is as it was.
    assert job.declared.reads == (vis,)


def test_a_task_has_its_arguments_renamed() -> None:
    job = JobRequest("importuvfits", {"fitsfile": "/data/a.fits", "vis": "data/a.ms"})
    renamed = Renaming(declared_paths(job.declared)).job(job)
    assert renamed.arguments["fitsfile"].endswith("/a.fits")
    assert not renamed.arguments["fitsfile"].startswith("/")
    assert renamed.arguments["vis"] == "data/a.ms"


def test_what_workers_reach_under_its_own_path_keeps_it() -> None:
    job = JobRequest("importuvfits", {"fitsfile": "/archive/a.fits", "vis": "data/a.ms"})
    assert Renaming(declared_paths(job.declared), reachable=["/archive"]).job(job) is job
