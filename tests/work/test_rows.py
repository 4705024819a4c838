"""Copies of selected rows, made with CASA."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgeline.work.rows import NO_COPY, copy_rows


@pytest.fixture(scope="module")
def vis(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three fields and two spectral windows; of one field the model is in keywords, and one antenna is flagged."""
    from casatasks import flagdata, setjy

    from surgeline.simulate import Simulation, simulate

    path = tmp_path_factory.mktemp("rows") / "simulated.ms"
    simulate(path, Simulation(antennas=6, channels=16, spectral_windows=2, target_scans=1, seed=4))
    setjy(str(path), field="1", standard="manual", fluxdensity=[3, 0, 0, 0], usescratch=False)
    flagdata(str(path), antenna="ea03", scan="2", flagbackup=False)
    return path


def columns(path: Path, query: str) -> dict[str, Any]:
    from casatools import table

    with closing(table()) as whole:
        whole.open(str(path))
        with closing(whole.query(query)) as rows:
            return {name: rows.getvarcol(name) for name in whole.colnames()}


def keywords(path: Path) -> dict[str, Any]:
    from casatools import table

    with closing(table()) as whole:
        whole.open(str(path))
        return {name: value for name, value in whole.getkeywords().items() if "Table: " not in str(value)}


def files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "table.lock"
    }


def test_rows_numbers_keywords_and_subtables_are_those_of_the_whole(vis: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ms"
    assert copy_rows(str(vis), str(copy), "1", "1:4~8")
    chosen, copied = columns(vis, "FIELD_ID==1 && DATA_DESC_ID==1"), columns(copy, "TRUE")
    assert copied.keys() == chosen.keys() and len(copied["TIME"]) > 0
    for name, rows in chosen.items():
        assert rows.keys() == copied[name].keys()
        assert all(np.array_equal(value, copied[name][row]) for row, value in rows.items()), name
    assert repr(keywords(copy)) == repr(keywords(vis))
    whole, part = files(vis), files(copy)
    assert {name for name in whole if "/" in name} == {name for name in part if "/" in name}
    assert all(part[name] == content for name, content in whole.items() if "/" in name)
    assert sum(map(len, part.values())) < sum(map(len, whole.values()))


def test_two_copies_have_the_same_bytes(vis: Path, tmp_path: Path) -> None:
    for name in ("one.ms", "other.ms"):
        copy_rows(str(vis), str(tmp_path / name), "0", "")
    assert files(tmp_path / "one.ms") == files(tmp_path / "other.ms")


@pytest.mark.parametrize(("field", "spw"), [("no such field", ""), ("", "7"), ("0~2", ""), ("2", "")])
def test_what_matches_nothing_or_most_of_it_is_not_copied(vis: Path, tmp_path: Path, field: str, spw: str) -> None:
    assert not copy_rows(str(vis), str(tmp_path / "copy.ms"), field, spw)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_a_sorted_table_refers_to_are_not_copied(vis: Path, tmp_path: Path) -> None:
    from casatools import table

    path = tmp_path / "sorted.ms"
    shutil.copytree(vis, path)
    with closing(table()) as whole:
        whole.open(str(path), nomodify=False)
        whole.query("TRUE", sortlist="TIME", name=str(path / "SORTED_TABLE")).close()
        whole.putkeyword("SORTED_TABLE", f"Table: {path / 'SORTED_TABLE'}")
    assert not copy_rows(str(path), str(tmp_path / "copy.ms"), "0", "")


@pytest.mark.parametrize(("field", "code"), [("0", 0), ("2", NO_COPY)])
def test_the_process_says_whether_there_is_a_copy(vis: Path, tmp_path: Path, field: str, code: int) -> None:
    command = [sys.executable, "-m", "surgeline.work.rows", vis, tmp_path / "copy.ms", field, ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(120) == code
    assert (tmp_path / "copy.ms").exists() == (code == 0)


def test_the_process_ends_with_the_one_that_wanted_it(vis: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "surgeline.work.rows", vis, tmp_path / "copy.ms", "0", ""]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=120).returncode == 1
    assert not (tmp_path / "copy.ms").exists()
