"""Dask's scheduler in a pod, as `python -m surgeline.parallel.podscheduler`, and what the session says to it.

The session is a client of it like any other, so what else they have to say to each other goes by handlers and events:
workers' questions for facts, and that a worker's pod is gone.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from surgeline.clusters.certificates import NAMES
from surgeline.clusters.daskoptions import dask_options
from surgeline.work.surroundings import Ask

_PORT = 8786
_HEALTH_PORT = 8787
_IDLE_ROUTE = "surgeline.parallel.podidle"
_QUESTION_TOPIC = "surgeline-question"
# Dask's own, which is there without any client.
_NO_CLIENT = "fire-and-forget"


def main() -> None:
    """Run a scheduler until the pod ends."""
    # As the first process of a container it would be deaf to it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    import dask

    dask.config.set(dask_options(1))
    # What the operator asks by HTTP, since it has no certificate.
    dask.config.set({"distributed.scheduler.http.routes": ["distributed.http.health", _IDLE_ROUTE]})
    asyncio.run(_serve(Path(sys.argv[1]) if sys.argv[1:] else None))


async def _serve(certificates: Path | None) -> None:
    from distributed import Scheduler
    from distributed.security import Security

    security = None
    if certificates is not None:
        authority, certificate, key = (str(certificates / name) for name in NAMES)
        security = Security(
            require_encryption=True, tls_ca_file=authority, tls_scheduler_cert=certificate, tls_scheduler_key=key
        )
    scheduler = Scheduler(
        host="0.0.0.0",  # nosec B104  # of the pod
        port=_PORT,
        protocol="tls" if security else "tcp",
        security=security,
        dashboard_address=f":{_HEALTH_PORT}",
        dashboard=False,
    )
    _Handlers(scheduler)
    async with scheduler:
        await scheduler.finished()


class _Handlers:
    """What the scheduler does besides Dask's own."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._last_client = time.time()
        scheduler.handlers |= {
            "surgeline_facts": self._ask,
            "surgeline_answer": self._answer,
            "surgeline_forget": self._forget,
            "check_idle": self._since_when_nobody_is_here,
        }

    async def _ask(self, query: bytes) -> bytes:
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._scheduler.log_event(_QUESTION_TOPIC, {"number": number, "query": query})
        try:
            return await self._asked[number]
        finally:
            del self._asked[number]

    async def _answer(self, number: int, answer: bytes, failed: bool) -> None:
        waiting = self._asked.get(number)
        if waiting is None:
            return
        if failed:
            waiting.set_exception(pickle.loads(answer))
        else:
            waiting.set_result(answer)

    async def _forget(self, address: str) -> None:
        await self._scheduler.remove_worker(address, stimulus_id="pod-gone", close=False)

    def _since_when_nobody_is_here(self) -> float:
        """What the operator asks before it deletes the cluster: the Unix time since which there is no session, or 0.

        A session that thinks between two stages is not idle, whatever Dask's scheduler makes of that.
        """
        if any(client != _NO_CLIENT for client in self._scheduler.clients):
            self._last_client = time.time()
            return 0.0
        return self._last_client


class Answers:
    """The session's side of workers' questions."""

    def __init__(self, client: Any, ask: Ask) -> None:
        """Answer what workers ask from now on.

        Args:
            client: Dask's client of the scheduler.
            ask: answers them; called in a thread of its own.
        """
        self._client = client
        self._ask = ask
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="answer-workers")
        client.subscribe_topic(_QUESTION_TOPIC, self._hear)

    def close(self) -> None:
        """Answer nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        self._threads.submit(self._reply, event[1]["number"], event[1]["query"])

    def _reply(self, number: int, query: bytes) -> None:
        failed = False
        try:
            answer = pickle.dumps(self._ask(pickle.loads(query)))
        except Exception as error:  # noqa: BLE001 - the worker waits for an answer, whatever it is
            answer, failed = pickle.dumps(error), True
        asyncio.run_coroutine_threadsafe(
            self._client.scheduler.surgeline_answer(number=number, answer=answer, failed=failed),
            self._client.loop.asyncio_loop,
        )


def forget_worker(client: Any, address: str) -> None:
    """Have the scheduler know that a worker is gone; does not wait for it."""
    asyncio.run_coroutine_threadsafe(client.scheduler.surgeline_forget(address=address), client.loop.asyncio_loop)


if __name__ == "__main__":
    main()
