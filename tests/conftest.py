"""What every test stands on: an empty home, one thread a process, and no test skipped where none may be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = [
    *("services.htcondor", "services.kubernetes", "services.postgresql", "services.s3", "services.slurm"),
    "workpoolsite",
]

# Before anything reads them: tests must not depend on the configuration of whoever runs them.
_HOME = tempfile.TemporaryDirectory(prefix="surgeline-test-home-", ignore_cleanup_errors=True)
os.environ["HOME"] = _HOME.name
os.environ["OMP_NUM_THREADS"] = "1"
for _name in [name for name in os.environ if name.startswith("SURGELINE__")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def casa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """CASA set up in the process of the tests themselves; gives the folder of its log."""
    from surgeline.work.casaprocess import CasaProcess

    folder = tmp_path_factory.mktemp("casa")
    CasaProcess(folder, folder / "casa.log").prepare()
    yield folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a workload manager are run apart from the others, and those of Kubernetes from these."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "kubernetes_programs" in fixtures:
            item.add_marker(pytest.mark.kubernetes)
        elif {"slurm_programs", "htcondor_programs"} & fixtures:
            item.add_marker(pytest.mark.cluster)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and os.environ.get("SURGELINE_NO_SKIPS"):
        terminalreporter.write_line(f"{len(skipped)} tests were skipped, and none may be here", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and reporter.stats.get("skipped") and os.environ.get("SURGELINE_NO_SKIPS"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
