"""Tasks: one that images, and one that calibrates several observations."""

import os
import time
from pathlib import Path

from .infrastructure import exceptions, launcher, task_registry
from .infrastructure.basetask import JobRequest, Task
from .infrastructure.filenamer import NamingTemplate
from .infrastructure.framework import is_top_level_task


class Result:
    def __init__(self, **content):
        self.__dict__.update(content)

    def merge_with_context(self, context):
        context.results.append(self.vis)


class Inputs:
    def __init__(self, context, vis=None, parallel="automatic", seconds=0.0):
        self.context = context
        self.vis = vis
        self.parallel = parallel
        self.seconds = seconds


def gaincal(vis, caltable):
    return f"{caltable} of {vis}"


def make_gaincal(**keywords):
    return JobRequest(gaincal, **keywords)


class Calibrate(Task):
    """One observation."""

    Inputs = Inputs

    def prepare(self):
        if self.inputs.vis == "bad.ms":
            raise ValueError("no scan of a calibrator in bad.ms")
        if self.inputs.vis == "deadly.ms" and not Path("died").exists():
            Path("died").touch()
            os._exit(9)
        time.sleep(self.inputs.seconds)
        self.inputs.context.touched += 1
        solved = self._executor.execute(make_gaincal(vis=self.inputs.vis, caltable="phases.tbl"))
        return Result(
            vis=self.inputs.vis,
            solved=solved,
            product=NamingTemplate.product(self.inputs.vis),
            top=is_top_level_task(),
            touched=self.inputs.context.touched,
            folder=str(Path.cwd()),
            process=os.getpid(),
            loaded=launcher.LOADED,
            results=list(self.inputs.context.results),
        )


@task_registry.add("h_calibrate")
class ParallelCalibrate(Task):
    """Each of several observations by a job."""

    Inputs = Inputs
    Task = Calibrate

    def prepare(self):
        from .callers import ObservationFactory

        told = []
        with ObservationFactory(self.inputs, self._executor, self.Task) as factory:
            waiting = [(vis, factory.get_task(vis)) for vis in self.inputs.vis]
            for vis, task in waiting:
                try:
                    told.append((vis, task.get_result()))
                except exceptions.PipelineException as error:
                    told.append((vis, error))
        return told
