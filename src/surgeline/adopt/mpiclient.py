"""What the Pipeline knows as the client of an MPI session: it sends lines of Python to its servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import cloudpickle

from surgeline.adopt.engine import Engine
from surgeline.adopt.travelling import Surroundings, Travelling, say, why
from surgeline.errors import BadInput
from surgeline.work.jobs import FunctionCall
from surgeline.work.outcome import Outcome
from surgeline.work.taskqueue import TaskQueue


class MpiClient:
    """Sends lines of Python to the servers of an MPI session."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sent: dict[int, tuple[TaskQueue, str, Mapping[str, Any]]] = {}
        self._number = 0

    def push_command_request(
        self,
        command: str,
        block: bool = False,
        target_server: int | Iterable[int] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:
        """Have servers evaluate or run a line of Python.

        Args:
            command: the line.
            block: whether to wait for it.
            target_server: all servers, each of which runs it; None: the next that has nothing to do.
            parameters: values that the line names.

        Returns:
            what `get_command_response` gives, if it waited; else the number of the request, in a list.

        Raises:
            BadInput: only some of the servers were named, or all and not to be waited for.
        """
        parameters = parameters or {}
        pickled = cloudpickle.dumps((command, dict(parameters)))
        job = FunctionCall(say, Travelling(command, pickled, Surroundings.of(self._engine))).declare(
            name=command[:60]
        )
        backend = self._engine.backend
        assert backend is not None
        self._number += 1
        if target_server is not None:
            named = {target_server} if isinstance(target_server, int) else set(target_server)
            if named != set(self.servers) or not block:
                raise BadInput(
                    f"{command!r} was sent to some servers, {sorted(named)}, or not to be waited for",
                    "send it to all of mpi_server_list with block=True, or name no server",
                )
            outcomes = backend.exec_everywhere(job)
            return [self._response(outcome, self._number, command, parameters) for outcome in outcomes]
        queue = self._engine.queue()
        queue.add(job)
        self._sent[self._number] = (queue, command, parameters)
        return self.get_command_response([self._number]) if block else [self._number]

    def get_command_response(
        self, command_request_id_list: Iterable[int], block: bool = True, verbose: bool = True
    ) -> list[dict[str, Any]]:
        """Wait for lines that were sent, and give what came of each.

        Args:
            command_request_id_list: the numbers of the requests.
            block: taken for the sake of callers: it always waits.
            verbose: taken for the sake of callers: all is told.
        """
        found = []
        for number in command_request_id_list:
            queue, command, parameters = self._sent.pop(number)
            (outcome,) = queue.get_results()
            found.append(self._response(outcome, number, command, parameters))
        return found

    @property
    def servers(self) -> list[int]:
        """The ranks of the servers."""
        backend = self._engine.backend
        return list(range(1, backend.workers + 1)) if backend is not None else []

    @staticmethod
    def _response(outcome: Outcome, number: int, command: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": number,
            "server": int(outcome.worker.rpartition("-")[2] or 0),
            "command": command,
            "parameters": dict(parameters),
            "mode": "eval",
            "successful": outcome.ok,
            "status": "response received",
            "ret": outcome.value,
            "traceback": why(outcome, command) if outcome.failure is not None else None,
            "command_start_time": outcome.started,
            "command_stop_time": outcome.ended,
        }
