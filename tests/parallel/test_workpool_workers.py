"""Workers that are flow runs of a real work pool: what a user sees of their coming, going and dying."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import cloudpickle
import pytest

pytest.importorskip("prefect", reason="Prefect is not installed: pip install 'surgeline[prefect]'")

from queue_clusters import Opened, a_long_job, call, opened, worked
from support import wait_until
from surgeline.errors import ClusterError
from workpools import Pools, prefect_server, worker_processes

pytestmark = pytest.mark.prefect
# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
Open = Callable[..., AbstractContextManager[Opened]]


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    """A server with a pool that has a worker, and one that has none."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as found:
        found.make("quick")
        found.make("idle")
        with found.worker("quick"):
            yield found


@pytest.fixture(autouse=True)
def server(pools: Pools) -> Iterator[None]:
    """The server as the one that the session is told of."""
    from prefect.settings import temporary_settings

    with temporary_settings({"api.url": pools.url}):
        yield


@pytest.fixture
def open_pool(tmp_path: Path) -> Open:
    return lambda *overrides, **options: opened("prefect", tmp_path, "work_pool=quick", *overrides, **options)


def fails() -> None:
    raise ValueError("there are no data")


def test_workers_come_when_jobs_need_them_and_go_when_none_does(
    tmp_path: Path, pools: Pools, open_pool: Open
) -> None:
    with open_pool("idle_seconds=0", "maximum=2", "shared_filesystem=false") as cluster:
        assert pools.nothing_is_left()
        good, bad = cluster.run(call(worked, tmp_path, 1, 0), call(fails))
        assert good.result() == 1
        assert bad.failure is not None and "there are no data" in bad.failure.message
        wait_until(lambda: not pools.processes(), 60, "no worker is left")
        assert not cluster.losses
    assert pools.nothing_is_left()
    assert {run["state"]["type"] for run in pools.flow_runs()} <= {"COMPLETED", "CANCELLED"}


def test_a_worker_that_is_lost_with_its_flow_run_is_replaced_and_its_job_runs_again(
    tmp_path: Path, pools: Pools
) -> None:
    with a_long_job("prefect", tmp_path, "work_pool=quick") as job:
        [nanny] = worker_processes(job.identifier())
        flow_run = nanny.parent()
        assert flow_run is not None
        flow_run.kill()
        job.wait_until_it_runs_again()
        wait_until(lambda: not nanny.is_running(), 60, "what the flow run had started is gone")
        [other] = worker_processes(job.identifier())
        other.kill()
        job.wait_until_it_runs_again(3)
        first, second = job.end().losses
    assert "Crashed" in first.how and "-9" in first.how
    assert "Failed: killed by signal 9" in second.how
    assert not pools.processes()


def test_why_workers_do_not_come_is_told(pools: Pools, open_pool: Open) -> None:
    with open_pool("work_pool=idle", "queue_deadline=3") as cluster, cluster.queue() as queue:
        queue.add(call(fails))
        wait_until(
            lambda: any("no worker of work pool 'idle' is online" in w for w in cluster.backend.waits()), 60, ""
        )
        (outcome,) = queue.get_results()
        assert outcome.failure is not None
        assert "no worker of work pool 'idle' is online: prefect worker start" in outcome.failure.message
    assert pools.nothing_is_left()


def test_what_cannot_be_had_is_refused_before_anything_starts(pools: Pools, open_pool: Open) -> None:
    from prefect.settings import temporary_settings

    pools.make("paused", is_paused=True)
    for overrides, words in [
        (("work_pool=quik",), "has no work pool 'quik'"),
        (("work_pool=paused",), "work pool 'paused' is paused"),
        (("job_variables={imag: x}",), "has no variable 'imag'"),
    ]:
        with pytest.raises(ClusterError, match=words), open_pool(*overrides) as cluster:
            cluster.queue()
    with (
        temporary_settings({"api.url": "http://127.0.0.1:9/api"}),
        pytest.raises(ClusterError, match="does not answer"),
        open_pool() as cluster,
    ):
        cluster.queue()
    assert pools.nothing_is_left()
