"""Where jobs run: one small file for each type of cluster."""
