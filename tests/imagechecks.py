"""Images made in parts against those of one tclean."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from surgeline import open_backend
from surgeline.config import load
from surgeline.imaging.continuum import clean_by_rows
from surgeline.imaging.gpu.engines import CASA, Gridding
from surgeline.work.epochs import forget_epochs
from surgeline.work.jobs import Job
from surgeline.work.procedure import drive
from surgeline.work.taskqueue import Backend

# Workers have no other way to the functions of this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# Sums of floats that were added in another order.
DIRTY, CLEANED = 1e-5, 1e-3


def in_this_process(job: Job) -> Any:
    """Run a job as workers do."""
    forget_epochs()
    return job.run()


def by_rows(
    arguments: Mapping[str, Any],
    parts: int,
    run: Callable[[Job], Any] = in_this_process,
    gridding: Gridding = CASA,
) -> dict[str, Any]:
    """tclean's record of an image whose jobs run one after the other."""
    cleaned = drive(
        clean_by_rows(arguments, parts, gridding=gridding),
        lambda jobs: [run(job) for job in jobs],
        lambda jobs: None,
        lambda job: [],
    )
    return dict(cleaned.record)


def by_tclean(arguments: Mapping[str, Any], imagename: Path) -> dict[str, Any]:
    from casatasks import tclean

    forget_epochs()
    record: dict[str, Any] = tclean(**{**arguments, "imagename": str(imagename)})
    return record


def pixels(path: Path) -> NDArray[Any]:
    from casatools import image

    with closing(image()) as tool:
        tool.open(str(path))
        return np.asarray(tool.getchunk())


def products(stem: Path) -> dict[str, Path]:
    return {path.name.removeprefix(stem.name): path for path in stem.parent.glob(f"{stem.name}.*")}


def assert_same(stem: Path, reference: Path, cleaned: float = CLEANED) -> None:
    """Two names stand for the same images, up to the order in which floats were added."""
    found, wanted = products(stem), products(reference)
    assert set(found) == set(wanted)
    for ending, path in wanted.items():
        one, other = pixels(found[ending]), pixels(path)
        peak = np.abs(other).max()
        allowed = DIRTY if ending.startswith((".psf", ".sumwt", ".weight", ".pb")) else cleaned
        assert np.abs(one - other).max() <= allowed * max(peak, 1e-30), ending


def plain_numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if isinstance(value, int | str | bool)}


@contextmanager
def two_workers(folder: Path) -> Iterator[Backend]:
    """Two workers on this machine, whose jobs are tried three times."""
    overrides = ("backend=dask", "dask.n_workers=2", "dask.retries=2", "worker.memory=4GB")
    backend = open_backend(load(overrides=overrides, environment={}, home=folder), folder=folder)
    yield backend
    backend.close()


def run_then_die_once(job: Job, marker: Path) -> Any:
    value = job.run()
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value
