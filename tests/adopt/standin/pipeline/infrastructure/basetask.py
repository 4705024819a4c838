"""Tasks, requests for calls of CASA, and what executes both."""

import copy
from inspect import signature
from pathlib import Path
from types import FunctionType

from . import levels
from .filenamer import NamingTemplate
from .framework import is_top_level_task
from .registry import task_registry


class JobRequest:
    def __init__(self, fn, **keywords):
        self.fn = fn
        # What it does not know is left out; tasks of CASA are no functions.
        known = signature(fn if isinstance(fn, FunctionType) else fn.__call__).parameters
        self.keywords = {name: value for name, value in keywords.items() if name in known}

    def execute(self):
        with levels.calls.open("a") as calls:
            calls.write(f"{self.fn.__name__}\n")
        return self.fn(**self.keywords)

    def __str__(self):
        return f"{self.fn.__name__}({', '.join(f'{name}={value!r}' for name, value in self.keywords.items())})"


class Executor:
    def __init__(self, context):
        self._context = context
        self._cmdfile = str(Path(context.report_dir, context.logs["casa_commands"]))

    @property
    def cmdfile(self):
        return self._cmdfile

    @cmdfile.setter
    def cmdfile(self, path):
        self._cmdfile = str(Path(path).absolute())

    def copy(self, exclude_context=False):
        other = copy.copy(self)
        if exclude_context:
            other._context = None
        return other

    def execute(self, job, merge=False):
        result = job.execute()
        if isinstance(job, JobRequest):
            with Path(self._cmdfile).open("a") as commands:
                commands.write(f"{job}\n")
        if merge:
            result.merge_with_context(self._context)
        return result


class Task:
    def __init__(self, inputs):
        self.inputs = inputs
        self._executor = Executor(inputs.context)

    def execute(self):
        top = is_top_level_task()
        if top:
            NamingTemplate.task = task_registry.get_casa_task(type(self))
        try:
            return self.prepare()
        finally:
            if top:
                NamingTemplate.task = None
