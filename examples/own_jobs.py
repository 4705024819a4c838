"""Jobs of all three kinds on the workers of this machine, or of any cluster of your configuration.

Usage: python examples/own_jobs.py MY.ms [CLUSTER]
"""

from __future__ import annotations

import sys
from typing import Any

from surgeline import FunctionCall, Resources, TaskQueue, open_backend


# --8<-- [start:function]
def noise(vis: str, scan: int) -> float:
    """The noise in the real and imaginary parts of a scan's visibilities, from one integration to the next."""
    # What is heavy is imported where it is used: in the worker.
    import numpy as np
    from casatools import table

    data = table()
    data.open(vis)
    try:
        rows = data.query(f"SCAN_NUMBER == {scan}", sortlist="ANTENNA1, ANTENNA2, TIME")
        same_baseline = (np.diff(rows.getcol("ANTENNA1")) == 0) & (np.diff(rows.getcol("ANTENNA2")) == 0)
        differences = np.diff(rows.getcol("DATA"))[..., same_baseline]
        rows.close()
    finally:
        data.close()
    return float(np.sqrt(np.mean(np.abs(differences) ** 2) / 4))


# --8<-- [end:function]
# --8<-- [start:task]
class Count:
    """A task in the form that the CASA Pipeline's have: `Inputs`, and `execute`."""

    class Inputs:
        """What it works on: the context comes first, then its arguments."""

        def __init__(self, context: Any, vis: str) -> None:
            self.context = context
            self.vis = vis

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def execute(self) -> str:
        """Count rows; what it returns has to pickle."""
        from casatools import table

        data = table()
        data.open(self.inputs.vis)
        rows = data.nrows()
        data.close()
        return f"{self.inputs.context['project']}: {rows} rows"


# --8<-- [end:task]
# --8<-- [start:queue]
def main(vis: str, cluster: str | None = None) -> int:
    """Put the jobs into a queue, and print what came of each; how many failed."""
    backend = open_backend(cluster=cluster)
    failed = 0
    try:
        with TaskQueue(backend) as queue:
            for scan in (1, 2, 3):
                # `declare` says what a job needs and works on, so that a worker that has it is found, or asked for.
                job = FunctionCall(noise, vis, scan).declare(
                    name=f"noise of scan {scan}", resources=Resources(memory=10**9), reads=[vis]
                )
                queue.add(job)
            queue.add_jobrequest("visstat", {"vis": vis, "axis": "amplitude", "scan": "1"})
            queue.add_pipelinetask(Count, {"vis": vis}, {"project": "HI survey"})
            for outcome in queue.get_results():
                print(f"{outcome.job}: {outcome.value if outcome.ok else outcome.failure}")
                failed += not outcome.ok
    finally:
        backend.close()
    return failed


# --8<-- [end:queue]
if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    raise SystemExit(main(*sys.argv[1:]))
