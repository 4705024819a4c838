"""The existing CASA Pipeline, unchanged, with its jobs on a backend of Surgeline's."""

from surgeline.adopt.installing import install, uninstall

__all__ = ["install", "uninstall"]
