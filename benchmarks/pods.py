"""What workers that are pods cost, on a private Kubernetes of one node on this machine; needs root.

- from nothing to the first result: with the scheduler's pod, and with a scheduler that is there;
- above what Kubernetes itself takes for a pod of the same image that does nothing;
- from the last result to no worker, when nothing more comes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import cloudpickle

from report import ROOT, report
from surgeline import FunctionCall, TaskQueue
from surgeline.config import load
from surgeline.parallel.backend import Backends
from surgeline.parallel.foresight import NOTHING_MORE

sys.path.append(str(ROOT / "tests"))
from services.kubernetes import WORKER_IMAGE, Kubernetes
from services.kubernetes.image import layers
from services.kubernetes.programs import programs_of_kubernetes

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def nothing() -> None:
    """A job that does nothing."""


def tick(service: Kubernetes) -> float:
    """Seconds from asking for a pod that does nothing to its end."""
    began = time.time()
    service.run("kubectl", "run", "tick", f"--image={WORKER_IMAGE}", "--restart=Never", "--command", "--", "true")
    while service.pod_phase("tick") != "Succeeded":
        time.sleep(0.02)
    return time.time() - began


def first_results(folder: Path) -> dict[str, float]:
    """The figures, from a cluster whose node has the image already."""
    settings = [
        *("type=kubernetes", f"image={WORKER_IMAGE}", "memory=1GB", "poll=0.5", "shared_filesystem=false"),
        "pod_template={spec: {containers: [{name: worker, resources: {requests: {cpu: 100m}}}]}}",
    ]
    configuration = load(overrides=[f"clusters.pods.{text}" for text in settings])
    with Backends(configuration, folder, folder / "logs") as backends:

        def result() -> float:
            began = time.time()
            with TaskQueue(backends.get("pods")) as queue:
                queue.add(FunctionCall(nothing))
                for outcome in queue.get_results():
                    outcome.result()
            return time.time() - began

        def until_none_is_left() -> float:
            began = time.time()
            while any(berth.alive for berth in backends.surging["pods"].fleet.berths()):
                time.sleep(0.02)
            return time.time() - began

        from_nothing = result()
        backends.surging["pods"].foresee(NOTHING_MORE)
        down = until_none_is_left()
        again = result()
    return {
        "pods: nothing to first result, seconds": from_nothing,
        "pods: the same with a scheduler that is there, seconds": again,
        "pods: last result to no worker asked for, seconds": down,
    }


def pod_figures(folder: Path) -> dict[str, float]:
    """All figures."""
    service = Kubernetes(programs_of_kubernetes(), layers())
    before = dict(os.environ)
    try:
        service.start()
        service.start_operator()
        service.use_namespace("bench")
        os.environ.update(service.environment())
        return {"pods: one that does nothing, seconds": tick(service), **first_results(folder)}
    finally:
        os.environ.clear()
        os.environ.update(before)
        service.remove()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="surgeline-pods-") as scratch:
        report(pod_figures(Path(scratch)), "pods")
