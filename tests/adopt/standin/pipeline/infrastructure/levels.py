"""How much is logged, and where."""

from pathlib import Path

level = "nothing"
# Begun anew when it is imported, in the folder that it is imported in.
calls = Path("calls.txt").absolute()
calls.write_text("")
# What it is configured by is looked for there, too.
configured = Path("config.yaml").exists()


def set_logging_level(new):
    global level
    level = new
    from . import mpihelpers

    if mpihelpers.is_mpi_ready():
        mpihelpers.mpiclient.push_command_request(
            f"pipeline.infrastructure.levels.set_logging_level({new!r})",
            block=True,
            target_server=mpihelpers.mpi_server_list,
        )
