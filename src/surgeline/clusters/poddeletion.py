"""Deletes all that a session has made in Kubernetes: run as `python -m surgeline.clusters.poddeletion NAME`."""

from __future__ import annotations

import argparse

from surgeline.clusters.kubernetesapi import SESSION_LABEL, KubernetesApi
from surgeline.errors import ClusterError


def main() -> None:
    """Delete the session's DaskCluster; all else belongs to it, and goes with it."""
    parser = argparse.ArgumentParser(prog="python -m surgeline.clusters.poddeletion", description=__doc__)
    parser.add_argument("name", help="the name of the session's resources, such as surgeline-1a2b3c4d")
    parser.add_argument("--namespace")
    parser.add_argument("--context")
    asked = parser.parse_args()
    try:
        delete(KubernetesApi(asked.context, asked.namespace), asked.name)
    except ClusterError as error:
        raise SystemExit(str(error)) from error


def delete(api: KubernetesApi, name: str) -> None:
    """Delete a session's DaskCluster, and worker groups that the operator has not made its own yet.

    Raises:
        ClusterError: the server refuses, in its own words, or does not answer.
    """
    api.delete("DaskCluster", name)
    for group in api.listed("DaskWorkerGroup", f"{SESSION_LABEL}={name}"):
        api.delete("DaskWorkerGroup", group["metadata"]["name"])


if __name__ == "__main__":
    main()
