"""Surgeline runs CASA data-reduction pipelines in parallel, each stage on the resources that it needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeline.context.records import Fact
    from surgeline.imaging.cleaning import clean
    from surgeline.parallel.backend import open_backend
    from surgeline.stages.stage import Stage, stage
    from surgeline.work.jobs import FunctionCall, JobRequest, PipelineTask
    from surgeline.work.outcome import Outcome
    from surgeline.work.resources import Resources
    from surgeline.work.taskqueue import TaskQueue
    from surgeline.workflow.results import Results
    from surgeline.workflow.session import Session

__version__ = "0.1.0"

_HOME_OF = {
    "Fact": "surgeline.context.records",
    "FunctionCall": "surgeline.work.jobs",
    "JobRequest": "surgeline.work.jobs",
    "Outcome": "surgeline.work.outcome",
    "PipelineTask": "surgeline.work.jobs",
    "Resources": "surgeline.work.resources",
    "Results": "surgeline.workflow.results",
    "Session": "surgeline.workflow.session",
    "Stage": "surgeline.stages.stage",
    "TaskQueue": "surgeline.work.taskqueue",
    "clean": "surgeline.imaging.cleaning",
    "open_backend": "surgeline.parallel.backend",
    "stage": "surgeline.stages.stage",
}

__all__ = [
    "Fact",
    "FunctionCall",
    "JobRequest",
    "Outcome",
    "PipelineTask",
    "Resources",
    "Results",
    "Session",
    "Stage",
    "TaskQueue",
    "clean",
    "open_backend",
    "stage",
]


def __getattr__(name: str) -> Any:
    # Public names are imported when first used, so that `import surgeline` stays quick.
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'surgeline' has no attribute {name!r}")
