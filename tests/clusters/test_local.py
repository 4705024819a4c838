from __future__ import annotations

import sys
from pathlib import Path

import cloudpickle
import pytest

from surgeline.clusters import local
from surgeline.clusters.local import LocalPlan
from surgeline.config import Configuration, load
from surgeline.work.allowance import Allowance

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def configured(home: Path, *overrides: str) -> Configuration:
    return load(overrides=overrides, environment={}, home=home)


def may_use(monkeypatch: pytest.MonkeyPatch, cores: int, memory: int | None) -> None:
    monkeypatch.setattr(local, "allowance", lambda: Allowance(cores, memory, "Slurm", "Slurm", "Slurm"))


@pytest.mark.parametrize(
    ("cores", "overrides", "workers", "memory"),
    [
        (6, (), 6, 2 * 10**9),
        (6, ("worker.threads=4",), 1, 12 * 10**9),
        (6, ("worker.threads=8",), 1, 12 * 10**9),
        (6, ("dask.n_workers=3",), 3, 4 * 10**9),
        (6, ("worker.memory=1GB",), 6, 10**9),
        (6, ("worker.memory=null",), 6, None),
    ],
)
def test_workers_share_what_this_process_may_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    overrides: tuple[str, ...],
    workers: int,
    memory: int | None,
) -> None:
    may_use(monkeypatch, cores, 12 * 10**9)
    asked = local.plan(configured(tmp_path, *overrides), "local")
    assert (asked.workers, asked.memory) == (workers, memory)


def test_where_memory_is_unknown_workers_have_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_use(monkeypatch, 2, None)
    assert str(local.plan(configured(tmp_path), "local")) == "2 local workers"


def test_each_worker_loads_what_is_named_and_what_the_users_own_configuration_names(tmp_path: Path) -> None:
    import dask
    from distributed import Client, Nanny

    def loaded() -> list[str]:
        return [name for name in sys.modules if name in ("first_preload", "second_preload")]

    for name in ("first", "second"):
        (tmp_path / f"{name}_preload.py").write_text("")
    asked = LocalPlan(workers=1, threads=1, memory=None, host=None, dashboard_address=None)
    with (
        dask.config.set({"distributed.worker.preload": str(tmp_path / "second_preload.py")}),
        local.start(asked, Nanny, tmp_path / "scratch", [str(tmp_path / "first_preload.py")]) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(1, timeout=60)
        assert list(client.run(loaded).values()) == [["first_preload", "second_preload"]]
        # And the one that replaces it.
        client.restart(timeout=60)
        assert list(client.run(loaded).values()) == [["first_preload", "second_preload"]]
