"""What callers catch."""


class PipelineException(Exception):
    """A job failed."""
