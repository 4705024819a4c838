from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from surgeline import FunctionCall, JobRequest, PipelineTask, Resources
from surgeline.errors import BadInput


def add(one: int, other: int = 1) -> int:
    return one + other


@dataclass
class ScaleInputs:
    context: dict[str, int]
    factor: int


class Scale:
    """What a pipeline framework's task looks like from outside."""

    Inputs = ScaleInputs

    def __init__(self, inputs: ScaleInputs) -> None:
        self.inputs = inputs

    def execute(self) -> int:
        return self.inputs.context["value"] * self.inputs.factor


def test_each_kind_of_job_prints_as_the_call_that_it_is() -> None:
    assert str(FunctionCall(add, 1, other=2)) == "add(1, other=2)"
    request = JobRequest("listobs", {"vis": "my.ms", "verbose": False})
    assert str(request) == "listobs(vis='my.ms', verbose=False)"
    assert str(PipelineTask(Scale, {"factor": 3}, {"value": 2})) == "Scale(factor=3)"


def test_a_long_argument_is_shortened_for_people_but_not_in_the_command() -> None:
    commands = [f"antenna='ea{number:02d}'" for number in range(50)]
    request = JobRequest("flagdata", {"vis": "my.ms", "mode": "list", "inpfile": commands})
    assert len(str(request)) < 300
    assert request.command() == f"flagdata(vis='my.ms', mode='list', inpfile={commands!r})"


def test_each_kind_of_job_runs_and_survives_a_journey() -> None:
    for job, value in (
        (FunctionCall(add, 1, other=2), 3),
        (FunctionCall(lambda: 7), 7),
        (PipelineTask(Scale, {"factor": 3}, {"value": 2}), 6),
    ):
        assert job.run() == value
        pickled = cloudpickle.dumps(job)
        assert len(pickled) < 3000
        assert cloudpickle.loads(pickled).run() == value


def test_the_content_hash_is_that_of_what_is_done() -> None:
    assert FunctionCall(add, 1).content_hash() == FunctionCall(add, 1).content_hash()
    assert FunctionCall(add, 1, other=2).content_hash() != FunctionCall(add, 1, other=3).content_hash()
    one = JobRequest("listobs", {"vis": "my.ms", "verbose": False})
    assert one.content_hash() == JobRequest("listobs", {"verbose": False, "vis": "my.ms"}).content_hash()
    assert one.content_hash() != JobRequest("listobs", {"vis": "other.ms", "verbose": False}).content_hash()
    # A name and resources say how something is done, not what.
    assert one.content_hash() == one.declare(name="list", resources=Resources(cores=2)).content_hash()
    scale = PipelineTask(Scale, {"factor": 3}, {"value": 2})
    assert scale.content_hash() == PipelineTask(Scale, {"factor": 3}, {"value": 2}).content_hash()
    assert scale.content_hash() != PipelineTask(Scale, {"factor": 3}, {"value": 4}).content_hash()


@pytest.mark.parametrize(
    ("task", "arguments", "named"),
    [
        ("tclaen", {}, ["'tclaen'", "'tclean'"]),
        ("listobs", {"viz": "my.ms"}, ["listobs", "'viz'", "'vis'"]),
        ("listobs", {"vis": 5}, ["listobs", "vis", "int"]),
        ("tclean", {"niter": "many"}, ["tclean", "niter", "'many'", "integer"]),
        ("tclean", {"niter": True}, ["niter", "bool"]),
        ("tclean", {"pbcor": 1}, ["pbcor", "True or False"]),
        ("tclean", {"threshold": float("nan")}, []),
        ("split", {"keepflags": "yes"}, ["keepflags"]),
        ("setjy", {"fluxdensity": {"I": 1}}, ["fluxdensity"]),
    ],
)
def test_a_wrong_request_is_refused_when_it_is_made(task: str, arguments: dict[str, Any], named: list[str]) -> None:
    if not named:
        JobRequest(task, arguments)
        return
    with pytest.raises(BadInput) as caught:
        JobRequest(task, arguments)
    for name in named:
        assert name in str(caught.value)


def test_arguments_may_come_as_paths_tuples_and_numpy_numbers() -> None:
    import numpy as np

    request = JobRequest("tclean", {"vis": Path("my.ms"), "imsize": (128, np.int64(64)), "niter": np.int32(5)})
    assert request.arguments["vis"] == "my.ms"
    assert request.arguments["imsize"] == [128, 64]
    assert request.command().startswith("tclean(vis='my.ms'")


def test_a_request_knows_the_files_that_it_reads_writes_and_changes() -> None:
    solve = JobRequest("gaincal", {"vis": "my.ms", "caltable": "my.G", "gaintable": ["my.B", "my.F"]})
    assert solve.declared.reads == ("my.B", "my.F", "my.ms")
    assert solve.declared.writes == ("my.G",)
    assert solve.declared.changes == ()
    apply = JobRequest("applycal", {"vis": "my.ms", "gaintable": ["my.G"]})
    assert apply.declared.changes == ("my.ms",)
    assert apply.declared.reads == ("my.G",)
    bring_in = JobRequest("importuvfits", {"fitsfile": "my.fits", "vis": "my.ms"})
    assert (bring_in.declared.reads, bring_in.declared.writes) == (("my.fits",), ("my.ms",))
    part = JobRequest("split", {"vis": "my.ms", "outputvis": "part.ms"})
    assert (part.declared.reads, part.declared.writes) == (("my.ms",), ("part.ms",))
    for savemodel, changes in (("none", ()), ("modelcolumn", ("my.ms",)), ("virtual", ("my.ms",))):
        clean = JobRequest("tclean", {"vis": "my.ms", "imagename": "my", "savemodel": savemodel})
        assert clean.declared.changes == changes


def test_declaring_more_leaves_the_job_itself_as_it_was() -> None:
    job = JobRequest("listobs", {"vis": "my.ms"})
    more = job.declare(name="list it", resources=Resources(memory="1GB"), writes=["list.txt"], overwrite=True)
    assert (job.declared.name, job.declared.writes, job.declared.overwrite) == ("listobs", (), False)
    assert (more.declared.name, more.declared.writes, more.declared.overwrite) == ("list it", ("list.txt",), True)
    assert more.declared.resources.memory == 10**9
    assert more.declared.reads == ("my.ms",)
    assert more.declare(name="again").declared.writes == ("list.txt",)


def test_what_cannot_be_a_job_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot be called"):
        FunctionCall("not a function")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="Inputs"):
        PipelineTask(dict, {}, None)
