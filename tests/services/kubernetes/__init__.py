"""A private Kubernetes for the tests: all on this machine, in one temporary folder, gone when they end.

Debian has no daemons of Kubernetes', so they are built from its source package into a cache folder
(SURGELINE_TEST_CACHE, else ~/.cache/surgeline-tests), which also has the large part of the worker image.
`python -m services.kubernetes` puts both there.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kubernetes.cluster import Kubernetes, need_what_it_takes
from services.kubernetes.image import WORKER_IMAGE, layers
from services.kubernetes.programs import programs_of_kubernetes
from services.packages import FetchFailed

__all__ = ["WORKER_IMAGE", "Kubernetes", "kubernetes", "kubernetes_cluster", "kubernetes_programs"]


@pytest.fixture(scope="session")
def kubernetes_programs() -> tuple[Path, list[Path]]:
    """The folder of Kubernetes' programs, and those of the worker image's layers."""
    try:
        need_what_it_takes()
        return programs_of_kubernetes(), layers()
    except FetchFailed as error:
        pytest.skip(f"Kubernetes cannot run here: {error}")


@pytest.fixture(scope="session")
def kubernetes_cluster(kubernetes_programs: tuple[Path, list[Path]]) -> Iterator[Kubernetes]:
    """A running cluster of one node with two GPUs, one for all tests of a process."""
    cluster = Kubernetes(*kubernetes_programs)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def kubernetes(kubernetes_cluster: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    """That cluster, found by kubectl and others while a test runs, in a namespace that is the test's own."""
    kubernetes_cluster.is_found(monkeypatch)
    namespace = f"test-{secrets.token_hex(4)}"
    kubernetes_cluster.use_namespace(namespace)
    yield kubernetes_cluster
    kubernetes_cluster.tidy(namespace)
