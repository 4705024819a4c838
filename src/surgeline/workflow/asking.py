"""What a stage's jobs ask of the workers that run them."""

from __future__ import annotations

from surgeline.work.estimates import Estimates
from surgeline.work.jobs import Job
from surgeline.work.resources import Resources
from surgeline.workflow.recipe import StageRequest


def declared(request: StageRequest, job: Job, estimates: Estimates) -> Job:
    """A job as it is submitted: with what its stage asks for, or else it itself, and what is known of its like."""
    asked = request.resources if request.resources != Resources() else job.declared.resources
    memory, seconds = estimates.resources(request.name, job.declare(resources=asked))
    if memory is not None:
        asked = asked.model_copy(update={"memory": memory})
    # A stage that was interrupted left files of jobs that now run anew.
    return job.declare(resources=asked, overwrite=True, seconds=seconds)
