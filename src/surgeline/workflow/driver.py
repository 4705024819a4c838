"""Which stage of a session runs when, and who is told of it by running it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from surgeline.errors import SurgelineError
from surgeline.workflow.recipe import StageRequest


class Driver:
    """Runs a session and its stages here, and needs nothing else.

    Another driver runs the same session and the same stages inside of something that keeps account of them.
    """

    def run_session(self, run: Callable[[], None]) -> None:
        """Run a whole session; what it raises is passed on."""
        run()

    def run_stage(self, request: StageRequest, run: Callable[[], None]) -> None:
        """Run a stage, in a thread of its own; what it raises is passed on."""
        run()


def run_stages(
    requests: Sequence[StageRequest],
    needs: Mapping[str, Collection[str]],
    finished: Collection[str],
    run: Callable[[StageRequest], None],
    foresee: Callable[[Sequence[StageRequest], Sequence[StageRequest]], None],
    stop: Callable[[], None],
) -> list[SurgelineError]:
    """Run stages, each in a thread of its own as soon as all have finished that it needs.

    Args:
        requests: the stages that are to run.
        needs: for each stage, those that it waits for.
        finished: the stages that have run before.
        run: runs a stage.
        foresee: told which stages run and which come next, each time that this changes; in the end that none does.
        stop: has all stages that run end; called when something other than a stage fails.

    Returns:
        What the stages that failed raised, in that order; all that do not need one of them have run.
    """
    waiting = {request.name: request for request in requests}
    done = set(finished)
    failures: list[SurgelineError] = []
    running: dict[Future[None], str] = {}
    with ThreadPoolExecutor(max(1, len(waiting)), thread_name_prefix="stage") as threads:
        try:
            while waiting or running:
                ready = [name for name in waiting if done.issuperset(needs[name])]
                for name in ready:
                    running[threads.submit(run, waiting.pop(name))] = name
                if not running:
                    break
                at_work = [request for request in requests if request.name in running.values()]
                soon = [r for r in waiting.values() if done.union(running.values()).issuperset(needs[r.name])]
                foresee(at_work, soon)
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    name = running.pop(future)
                    try:
                        future.result()
                        done.add(name)
                    except SurgelineError as failure:
                        failures.append(failure)
        except BaseException:
            # A signal, or an error of Surgeline's own: what still runs is stopped, then all is closed.
            stop()
            raise
    foresee((), ())
    return failures
