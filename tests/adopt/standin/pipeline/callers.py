"""How its tasks, heuristics, plots and utilities call its parallel layer."""

import contextlib
import os
import tempfile
from pathlib import Path

import pipeline.infrastructure.daskhelpers as daskhelpers
import pipeline.infrastructure.mpihelpers as mpihelpers
from pipeline.infrastructure.mpihelpers import TaskQueue

from . import tasks
from .infrastructure.basetask import Executor


class ObservationFactory:
    """Makes the jobs of a task that works on several observations."""

    def __init__(self, inputs, executor, task):
        self.inputs = inputs
        self.executor = executor
        self.task = task
        self.path = None

    def __enter__(self):
        if mpihelpers.mpiclient or daskhelpers.daskclient:
            with tempfile.NamedTemporaryFile(suffix=".context", dir=self.inputs.context.output_dir) as temporary:
                self.path = temporary.name
            self.inputs.context.save(self.path)
        return self

    def __exit__(self, *_):
        if self.path:
            Path(self.path).unlink()

    def get_task(self, vis):
        arguments = {"vis": vis, "seconds": self.inputs.seconds}
        wanted = mpihelpers.parse_parallel_input_parameter(self.inputs.parallel) and len(self.inputs.vis) > 1
        if wanted and daskhelpers.is_dask_ready():
            return daskhelpers.FutureTask(mpihelpers.Tier0PipelineTask(self.task, arguments, self.path))
        if wanted and mpihelpers.is_mpi_ready():
            return mpihelpers.AsyncTask(mpihelpers.Tier0PipelineTask(self.task, arguments, self.path))
        return mpihelpers.SyncTask(self.task(self.task.Inputs(self.inputs.context, **arguments)), self.executor)


def plot(names):
    """Plots, each by a request for a call of CASA."""
    waiting = []
    for name in names:
        arguments = {"vis": name, "caltable": f"{name}.png"}
        if mpihelpers.ENABLE_TIER0_PLOTMS and daskhelpers.is_dask_ready():
            waiting.append(daskhelpers.FutureTask(mpihelpers.Tier0JobRequest(tasks.make_gaincal, arguments)))
        elif mpihelpers.ENABLE_TIER0_PLOTMS and mpihelpers.is_mpi_ready():
            waiting.append(mpihelpers.AsyncTask(mpihelpers.Tier0JobRequest(tasks.make_gaincal, arguments)))
        else:
            waiting.append(mpihelpers.SyncTask(tasks.make_gaincal(**arguments)))
    return [task.get_result() for task in waiting]


def transform(context, names, parallel=True):
    """Tasks in a queue."""
    with TaskQueue(parallel=parallel, executor=Executor(context)) as queue:
        for name in names:
            queue.add_pipelinetask(tasks.Calibrate, {"vis": name}, context)
        return queue.get_results()


def requests(context, names):
    """Calls of CASA in a queue, which are noted in the log of casa commands."""
    with TaskQueue() as queue:
        for name in names:
            queue.add_jobrequest(tasks.make_gaincal, {"vis": name, "caltable": "a.tbl"}, executor=Executor(context))
    return queue.get_results()


def sequence(target, number=1, executor=None):
    """One of several self-calibrations: in a folder of its own, with the executor that it is given."""
    before = Path.cwd()
    Path(target).mkdir(exist_ok=True)
    os.chdir(target)
    try:
        executor.execute(tasks.make_gaincal(vis=target, caltable=f"{number}.tbl"))
        return target, number, Path.cwd().name
    finally:
        os.chdir(before)


def self_calibrate(context, targets):
    """Function calls that are given an executor."""
    with TaskQueue() as queue:
        for number, target in enumerate(targets):
            queue.add_functioncall(sequence, target, number=number, executor=Executor(context), use_pickle=True)
    return queue.get_results()


def spread(numbers):
    """One function for each group of arguments; without arguments that are equal to others'."""
    with TaskQueue(unique=True) as queue:
        queue.map(divmod, [(number, 3) for number in numbers])
    return queue()


def go_to(folder):
    """A function for all processes."""
    os.chdir(folder)
    where.append(folder)


# The folders that this process was told to go to.
where = []


def told():
    """What this process was told."""
    from .infrastructure import levels

    return where[:], str(Path.cwd()), levels.level, os.getpid()


def calls_file():
    """Where this process notes its calls."""
    from .infrastructure import levels

    return levels.calls


@contextlib.contextmanager
def work_directory(folder):
    """A block that is elsewhere, in all processes."""
    before = str(Path.cwd())
    everybody_goes_to(folder)
    try:
        yield
    finally:
        everybody_goes_to(before)


def everybody_goes_to(folder):
    """Another folder, for all processes."""
    os.chdir(folder)
    mpihelpers.exec_func(go_to, folder, include_client=False)
    daskhelpers.exec_func(go_to, folder, include_client=False)


def environments():
    """That of each server of an MPI session."""
    found = ["stand-in"]
    if mpihelpers.is_mpi_ready():
        answers = mpihelpers.mpiclient.push_command_request(
            "pipeline.ENVIRONMENT", block=True, target_server=mpihelpers.mpi_server_list
        )
        found += [answer["ret"] for answer in answers]
    return found
