"""A stand-in for the CASA Pipeline, written for these tests: with the same contract."""

from . import callers, infrastructure, tasks

__all__ = ["ENVIRONMENT", "callers", "infrastructure", "tasks"]

# What its client asks the servers of an MPI session for.
ENVIRONMENT = "stand-in"

infrastructure.set_logging_level("info")
