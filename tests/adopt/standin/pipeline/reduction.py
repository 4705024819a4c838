"""Tasks of a procedure: MSs here are folders with as much as tells that they are some."""

import os
import shutil
import time
from pathlib import Path

from .infrastructure import task_registry
from .infrastructure.basetask import JobRequest, Task
from .infrastructure.filenamer import NamingTemplate
from .infrastructure.mpihelpers import TaskQueue


class Domain:
    """Anything that has attributes."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Score:
    def __init__(self, score, vis):
        self.score = score
        self.longmsg = f"{vis} is as good as {score}"
        self.shortmsg = "good"
        self.origin = Domain(metric_name="goodness")
        self.applies_to = Domain(vis={vis})


class Result:
    def __init__(self, change=lambda context: None, scores=()):
        self._change = change
        self.qa = Domain(pool=list(scores))

    def accept(self, context):
        self._change(context)


class Inputs:
    def __init__(self, context, **arguments):
        self.context = context
        self.__dict__.update(arguments)


def measurement_set(name):
    return Domain(
        name=name,
        antenna_array=Domain(name="VLA", antennas=[]),
        scans=[],
        fields=[],
        spectral_windows=[],
        data_descriptions=[],
        polarizations=[],
    )


@task_registry.add("hifv_importdata")
class Import(Task):
    Inputs = Inputs

    def prepare(self):
        assert len(self.inputs.session) == len(self.inputs.vis)
        names = [Path(vis).name for vis in self.inputs.vis]
        for vis, name in zip(self.inputs.vis, names, strict=True):
            shutil.copytree(vis, name)

        def change(context):
            context.observing_run.measurement_sets += [measurement_set(name) for name in names]

        return Result(change, [Score(1.5, name) for name in names])


def flag(vis, amount):
    """Add to the flags of an MS, in place."""
    with Path(vis, "table.f1").open("a") as flags:
        flags.write(f"{amount} ")


def make_flag(**keywords):
    return JobRequest(flag, **keywords)


class Flag(Task):
    Inputs = Inputs

    def prepare(self):
        self._executor.execute(make_flag(vis=self.inputs.vis, amount=self.inputs.amount))
        return NamingTemplate.product(self.inputs.vis), os.getpid()


@task_registry.add("hifv_flagdata")
class ParallelFlag(Task):
    """Each MS by a job; where they ran is noted."""

    Inputs = Inputs
    Task = Flag

    def prepare(self):
        assert isinstance(self.inputs.amount, int)
        context = self.inputs.context
        names = [ms.name for ms in context.observing_run.measurement_sets]
        wanted = self.inputs.parallel == "automatic"
        with TaskQueue(parallel=wanted, executor=self._executor) as queue:
            for name in names:
                queue.add_pipelinetask(self.Task, {"vis": name, "amount": self.inputs.amount}, context)
        told = queue.get_results()
        assert [product for product, _ in told] == [f"hifv_flagdata.{name}" for name in names]

        def change(context):
            context.processes.append(sorted({process != os.getpid() for _, process in told}))

        return Result(change)


def image(name, flags):
    """Make an image, which must not be there; wait in the middle of it where the environment says so."""
    if os.environ.get("STANDIN_FAILS"):
        raise RuntimeError("no channel is left of it")
    assert not Path(name).exists()
    from casatools import image as image_tool

    tool = image_tool()
    tool.fromshape(name, [4, 4, 1, 1], log=False)
    tool.calc(f"'{name}' + {len(flags)}", verbose=False)
    tool.close()
    while os.environ.get("STANDIN_WAITS"):
        time.sleep(0.05)
    Path(name, "flags").write_text(flags)
    return name


@task_registry.add("hif_makeimages")
class MakeImages(Task):
    Inputs = Inputs

    def prepare(self):
        context = self.inputs.context
        flags = [Path(ms.name, "table.f1").read_text() for ms in context.observing_run.measurement_sets]
        with TaskQueue() as queue:
            for name in self.inputs.names:
                queue.add_functioncall(image, f"{name}.image", "; ".join(flags))
        made = queue.get_results()
        note = Path("cont.dat")
        note.write_text(note.read_text() + "imaged " if note.exists() else "imaged ")

        def change(context):
            context.sciimlist.get_imlist().extend(
                {"imagename": name, "sourcename": "TARGET", "specmode": "cont"} for name in made
            )

        return Result(change)


@task_registry.add("hif_testBPdcals")
class Impossible(Task):
    Inputs = Inputs

    def prepare(self):
        raise ValueError("no calibrator is bright enough")
