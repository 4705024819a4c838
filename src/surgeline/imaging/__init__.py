"""Imaging as graphs of jobs."""
