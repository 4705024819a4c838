"""Parallel imaging by CASA alone, as ranks of mpirun: `plain_mpi.py VIS IMAGE SPECMODE …`, without this package."""

from __future__ import annotations

import sqlite3
import ssl
import sys

import mpi4py  # before casatools, which brings an MPI library of its own

assert mpi4py and sqlite3 and ssl

import casadata  # noqa: E402
from casaconfig import config  # noqa: E402

config.datapath = [casadata.datapath]
config.measurespath = casadata.datapath
config.measures_auto_update = config.data_auto_update = False
config.nogui = config.agg = True
config.logfile = "/dev/null"

from casampi.MPIEnvironment import MPIEnvironment  # noqa: E402

for interval in [name for name in dir(MPIEnvironment) if name.endswith("sleep_time")]:
    setattr(MPIEnvironment, interval, 0.01)

import casampi.private.start_mpi  # noqa: E402 - servers stay here
from casampi.MPICommandClient import MPICommandClient  # noqa: E402
from casatasks import tclean  # noqa: E402

assert casampi
client = MPICommandClient()
client.set_log_mode("unified")
client.start_services()
for name, specmode in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
    tclean(
        vis=sys.argv[1],
        imagename=name,
        specmode=specmode,
        imsize=64,
        cell="15arcsec",
        niter=20,
        parallel=True,
    )
client.stop_services()
