"""Parallel imaging by CASA, which the Pipeline asks for by `tclean(parallel=True)`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from surgeline.adopt.engine import Engine, pipeline_exception
from surgeline.adopt.travelling import why
from surgeline.work.jobs import FunctionCall


class ParallelTclean:
    """Stands in for casatasks' tclean: with `parallel=True` it runs in an MPI session of its own, on the backend.

    An object, since the Pipeline takes a function for none of CASA's tasks.
    """

    def __init__(self, plain: Callable[..., Any], engine: Engine) -> None:
        self.plain = plain
        self._engine = engine
        self.__doc__ = plain.__doc__
        self.__name__ = "tclean"

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Make an image; see casatasks.

        Raises:
            PipelineException: the session of its own failed.
        """
        if keywords.get("parallel") is not True:
            return self.plain(*arguments, **keywords)
        job = FunctionCall(_tclean, str(Path.cwd()), arguments, keywords).declare(
            name=f"tclean {keywords.get('imagename', '')}", mpi=True
        )
        with self._engine.queue() as queue:
            queue.add(job)
            (outcome,) = queue.get_results()
        if outcome.failure is not None:
            raise pipeline_exception()(why(outcome, outcome.call))
        return outcome.value


def _tclean(folder: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    os.chdir(folder)
    return import_module("casatasks").tclean(*arguments, **keywords)


def replace_tclean(engine: Engine) -> None:
    """Have casatasks' tclean run parallel imaging on a backend."""
    casatasks: Any = import_module("casatasks")
    if not isinstance(casatasks.tclean, ParallelTclean):
        # By it the Pipeline knows which arguments a task of CASA has, and leaves out all others.
        call: Any = ParallelTclean.__call__
        call.__signature__ = signature(type(casatasks.tclean).__call__)
        casatasks.tclean = ParallelTclean(casatasks.tclean, engine)


def put_tclean_back() -> None:
    """Have casatasks' tclean be its own again."""
    casatasks: Any = sys.modules.get("casatasks")
    if isinstance(getattr(casatasks, "tclean", None), ParallelTclean):
        casatasks.tclean = casatasks.tclean.plain
