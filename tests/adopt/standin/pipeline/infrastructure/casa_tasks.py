"""Requests for calls of CASA."""

import casatasks

from .basetask import JobRequest


def tclean(**keywords):
    return JobRequest(casatasks.tclean, **keywords)
