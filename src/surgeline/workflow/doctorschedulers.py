"""Which schedulers are in reach of this machine, configured or not, as `surgeline doctor` finds them."""

from __future__ import annotations

import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from surgeline.clusters.commands import Commands
from surgeline.errors import ClusterError
from surgeline.workflow.finding import Finding

_SECONDS = 3.0
_IN_A_POD = "KUBERNETES_SERVICE_HOST"


def examine_schedulers() -> Iterator[Finding]:
    """Look for Slurm, HTCondor, Kubernetes and Prefect; each is asked whether it answers."""
    yield _by_command("Slurm", "sinfo", ("--noheader", "--format=%R"), "partitions", "slurm", "dask_jobqueue")
    told = ("-schedd", "-autoformat", "Name")
    yield _by_command("HTCondor", "condor_status", told, "schedulers", "htcondor", "dask_jobqueue")
    yield _kubernetes()
    yield _prefect()


def _by_command(
    what: str, command: str, arguments: tuple[str, ...], called: str, extra: str, package: str
) -> Finding:
    """A scheduler that a command of its own asks what it has."""
    if shutil.which(command) is None:
        return Finding(what, "not here", f"there is no {command} on the PATH; nor is it needed")
    try:
        answer = Commands((), os.environ).run(command, *arguments)
    except ClusterError as error:
        return Finding(what, "warning", error.message, error.way_out)
    if answer.returncode != 0:
        said = (answer.stderr.strip() or answer.stdout.strip()).partition("\n")[0]
        return Finding(
            what, "warning", f"{command} does not get an answer: {said}", "is the scheduler up, and this its machine?"
        )
    names = list(dict.fromkeys(answer.stdout.split()))
    return _with_package(what, f"answers; {called}: {', '.join(names) or 'none'}", extra, package)


def _kubernetes() -> Finding:
    what = "Kubernetes"
    try:
        server = _api_server()
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        return Finding(what, "warning", f"the kubeconfig cannot be used: {error}", "see: kubectl config view")
    if server is None:
        return Finding(what, "not here", "there is no kubeconfig; nor is it needed")
    parts = urlsplit(server)
    try:
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        socket.create_connection(address, timeout=_SECONDS).close()
    except OSError as error:
        return Finding(what, "warning", f"{server} does not answer: {error}", "see: kubectl cluster-info")
    return _with_package(what, f"{server} answers", "kubernetes", "dask_kubernetes")


def _api_server() -> str | None:
    """The API server of the current context, or of the pod that this process is in."""
    if _IN_A_POD in os.environ:
        return f"https://{os.environ[_IN_A_POD]}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    paths = [Path(name) for name in named if name] or [Path.home() / ".kube" / "config"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    import yaml

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML") from error
    context = next(one["context"] for one in content["contexts"] if one["name"] == content["current-context"])
    cluster = next(one["cluster"] for one in content["clusters"] if one["name"] == context["cluster"])
    return str(cluster["server"])


def _prefect() -> Finding:
    what = "Prefect"
    if find_spec("prefect") is None:
        return Finding(what, "not here", "not installed; nor is it needed")
    told = f"prefect {_version('prefect')}"
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding(what, "ok", f"{told}; sessions that want it start a server of their own")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_SECONDS):  # nosec B310  # what the user named
            return Finding(what, "ok", f"{told}; the server at {url} answers")
    except urllib.error.HTTPError as error:
        # Prefect Cloud wants to know who asks.
        return Finding(what, "ok", f"{told}; the server at {url} answers with status {error.code}")
    except (OSError, ValueError) as error:
        problem = f"{told}; the server at {url} (PREFECT_API_URL) does not answer: {error}"
        return Finding(what, "warning", problem, "start it: prefect server start; or unset PREFECT_API_URL")


def _with_package(what: str, found: str, extra: str, package: str) -> Finding:
    """A scheduler that is in reach: whether what Surgeline needs for it is installed."""
    if find_spec(package) is None:
        return Finding(what, "warning", f"{found}; not used without {package}", f"pip install 'surgeline[{extra}]'")
    return Finding(what, "ok", found)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of an unknown version"
