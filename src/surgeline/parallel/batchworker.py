"""What a queue job runs, as `python -m surgeline.parallel.batchworker`: Dask's own worker command, told how to treat
CASA, and with the nanny that tells how its worker died."""

from __future__ import annotations

import os
import sys

from surgeline.clusters.daskoptions import dask_options
from surgeline.parallel import workerpreload
from surgeline.parallel.environment import become_dask_worker


def main() -> None:
    """Run a worker until its session ends it; the command line is that of `dask worker`."""
    become_dask_worker()
    import dask
    from distributed.cli import dask_worker

    from surgeline.parallel.workerprocess import TellingNanny

    dask.config.set(dask_options(int(os.environ.get("OMP_NUM_THREADS", "1")), [workerpreload.__name__]))
    # What the command starts when it is told to start a nanny; it has no option for another kind.
    dask_worker.Nanny = TellingNanny
    # Even without a dashboard it tells of its health by HTTP, which nobody elsewhere asks for.
    dask_worker.main(["--dashboard-address", "127.0.0.1:0", *sys.argv[1:]])


if __name__ == "__main__":
    main()
