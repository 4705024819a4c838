from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from support import ordinary_user
from surgeline.context.datastate import (
    COLUMNS_CHANGED,
    columns_changed_by,
    cost,
    differences,
    drop,
    restore,
    save,
)
from surgeline.errors import BadInput, DataError, SurgelineError, WorkfolderError
from surgeline.simulate import Simulation, simulate
from surgeline.work.jobs import _CHANGES_VIS


def looks(path: Path) -> dict[str, object]:
    """All that can be seen of data and of the versions of their flags: contents, times, links, folders."""
    found: dict[str, object] = {}
    for root in (path, Path(f"{path}.flagversions")):
        for place in [root, *root.rglob("*")] if root.exists() else []:
            name = place.relative_to(path.parent).as_posix()
            if place.is_symlink():
                found[name] = str(place.readlink())
            elif place.is_file():
                found[name] = (place.read_bytes(), place.stat().st_mtime_ns)
            else:
                found[name] = "folder"
    return found


@contextmanager
def opened(path: Path | str, nomodify: bool = True) -> Iterator[object]:
    from casatools import table

    main = table()
    main.open(str(path), nomodify=nomodify)
    try:
        yield main
    finally:
        main.close()


def as_casa_sees(path: Path) -> dict[str, list[object]]:
    """Columns, rows and some content of an MS, as casatools reads them."""
    with opened(path) as main:
        seen = {"columns": sorted(main.colnames()), "flags": main.getcol("FLAG").ravel().tolist()}
    for subtable in ("HISTORY", "FLAG_CMD", "SOURCE"):
        with opened(path / subtable) as main:
            column = {"HISTORY": "MESSAGE", "FLAG_CMD": "COMMAND", "SOURCE": "NAME"}[subtable]
            seen[subtable] = [
                main.nrows(),
                sorted(main.colnames()),
                list(main.getcol(column)) if main.nrows() else [],
            ]
    return seen


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another file system than the data, so that no blocks can be shared with it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="surgeline-test-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def observation(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("observation")
    # Large enough that DATA are more than what the samples of a checksum cover.
    simulation = Simulation(antennas=10, channels=64, integration_seconds=20.0, noise_jy=0.05)
    simulate(folder / "vla.ms", simulation)
    from casatasks import gaincal
    from casatools import componentlist

    gaincal(str(folder / "vla.ms"), str(folder / "gains.G"), field="0", solint="inf", refant="ea01")
    components = componentlist()
    components.addcomponent(flux=1.0, fluxunit="Jy", dir="J2000 14h20m00 20d00m00", shape="point", freq="1.4GHz")
    components.rename(str(folder / "model.cl"))
    components.close()
    return folder / "vla.ms"


@pytest.fixture
def vis(observation: Path, tmp_path: Path) -> Path:
    """A copy of the observation, at a path that people do use."""
    path = tmp_path / "my data é" / "vla 1.ms"
    shutil.copytree(observation, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is no table, with one of everything that a folder may hold; written a long time ago."""
    path = tmp_path / "data" / "a folder"
    (path / "below" / "empty").mkdir(parents=True)
    (path / "below-").mkdir()
    (path / "large").write_bytes(os.urandom(3_000_000))
    (path / "below" / "größe 1").write_bytes(b"something")
    (path / "below-" / "nothing").write_bytes(b"")
    (path / "link").symlink_to("below/größe 1")
    for place in path.rglob("*"):
        os.utime(place, ns=(1_000_000_000_000_000_001, 1_000_000_000_000_000_001), follow_symlinks=False)
    return path


def spoil(path: Path) -> None:
    """Change a folder in every way there is."""
    (path / "large").write_bytes(os.urandom(3_000_000))
    shutil.rmtree(path / "below")
    (path / "below").write_bytes(b"a file where a folder was")
    (path / "below-" / "nothing").unlink()
    (path / "below-" / "nothing").mkdir()
    (path / "link").unlink()
    (path / "link").symlink_to("large")
    (path / "new" / "newer").mkdir(parents=True)
    (path / "new" / "newer" / "file").write_bytes(b"new")
    (path.with_name(f"{path.name}.flagversions")).mkdir()
    (path.with_name(f"{path.name}.flagversions") / "FLAG_VERSION_LIST").write_bytes(b"new")


def task(name: str, **arguments: object) -> Callable[[Path, Path], None]:
    def run(vis: Path, inputs: Path) -> None:
        import casatasks

        given = {key: str(inputs / value) if isinstance(value, Path) else value for key, value in arguments.items()}
        getattr(casatasks, name)(vis=str(vis), **given)

    return run


def flag_version_back(vis: Path, inputs: Path) -> None:
    task("flagmanager", mode="save", versionname="before")(vis, inputs)
    task("flagdata", antenna="ea04", flagbackup=False)(vis, inputs)
    task("flagmanager", mode="restore", versionname="before")(vis, inputs)


def imaged(savemodel: str) -> Callable[[Path, Path], None]:
    """Cleans a small image, and saves its model in one of tclean's two ways."""

    def change(vis: Path, _folder: Path) -> None:
        from casatasks import tclean

        with tempfile.TemporaryDirectory() as folder:
            arguments = {"imsize": 64, "cell": "60arcsec", "niter": 5, "savemodel": savemodel}
            tclean(vis=str(vis), imagename=f"{folder}/image", **arguments)

    return change


def shifted(vis: Path, inputs: Path) -> None:
    task("fixvis", outputvis=str(vis), field="TARGET", phasecenter="J2000 14h20m00 20d01m00")(vis, inputs)


CHANGES: dict[str, Callable[[Path, Path], None]] = {
    "flagdata": task("flagdata", antenna="ea03", savepars=True),
    "flagmanager": flag_version_back,
    "setjy usescratch": task("setjy", field="0", usescratch=True),
    "setjy": task("setjy", field="0", usescratch=False),
    "applycal": task("applycal", gaintable=Path("gains.G"), calwt=True),
    "clearcal": task("clearcal", addmodel=True),
    "delmod": task("delmod", scr=True, otf=True),
    "ft": task("ft", complist=Path("model.cl"), usescratch=True),
    "initweights": task("initweights", wtmode="nyq", dowtsp=True),
    "initweights again": task("initweights", wtmode="delwtsp"),
    "statwt": task("statwt", datacolumn="data"),
    "fixvis": shifted,
    "tclean modelcolumn": imaged("modelcolumn"),
    "tclean virtual": imaged("virtual"),
}


def test_every_task_that_changes_an_ms_is_known() -> None:
    assert COLUMNS_CHANGED.keys() == _CHANGES_VIS | {"tclean"}
    assert columns_changed_by(["setjy", "flagdata"]) == ("FLAG", "FLAG_ROW", "MODEL_DATA")
    assert columns_changed_by([]) == ()
    assert columns_changed_by(["flagdata", "split"]) is None


@pytest.mark.parametrize("change", CHANGES)
def test_what_each_task_changes_is_put_back_exactly(
    change: str, vis: Path, observation: Path, elsewhere: Path
) -> None:
    if change in ("delmod", "initweights again", "statwt"):
        # What these remove or change has to be there.
        CHANGES["setjy usescratch"](vis, observation.parent)
        CHANGES["initweights"](vis, observation.parent)
    before, seen = looks(vis), as_casa_sees(vis)
    state = save(str(vis), str(elsewhere / "state"), columns_changed_by([change.split()[0]]))
    assert state.method == "columns"
    CHANGES[change](vis, observation.parent)
    assert differences(state.folder)

    restore(state.folder)

    assert looks(vis) == before
    assert as_casa_sees(vis) == seen
    assert differences(state.folder) == []


@pytest.mark.parametrize("changes", [None, columns_changed_by(COLUMNS_CHANGED.keys() - {"fixvis"})])
def test_a_mixture_of_changes_is_put_back_exactly_and_can_be_made_again(
    changes: tuple[str, ...] | None, vis: Path, observation: Path, elsewhere: Path
) -> None:
    def mixture() -> dict[str, list[object]]:
        for change in ("flagdata", "setjy", "setjy usescratch", "applycal", "clearcal", "delmod"):
            CHANGES[change](vis, observation.parent)
        shutil.rmtree(elsewhere / "split.ms", ignore_errors=True)
        task("split", outputvis=str(elsewhere / "split.ms"), datacolumn="corrected")(vis, observation.parent)
        seen = as_casa_sees(vis)
        # When each message was written differs; how many there are does not.
        seen["HISTORY"].pop()
        return seen

    before, seen = looks(vis), as_casa_sees(vis)
    state = save(str(vis), str(elsewhere / "state"), changes)
    size = sum(place.stat().st_size for place in vis.rglob("*") if place.is_file())
    if changes is None:
        assert (state.method, state.bytes) == ("copy", size)
    else:
        assert state.method == "columns"
        assert state.bytes < size / 2
    assert state.bytes == cost(state.folder)
    outcome = mixture()
    for _ in range(2):
        restore(state.folder)
        assert looks(vis) == before
        assert as_casa_sees(vis) == seen
        assert mixture() == outcome


def test_flags_of_an_ms_behind_a_link_are_put_back_too(vis: Path, observation: Path, elsewhere: Path) -> None:
    link = vis.with_name("link.ms")
    link.symlink_to(vis.name)
    CHANGES["flagdata"](link, observation.parent)
    before = looks(vis)
    assert f"{vis.name}.flagversions" in before
    state = save(str(link), str(elsewhere / "state"), ("FLAG", "FLAG_ROW"))
    CHANGES["flagdata"](link, observation.parent)
    assert looks(vis) != before
    restore(state.folder)
    assert looks(vis) == before
    assert link.is_symlink()


def test_where_columns_are_computed_from_others_everything_is_kept(
    casa: Path, tmp_path: Path, elsewhere: Path
) -> None:
    from casatools import table

    def column(kind: str) -> dict[str, object]:
        return {"valueType": kind, "ndim": 1, "option": 0, "maxlen": 0, "comment": "", "keywords": {}}

    packing = {"SOURCENAME": "DATA", "TARGETNAME": "PACKED", "SCALE": 0.01, "OFFSET": 0.0, "AUTOSCALE": False}
    managers = {
        "*1": {"TYPE": "CompressComplex", "NAME": "DATA", "SEQNR": 0, "COLUMNS": ["DATA"], "SPEC": packing},
        "*2": {"TYPE": "StandardStMan", "NAME": "SSM", "SEQNR": 1, "COLUMNS": ["PACKED"], "SPEC": {}},
    }
    path, main = tmp_path / "packed.tab", table()
    main.create(str(path), {"DATA": column("complex"), "PACKED": column("int")}, dminfo=managers)
    main.addrows(3)
    main.putcol("DATA", np.ones((4, 3), complex))
    main.close()
    before = looks(path)
    state = save(str(path), str(elsewhere / "state"), ("DATA",))
    with opened(path, nomodify=False) as main:
        main.putcol("DATA", np.full((4, 3), 2 + 0j))
    restore(state.folder)
    assert looks(path) == before
    with opened(path) as main:
        assert main.getcol("DATA").ravel().tolist() == [1] * 12


def change_data(vis: Path) -> Path:
    """Change what was not said to change; gives the file that holds it."""
    with opened(vis, nomodify=False) as main:
        main.putcol("DATA", main.getcol("DATA") + 1)
    return vis / "table.f2_TSM1"


def cut_data(vis: Path) -> Path:
    os.truncate(vis / "table.f2_TSM1", 1000)
    return vis / "table.f2_TSM1"


def lose_data(vis: Path) -> Path:
    (vis / "table.f2_TSM1").unlink()
    return vis / "table.f2_TSM1"


@pytest.mark.parametrize(
    ("harm", "words"),
    [(change_data, "has other content"), (cut_data, "has 1000 bytes and had"), (lose_data, "is gone")],
)
def test_what_was_not_kept_and_changed_is_refused_before_anything_is_touched(
    harm: Callable[[Path], Path], words: str, vis: Path, observation: Path, elsewhere: Path
) -> None:
    state = save(str(vis), str(elsewhere / "state"), ("FLAG", "FLAG_ROW"))
    CHANGES["flagdata"](vis, observation.parent)
    file = harm(vis)
    before = looks(vis)
    with pytest.raises(DataError) as caught:
        restore(state.folder)
    assert f"{file} {words}" in caught.value.message
    assert "make the data again" in caught.value.way_out
    assert looks(vis) == before
    assert [line for line in differences(state.folder) if line.startswith(f"{file} {words}")]


def test_a_file_that_was_not_kept_and_only_touched_is_put_back_in_time(vis: Path, elsewhere: Path) -> None:
    before = looks(vis)
    state = save(str(vis), str(elsewhere / "state"), ())
    (vis / "table.f2_TSM1").touch()
    assert looks(vis) != before
    assert differences(state.folder) == []
    restored = restore(state.folder)
    assert looks(vis) == before
    assert not [name for name in restored.put_back if "table.f2" in name]


def test_data_that_vanished_are_made_whole_where_everything_was_kept(vis: Path, elsewhere: Path) -> None:
    before, seen = looks(vis), as_casa_sees(vis)
    whole = save(str(vis), str(elsewhere / "whole"), None)
    part = save(str(vis), str(elsewhere / "part"), ("FLAG",))
    shutil.rmtree(vis.parent)
    assert differences(whole.folder) == [f"{vis} is gone"]
    with pytest.raises(DataError, match="is gone, and not all of it was kept"):
        restore(part.folder)
    assert not vis.parent.exists()
    restore(whole.folder)
    assert looks(vis) == before
    assert as_casa_sees(vis) == seen


def test_a_calibration_table_is_put_back(observation: Path, tmp_path: Path, elsewhere: Path) -> None:
    path = tmp_path / "gains.G"
    shutil.copytree(observation.parent / "gains.G", path)
    before = looks(path)
    state = save(str(path), str(elsewhere / "state"), columns_changed_by(["flagdata"]))
    task("flagdata", antenna="ea03")(path, observation.parent)
    assert f"{path}.flagversions is new" in differences(state.folder)
    restored = restore(state.folder)
    assert restored.removed == ("gains.G.flagversions",)
    assert looks(path) == before


def test_no_casa_is_needed_to_put_an_ms_back(vis: Path, observation: Path, elsewhere: Path) -> None:
    before = looks(vis)
    state = save(str(vis), str(elsewhere / "state"), ("FLAG", "FLAG_ROW"))
    CHANGES["flagdata"](vis, observation.parent)
    code = (
        "import sys; from surgeline.context import datastate\n"
        "folder = sys.argv[1]; datastate.save(sys.argv[2], folder, None); datastate.differences(folder)\n"
        "datastate.restore(folder); datastate.cost(folder); datastate.drop(folder)\n"
        "print([name for name in sys.modules if name.startswith('casa')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, state.folder, str(vis)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert looks(vis) == before
    assert list(elsewhere.iterdir()) == []


def test_a_folder_is_put_back_whatever_became_of_it(folder: Path, elsewhere: Path) -> None:
    before = looks(folder)
    state = save(str(folder), str(elsewhere / "state"), ("DATA",))
    assert state.method == "copy"
    untouched = restore(state.folder)
    assert (untouched.put_back, untouched.removed) == ((), ())
    spoil(folder)
    assert differences(state.folder) == [
        f"{folder}/below is a file and was a folder",
        f"{folder}/below-/nothing is a folder and was a file",
        f"{folder}/large has other content",
        f"{folder}/link leads to large and led to below/größe 1",
        f"{folder}/new is new",
        f"{folder}.flagversions is new",
    ]
    restored = restore(state.folder)
    assert looks(folder) == before
    assert "a folder/large" in restored.put_back
    assert {"a folder/new", "a folder.flagversions"} <= set(restored.removed)
    assert differences(state.folder) == []
    again = restore(state.folder)
    assert (again.put_back, again.removed) == ((), ())


def test_a_file_is_put_back_even_when_its_time_does_not_show_that_it_changed(tmp_path: Path, elsewhere: Path) -> None:
    path = tmp_path / "plain.fits"
    path.write_bytes(b"before")
    before = looks(path)
    state = save(str(path), str(elsewhere / "state"), None)
    times = path.stat()
    path.write_bytes(b"after!")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert differences(state.folder) == [f"{path} has other content"]
    restored = restore(state.folder)
    assert restored.put_back == ("plain.fits",)
    assert looks(path) == before
    path.unlink()
    path.mkdir()
    (path / "file").touch()
    restore(state.folder)
    assert looks(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_replaced_files_leave_alone_whoever_has_them_open(folder: Path, elsewhere: Path) -> None:
    state = save(str(folder), str(elsewhere / "state"), None)
    (folder / "large").write_bytes(b"seen by who has it open")
    with (folder / "large").open("rb") as handle:
        restore(state.folder)
        assert handle.read() == b"seen by who has it open"


def test_the_state_before_an_interrupted_attempt_is_the_one_that_counts(folder: Path, elsewhere: Path) -> None:
    before = looks(folder)
    state = save(str(folder), str(elsewhere / "state"), None)
    spoil(folder)
    assert save(str(folder), str(elsewhere / "state"), ("FLAG",)) == state
    restore(state.folder)
    assert looks(folder) == before


def test_data_and_state_can_move_together(folder: Path, tmp_path: Path) -> None:
    before = looks(folder)
    save(str(folder), str(tmp_path / "data" / "states" / "1"), None)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / folder.name
    spoil(moved)
    assert restore(str(tmp_path / "moved" / "states" / "1")).path == str(moved)
    assert looks(moved) == before
    assert not folder.parent.exists()


# Kills a process at every one of its dealings with files in turn, and lets another one finish the work.
KILL_EVERYWHERE = """
import os, shutil, sys
from pathlib import Path
from surgeline.context.datastate import differences, drop, restore, save

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.utime", "os.chmod",
          "shutil.rmtree", "shutil.copyfile"}

def killed(moment, work):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        seen += event in EVENTS
        if seen == moment:
            os._exit(9)
    sys.addaudithook(hook)
    work()
    os._exit(0)

def become(path, other):
    for ending in ("", ".flagversions"):
        shutil.rmtree(f"{path}{ending}", ignore_errors=True)
        if Path(f"{other}{ending}").exists():
            shutil.copytree(f"{other}{ending}", f"{path}{ending}", symlinks=True)

act, step, path, original, spoiled, folder = sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:])
before = looks(path)
moment = 1
while True:
    if act == "save":
        going_on = killed(moment, lambda: save(str(path), str(folder), None))
        assert not folder.exists() or differences(str(folder)) == [], moment
        save(str(path), str(folder), None)
        become(path, spoiled)
        restore(str(folder))
        drop(str(folder))
        assert list(folder.parent.iterdir()) == [], moment
    else:
        become(path, spoiled)
        going_on = killed(moment, lambda: restore(str(folder)))
        restore(str(folder))
    assert looks(path) == before, moment
    assert not [name for name in os.listdir(path.parent) if name.endswith((".partial", ".restoring"))], moment
    if not going_on:
        break
    moment += step
print(moment)
"""


def kill_everywhere(act: str, step: int, path: Path, original: Path, spoiled: Path, folder: Path) -> int:
    script = f"from __future__ import annotations\nimport os\nfrom pathlib import Path\n{inspect.getsource(looks)}"
    places = [str(place) for place in (path, original, spoiled, folder)]
    done = subprocess.run(
        [sys.executable, "-c", script + KILL_EVERYWHERE, act, str(step), *places],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("act", ["save", "restore"])
def test_killed_anywhere_and_called_again_all_ends_well(
    act: str, folder: Path, tmp_path: Path, elsewhere: Path
) -> None:
    original, spoiled = tmp_path / "original", tmp_path / "spoiled"
    shutil.copytree(folder, original, symlinks=True)
    shutil.copytree(folder, spoiled, symlinks=True)
    spoil(spoiled)
    if act == "restore":
        save(str(folder), str(elsewhere / "state"), None)
    assert kill_everywhere(act, 1, folder, original, spoiled, elsewhere / "state") > 30


def test_an_ms_whose_restoring_was_killed_is_put_back_exactly(
    vis: Path, observation: Path, tmp_path: Path, elsewhere: Path
) -> None:
    spoiled = tmp_path / "spoiled.ms"
    shutil.copytree(vis, spoiled)
    for change in ("flagdata", "setjy usescratch"):
        CHANGES[change](spoiled, observation.parent)
    save(str(vis), str(elsewhere / "state"), columns_changed_by(["flagdata", "setjy"]))
    # The columns that were not kept stay as they are when the MS becomes its spoiled copy.
    for file in ("table.f2", "table.f2_TSM1"):
        shutil.copy2(vis / file, spoiled / file)
    assert kill_everywhere("restore", 17, vis, observation, spoiled, elsewhere / "state") > 50


@contextmanager
def mounted(where: Path, *arguments: str | Path) -> Iterator[Path]:
    """A file system of its own at a folder."""
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    where.mkdir()
    try:
        subprocess.run([*as_root, "mount", *arguments, where], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems can only be mounted by root: {error}")
    try:
        subprocess.run([*as_root, "chmod", "777", where], check=True)
        yield where
    finally:
        subprocess.run([*as_root, "umount", "--lazy", where], check=True)


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    """A file system whose files can share blocks."""
    makers = {"mkfs.xfs": ["-q", "-m", "reflink=1"], "mkfs.btrfs": ["-q"]}
    found = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in makers}
    name = next((name for name in makers if found[name]), None)
    if name is None:
        pytest.skip("needs mkfs.xfs or mkfs.btrfs: apt-get install xfsprogs")
    disk = tmp_path / "disk"
    with disk.open("wb") as handle:
        handle.truncate(320_000_000)
    subprocess.run([str(found[name]), *makers[name], disk], capture_output=True, check=True)
    with mounted(tmp_path / "sharing", "-o", "loop", disk) as place:
        yield place


@pytest.mark.parametrize("changes", [None, ("FLAG", "FLAG_ROW")])
def test_where_blocks_can_be_shared_everything_is_kept_at_no_cost(
    changes: tuple[str, ...] | None, sharing: Path, observation: Path
) -> None:
    vis = sharing / "vla.ms"
    shutil.copytree(observation, vis)
    before, seen = looks(vis), as_casa_sees(vis)
    os.sync()
    free = shutil.disk_usage(sharing).free

    state = save(str(vis), str(sharing / "state"), changes)

    os.sync()
    assert (state.method, state.bytes, cost(state.folder)) == ("reflink", 0, 0)
    size = sum(place.stat().st_size for place in vis.rglob("*") if place.is_file())
    assert free - shutil.disk_usage(sharing).free < size / 4
    for change in CHANGES.values():
        change(vis, observation.parent)
    restore(state.folder)
    assert looks(vis) == before
    assert as_casa_sees(vis) == seen
    shutil.rmtree(vis)
    restore(state.folder)
    assert looks(vis) == before


def test_a_disk_that_is_too_small_is_told_before_it_is_filled(folder: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as small:
        with pytest.raises(WorkfolderError, match=r"a state takes 3\.0 MB, and .*small has 1\.0 MB"):
            save(str(folder), str(small / "state"), None)
        assert list(small.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_told(folder: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=9m,nr_inodes=7", "tmpfs") as small:
        with pytest.raises(WorkfolderError, match="No space left on device") as caught:
            save(str(folder), str(small / "state"), None)
        assert str(folder) in caught.value.message
        assert caught.value.way_out
        assert list(small.iterdir()) == []


def test_a_full_disk_under_the_data_is_told_and_space_is_all_that_it_takes(tmp_path: Path, elsewhere: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as small:
        path = small / "data"
        path.mkdir()
        (path / "large").write_bytes(bytes(400_000))
        before = looks(path)
        state = save(str(path), str(elsewhere / "state"), None)
        (path / "large").write_bytes(b"short")
        (small / "filling").write_bytes(bytes(900_000))
        with pytest.raises(WorkfolderError, match="No space left on device"):
            restore(state.folder)
        assert sorted(place.name for place in small.iterdir()) == ["data", "filling"]
        (small / "filling").unlink()
        restore(state.folder)
        assert looks(path) == before


@pytest.fixture
def public(elsewhere: Path) -> Path:
    """A folder that everybody may read, and only its owner write to."""
    elsewhere.chmod(0o755)
    (elsewhere / "writable").mkdir()
    (elsewhere / "writable").chmod(0o777)
    return elsewhere


def test_a_folder_that_cannot_be_written_is_told(folder: Path, public: Path) -> None:
    shutil.copytree(folder, public / "data", symlinks=True)
    public.chmod(0o555)
    with ordinary_user(), pytest.raises(WorkfolderError, match="Permission denied") as caught:
        save(str(public / "data"), str(public / "state"), None)
    assert str(public / "state") in caught.value.message


def test_what_can_only_be_read_can_be_saved_and_is_left_alone_while_it_is_unchanged(
    folder: Path, public: Path
) -> None:
    path, state = public / "data", public / "writable" / "state"
    shutil.copytree(folder, path, symlinks=True)
    for place in [path, *path.rglob("*")]:
        if not place.is_symlink():
            place.chmod(0o555 if place.is_dir() else 0o444)
    before = looks(path)
    with ordinary_user():
        save(str(path), str(state), None)
        restore(str(state))
    (path / "large").chmod(0o644)
    (path / "large").write_bytes(b"changed")
    public.chmod(0o555)
    with ordinary_user(), pytest.raises(WorkfolderError, match="Permission denied") as caught:
        restore(str(state))
    assert f"{path} cannot be put back as it was" in caught.value.message
    for place in (public, path):
        place.chmod(0o755)
    restore(str(state))
    assert looks(path) == before
    with ordinary_user():
        drop(str(state))
    assert not state.exists()


def leads_out(folder: Path) -> None:
    (folder / "out").symlink_to("/etc/hostname")


def is_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def is_gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (leads_out, "a folder/out is a link that leads out of"),
        (is_a_pipe, "a folder/pipe is neither a file nor a folder nor a link"),
        (is_gone, "a folder does not exist"),
    ],
)
def test_what_cannot_be_saved_is_named(
    make: Callable[[Path], None], words: str, folder: Path, elsewhere: Path
) -> None:
    make(folder)
    with pytest.raises(DataError, match=words) as caught:
        save(str(folder), str(elsewhere / "state"), None)
    assert caught.value.way_out
    assert list(elsewhere.iterdir()) == []


def test_data_that_are_written_while_they_are_saved_are_refused(
    folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def copy_late(source: Path, target: Path) -> None:
        copy(source, target)
        if source.name == "large":
            source.write_bytes(b"written meanwhile")

    monkeypatch.setattr(shutil, "copyfile", copy_late)
    with pytest.raises(DataError, match="large was changed while it was being saved"):
        save(str(folder), str(elsewhere / "state"), None)
    assert list(elsewhere.iterdir()) == []


def test_what_is_no_table_is_named(casa: Path, tmp_path: Path, elsewhere: Path) -> None:
    path = tmp_path / "broken.ms"
    path.mkdir()
    (path / "table.dat").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"broken\.ms cannot be opened as a table"):
        save(str(path), str(elsewhere / "state"), ("FLAG",))


def test_a_saved_state_that_is_damaged_is_not_used(folder: Path, elsewhere: Path) -> None:
    state = save(str(folder), str(elsewhere / "state"), None)
    spoil(folder)
    spoiled = looks(folder)
    (elsewhere / "state" / "data" / "large").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"a folder/large .* copy .*state/data/large is damaged"):
        restore(state.folder)
    assert looks(folder) == spoiled
    manifest = elsewhere / "state" / "state.json"
    for content in ("", "[]", json.dumps({"trees": {}})):
        manifest.write_text(content)
        for use in (restore, differences, cost):
            with pytest.raises(DataError, match=r"the saved state .*state cannot be read"):
                use(state.folder)
    drop(state.folder)
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_is_something_else_is_left_alone(folder: Path, elsewhere: Path) -> None:
    other = elsewhere / "mine"
    other.mkdir()
    (other / "thesis.tex").touch()
    acts: list[Callable[[], object]] = [
        lambda: save(str(folder), str(other), None),
        lambda: restore(str(other)),
        lambda: differences(str(other)),
        lambda: cost(str(other)),
        lambda: drop(str(other)),
    ]
    for act in acts:
        with pytest.raises(SurgelineError, match="mine"):
            act()
    assert (other / "thesis.tex").exists()
    state = save(str(folder), str(elsewhere / "state"), None)
    with pytest.raises(WorkfolderError, match=r"holds the state of .*a folder, not of"):
        save(str(other), state.folder, None)
    with pytest.raises(BadInput, match="lies within"):
        save(str(folder), str(folder / "state"), None)
    drop(state.folder)
    drop(state.folder)
    assert list(elsewhere.iterdir()) == [other]
