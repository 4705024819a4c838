"""Surgeline in the place of the CASA Pipeline's parallel layer, with workers that come when jobs do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from queue_clusters import opened
from services.slurm import Slurm
from surgeline import adopt

STANDIN = Path(__file__).with_name("standin")


def test_workers_of_a_queue_are_set_up_like_all_others(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(STANDIN)
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with opened("slurm", tmp_path) as cluster:
        adopt.install(cluster.backends.get("slurm"))
        try:
            import pipeline

            assert pipeline.infrastructure.daskhelpers.is_dask_ready()
            # No worker is there yet that could be told of the folder.
            with pipeline.callers.work_directory(str(elsewhere)):
                context = pipeline.infrastructure.launcher.Context(elsewhere)
                inputs = pipeline.tasks.Inputs(context, ["a.ms", "bad.ms", "c.ms"])
                found = dict(pipeline.tasks.ParallelCalibrate(inputs).execute())
                with pipeline.callers.TaskQueue() as queue:
                    queue.add_functioncall(pipeline.callers.told)
        finally:
            adopt.uninstall()
    assert (found["a.ms"].product, found["a.ms"].folder) == ("h_calibrate.a.ms", str(elsewhere))
    assert found["c.ms"].process != os.getpid()
    assert "no scan of a calibrator in bad.ms" in str(found["bad.ms"])
    ((where, folder, _, _),) = queue.get_results()
    assert where[-1] == folder == str(elsewhere)
    assert len(context.commands) == 2
