"""The standard CASA stages, one file each, heuristics beside their jobs."""
