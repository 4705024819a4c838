"""Names that mean harm, through whole sessions on real data: of MSs, fields, antennas, windows, observers, columns
and working folders. Nothing of them is run, nothing is written elsewhere, and the right data are reduced."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from badinput.hostile import NAMES, assert_told, examples, texts
from support import surgeline
from surgeline.context.records import Field, Observation, Scan
from surgeline.errors import DataError, RecipeError, SurgelineError, WorkfolderError
from surgeline.paths import safe_name
from surgeline.report.script import commands_script
from surgeline.stages.pointings import field_stem
from surgeline.stages.roles import find_roles
from surgeline.work.casapaths import UNQUOTED, check_folder, check_names
from surgeline.work.casasignature import task_names
from surgeline.work.jobs import JobRequest
from surgeline.workflow import recipe

_HARM = "a b'\"$(touch pwned);é\n<script>alert(1)</script>[/x]../.."
# Two that look like numbers of other fields, or parts of a page.
_FIELDS = ["2~1;\"x' 3C286", "<script>alert(1)</script>0", " é 0~1"]
_WRITE = """
import json, sys
from pathlib import Path
from surgeline.work.casaprocess import CasaProcess
CasaProcess(Path.cwd(), Path("casa.log")).prepare()
from casatools import table
ms, fields, harm = json.loads(sys.argv[1])
def put(name, column, values):
    tool = table()
    tool.open(f"{ms}/{name}", nomodify=False)
    tool.putcol(column, values)
    tool.close()
put("FIELD", "NAME", fields)
put("OBSERVATION", "OBSERVER", [harm * 3])
put("OBSERVATION", "PROJECT", ["../../" + harm])
put("ANTENNA", "NAME", ["1", "0", "a;b'\\"", "3&*", "ea05"])
put("ANTENNA", "STATION", [harm + str(number) for number in range(5)])
put("SPECTRAL_WINDOW", "NAME", ["0:3~4;" + harm])
tool = table()
tool.open(ms, nomodify=False)
column = {"valueType": "double", "dataManagerType": "StandardStMan", "option": 0, "comment": harm}
tool.addcols({"../" + harm: column})
tool.close()
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The working folder of a session on an MS in which every name means harm, and how it went."""
    folder = tmp_path_factory.mktemp("names")
    ms = folder / "a b'\"$(touch pwned);é\n.ms"
    asked = ("--antennas", "5", "--channels", "6", "--target-scans", "1")
    made = surgeline("simulate", folder / "plain.ms", *asked)
    assert made.returncode == 0, made.stderr
    shutil.move(folder / "plain.ms", ms)
    written = [sys.executable, "-c", _WRITE, json.dumps([str(ms), _FIELDS, _HARM])]
    # In a folder where CASA can work.
    subprocess.run(written, cwd=folder, check=True, capture_output=True)
    workdir = folder / "-rf `touch pwned`;é *?{a,b} [x] \\" / "-w"
    run = surgeline("run", "calimage", "--vis", ms, "--workdir", workdir, "--set", "backend=serial")
    return workdir, run


def test_a_session_runs_to_its_end_and_runs_nothing_else(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    workdir, run = ran
    assert run.returncode == 0, run.stdout + run.stderr
    # Nothing of a path is taken for markup.
    assert str(workdir / "weblog" / "index.html") in run.stdout
    assert not list(workdir.parent.parent.rglob("pwned"))
    beside = {path.name for path in workdir.parent.parent.iterdir()} - {"casa.log"}
    assert beside == {"plain.ms.truth.json", "a b'\"$(touch pwned);é\n.ms", workdir.parent.name}
    assert [path.name for path in workdir.parent.iterdir()] == [workdir.name]
    assert sorted(path.name for path in (workdir / "data").iterdir() if path.suffix == ".ms") == [
        "a_b_touch_pwned.0_1.ms",
        "a_b_touch_pwned.ms",
    ]


def test_the_field_that_is_imaged_is_the_target(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    workdir, _ = ran
    (product,) = (workdir / "products").glob("*.fits")
    header = fits.getheader(product)
    assert header["OBJECT"] == "? 0~1".rjust(6)
    # Where the simulated target is.
    assert header["CRVAL1"] == pytest.approx(215.0) and header["CRVAL2"] == pytest.approx(20.0)
    assert header["OBSERVER"].startswith("a b'\"$(touch pwned);??")


def test_pages_show_names_as_text(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    workdir, _ = ran
    pages = {path: path.read_text() for path in (workdir / "weblog").rglob("*.html")}
    assert not [path for path, text in pages.items() if "<script>alert" in text]
    assert any("&lt;script&gt;alert(1)&lt;/script&gt;" in text for text in pages.values())


def test_the_script_names_the_same_files(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    workdir, _ = ran
    tree = ast.parse((workdir / "weblog" / "commands.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert str(workdir.parent.parent / "a b'\"$(touch pwned);é\n.ms") in words
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert calls <= {"os.makedirs", "shutil.copytree", *task_names()}


@pytest.mark.parametrize("name", ["it's", 'a"b', "$HOME", "a\nb", "a\udcffb"])
def test_a_folder_that_casa_would_take_for_a_command_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    ran = surgeline("run", "calimage", "--vis", tmp_path / "none.ms", "--workdir", tmp_path / "real" / name)
    assert ran.returncode == 6 and "CASA cannot work in" in ran.stderr, ran.stderr
    assert not list((tmp_path / "real").iterdir())
    # Nor by a link to it.
    hidden = tmp_path / "it's"
    hidden.mkdir()
    (tmp_path / "link").symlink_to(hidden)
    with pytest.raises(WorkfolderError):
        check_folder(tmp_path / "link")


def test_tasks_are_given_no_name_that_would_be_a_command() -> None:
    for name in ("a'b.ms", 'a"b.ms', "$HOME.ms", "a\nb.ms"):
        with pytest.raises(DataError, match="part of a command"):
            JobRequest("split", {"vis": name, "outputvis": "b.ms"})
    with pytest.raises(DataError, match="part of a command"):
        JobRequest("importfits", {"fitsimage": "a.fits", "imagename": "b; touch pwned"})
    JobRequest("split", {"vis": "a b;c.ms", "outputvis": "é.ms"})
    assert task_names() >= UNQUOTED


@examples(100)
@given(st.sampled_from(["split", "importfits", "tclean"]), texts())
def test_any_name_is_letters_to_a_shell_or_refused(task: str, name: str) -> None:
    try:
        check_names(task, [name])
    except DataError as error:
        assert_told(error)
        return
    quoted = name if task in UNQUOTED else f"'{name}'"
    said = subprocess.run(["sh", "-c", f"printf '%s\\n' {quoted}"], capture_output=True, text=True, timeout=10)
    assert said.stdout == f"{name}\n"


@examples(200)
@given(st.lists(texts(), min_size=2, max_size=6))
def test_files_of_different_fields_are_different(names: list[str]) -> None:
    fields = tuple(Field(id=number, name=_text(name), ra=0, dec=0) for number, name in enumerate(names))
    observation = _observation(fields)
    stems = [field_stem(observation, number) for number in range(len(names))]
    assert len(set(stems)) == len(stems)
    for stem in stems:
        path = Path("/w/images") / f"{stem}.image"
        assert path.resolve().parent == Path("/w/images") and len(path.name.encode()) < 150
        check_names("importfits", [stem])
    assert all(safe_name(safe_name(name)) == safe_name(name) for name in names)


@examples(100)
@given(st.lists(texts(), min_size=4, max_size=6, unique_by=lambda name: _text(name)), st.integers(0, 3))
def test_a_field_is_found_by_its_own_name(names: list[str], chosen: int) -> None:
    fields = tuple(Field(id=100 + number, name=_text(name), ra=0, dec=0) for number, name in enumerate(names))
    roles = find_roles(_observation(fields), (fields[chosen].name,), ("101",), ("102",), ("103",))
    assert roles.flux == (fields[chosen].id,)
    assert roles.target == (103,)


@examples(60)
@given(texts().filter(bool), texts().filter(bool))
def test_the_script_of_any_names_is_python(stage: str, vis: str) -> None:
    call = f"split(vis={vis!r}, outputvis={stage!r})"
    job = {"state": "finished", "commands": [call, stage]}
    record = {"stages": [{"name": stage, "state": "finished", "jobs": [job]}], "recipe": {"name": vis, "vis": [vis]}}

    class Nothing:
        def all(self, *_: object, **__: object) -> list[object]:
            return []

    script = commands_script(record, Nothing())  # type: ignore[arg-type]
    words = [node.value for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Constant)]
    assert vis in words or vis == stage


@pytest.mark.parametrize("other", ["a_b", "a/b", "a  b"])
def test_stages_whose_files_would_have_the_same_names_are_refused(other: str) -> None:
    stages = [{"task": "gaincal", "name": "a b"}, {"task": "gaincal", "name": other}]
    with pytest.raises(RecipeError, match="same name"):
        recipe.parse({"name": "x", "stages": stages}, "x")


def test_every_name_is_told_as_wrong_without_harm() -> None:
    for name in NAMES:
        try:
            recipe.load(name, (name,))
        except SurgelineError as error:
            assert_told(error)


def _text(name: str) -> str:
    """What is text of a name; facts have no other."""
    return name.encode(errors="replace").decode()


def _observation(fields: tuple[Field, ...]) -> Observation:
    scan = Scan(number=1, fields=tuple(field.id for field in fields), spectral_windows=(), start=0, end=1)
    return Observation(
        vis="data/my.ms", origin="/my.ms", telescope="VLA", observer="", project="", start=0, end=1, rows=1, size=1,
        longest_baseline=1.0, fields=fields, spectral_windows=(), scans=(scan,), antennas=(),
    )  # fmt: skip
