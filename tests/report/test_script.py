from __future__ import annotations

from collections.abc import Iterator

import pytest

from report.reported import START, a_job, a_record, a_stage, facts_of_images
from surgeline.context.records import Command
from surgeline.context.store import Context
from surgeline.report.script import commands_script, without_defaults


@pytest.fixture
def context() -> Iterator[Context]:
    known = Context(None)
    yield known
    known.close()


def test_the_script_compiles_and_leaves_defaults_out(context: Context) -> None:
    context.commit("export", facts_of_images())
    script = commands_script(a_record(), context)
    compile(script, "commands.py", "exec")
    assert "from casatasks import exportfits, gaincal" in script
    assert "# Stage gaincal\ngaincal(\n    vis='data/ngc5921.ms',\n" in script
    assert "solint='int'" in script and "calmode='p'" in script
    for default in ("minsnr", "selectdata", "gaintable", "parang", "gaintype", "optical", "overwrite"):
        assert default not in script
    # A Command is what a stage says of itself.
    assert "velocity=True" in script


def test_the_script_has_finished_stages_only(context: Context) -> None:
    failed = a_job("a", START, 1.0, 0, state="failed", commands=["flagdata( vis='a.ms', mode='clip' )"])
    well = a_job("b", START, 1.0, 0, commands=["flagdata( vis='b.ms', mode='clip' )"])
    stages = [
        a_stage("first", jobs=[failed, well], started=START, ended=START + 1),
        a_stage("second", "failed", jobs=[a_job("c", START, 1.0, 0, commands=["listobs( vis='c.ms' )"])]),
    ]
    script = commands_script(a_record(stages=stages), context)
    assert "b.ms" in script and "a.ms" not in script and "c.ms" not in script


def test_the_script_of_tasks_of_the_casa_pipeline_is_for_reading(context: Context) -> None:
    jobs = [a_job("a", START, 1.0, 0, commands=["flagdata( vis='a.ms', mode='clip' )", "plotms( vis='a.ms' )"])]
    script = commands_script(a_record(stages=[a_stage("hifv_flagdata", task="casa_pipeline", jobs=jobs)]), context)
    compile(script, "commands.py", "exec")
    assert "from casatasks import flagdata\nfrom casaplotms import plotms" in script.replace("\n\n", "\n")
    assert "For reading" in script and "Run it" not in script


def test_text_that_is_no_python_is_a_comment(context: Context) -> None:
    context.commit("odd", [Command(stage="odd", text="tclean( vis=<unreadable>\nimport os )")])
    script = commands_script(a_record(stages=[a_stage("odd\nimport sys")]), context)
    compile(script, "commands.py", "exec")
    assert "import sys" not in [line.strip() for line in script.splitlines()]
    context.commit("odd", [Command(stage="odd", text="shutil.copytree('a.ms', 'data/a.ms')")])
    context.commit("odd", [Command(stage="odd", text="tclean( vis=<unreadable>\nimport os )")])
    script = commands_script(a_record(stages=[a_stage("odd")]), context)
    compile(script, "commands.py", "exec")
    assert "import shutil" in script
    assert "# not valid Python: tclean( vis=<unreadable>" in script


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("split(vis='a', outputvis='b', keepflags=True)", "split(vis='a', outputvis='b')"),
        # True is not 1, and 0.1 is not the default 0.0 of a threshold
        ("tclean(wprojplanes=True, threshold=0.1)", "tclean(wprojplanes=True, threshold=0.1)"),
        ("unknowntask(vis='')", "unknowntask(vis='')"),
        ("a = 1", "a = 1"),
    ],
)
def test_defaults_are_left_out(call: str, expected: str) -> None:
    assert without_defaults(call) == expected
