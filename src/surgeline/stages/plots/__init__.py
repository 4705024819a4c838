"""Plots and pictures for the weblog: `asking` is for stages, the other files run as jobs and write PNG files."""
