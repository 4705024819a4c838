"""Procedures and processing requests of the CASA Pipeline, as they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeline.adopt.procedures import Command, load, value_of
from surgeline.errors import BadInput

PROCEDURE = """<ProcessingProcedure>
  <!-- of the Pipeline's own kind -->
  <ProcedureTitle>hifv_short</ProcedureTitle>
  <ProcessingCommand>
    <Command xmlns="">hifv_importdata</Command>
    <ParameterSet/>
  </ProcessingCommand>
  <ProcessingCommand><Command>breakpoint</Command><ParameterSet/></ProcessingCommand>
  <ProcessingCommand>
    <Command>hif_makeimlist</Command>
    <ParameterSet>
      <Parameter><Keyword xmlns="">specmode</Keyword><Value xmlns="">cont</Value></Parameter>
      <Parameter><Keyword>robust</Keyword><Value>0.5</Value></Parameter>
      <Parameter><Keyword>field</Keyword><Value></Value></Parameter>
    </ParameterSet>
  </ProcessingCommand>
</ProcessingProcedure>
"""

REQUEST = """<?xml version="1.0" encoding="UTF-8"?>
<SciPipeRequest xmlns="Alma/pipelinescience/SciPipeRequest">
  <ProjectSummary>
    <ProposalCode>2025.1.00001.S</ProposalCode><Telescope>ALMA</Telescope>
  </ProjectSummary>
  <ProjectStructure><AlmaStructure>
    <a:ObsUnitSetRef xmlns:a="Alma/ObsPrep" entityId="uid://A001/X12/X345" partId="X2"/>
    <ObsUnitSetTitle>Member OUS</ObsUnitSetTitle>
    <b:OUSStatusRef xmlns:b="Alma/Scheduling" entityId="uid://A001/X34/X567"/>
  </AlmaStructure></ProjectStructure>
  <ProcessingRequests><ProcessingRequest>
    <ProcessingIntents>
      <Intents><Keyword>CUBES</Keyword><Value>true</Value></Intents>
      <Intents><Keyword>SESSION_1</Keyword><Value>uid://A002/X1/X2</Value></Intents>
      <Intents><Keyword>SESSION_2</Keyword><Value>uid://A002/X1/X3 | uid://A002/X1/X4</Value></Intents>
    </ProcessingIntents>
    <ProcessingProcedure>
      <ProcedureTitle>hifa_cal</ProcedureTitle>
      <ProcessingCommand><Command>hifa_importdata</Command><ParameterSet>
        <Parameter><Keyword>vis</Keyword><Value>of_the_procedure.ms</Value></Parameter>
      </ParameterSet></ProcessingCommand>
    </ProcessingProcedure>
    <DataSet><SchedBlockSet><SchedBlockIdentifier>
      <RelativePath>/2025/uid_1</RelativePath>
      <AsdmIdentifier><AsdmDiskName>uid___A002_X1_X3</AsdmDiskName></AsdmIdentifier>
      <AsdmIdentifier><AsdmDiskName>uid___A002_X1_X2.ms</AsdmDiskName></AsdmIdentifier>
    </SchedBlockIdentifier></SchedBlockSet></DataSet>
  </ProcessingRequest></ProcessingRequests>
</SciPipeRequest>
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "procedure.xml"


def test_a_procedure_is_its_commands_with_what_they_are_given(path: Path) -> None:
    path.write_text(PROCEDURE)
    procedure = load(path)
    assert procedure.title == "hifv_short"
    assert procedure.commands == (
        Command("hifv_importdata"),
        Command("hif_makeimlist", {"specmode": "cont", "robust": "0.5", "field": ""}),
    )
    importing, listing = procedure.commands
    given = procedure.arguments_of(importing, ("a.ms", "b.ms"))
    assert given == {"vis": ["a.ms", "b.ms"], "session": ["default", "default"]}
    assert procedure.arguments_of(listing, ("a.ms",)) == listing.arguments


def test_a_request_says_what_it_is_for_and_which_data(path: Path) -> None:
    path.write_text(REQUEST)
    request = load(path)
    assert (request.title, request.relative_path) == ("hifa_cal", "/2025/uid_1")
    assert request.data == ("uid___A002_X1_X3", "uid___A002_X1_X2.ms")
    assert request.sessions == ("session_2", "session_1")
    assert request.intents["CUBES"] == "true"
    assert request.project["ProjectSummary"] == {"proposal_code": "2025.1.00001.S", "telescope": "ALMA"}
    assert request.project["ProjectStructure"] == {
        "ppr_file": str(path),
        "recipe_name": "hifa_cal",
        "ous_title": "Member OUS",
        "ous_entity_id": "uid://A001/X12/X345",
        "ous_part_id": "X2",
        "ousstatus_entity_id": "uid://A001/X34/X567",
    }
    given = request.arguments_of(request.commands[0], ("/raw/one", "/raw/two"))
    assert given == {"vis": ["/raw/one", "/raw/two"], "session": ["session_2", "session_1"]}


@pytest.mark.parametrize(
    "said, meant",
    [
        ("16384", 16384),
        ("3.0", 3.0),
        ("True", True),
        ("cont", "cont"),
        ("", ""),
        ("1,2,3", "1,2,3"),
        ("(1, 2)", (1, 2)),
        ("['a', 'b']", ["a", "b"]),
        ("{'data': 'regcal'}", {"data": "regcal"}),
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        ("(" * 5000, "(" * 5000),
        ("{[1]: 2}", "{[1]: 2}"),
        (["kept"], ["kept"]),
    ],
)
def test_a_value_means_a_literal_of_python_and_nothing_is_run(said: object, meant: object) -> None:
    assert value_of(said) == meant
    assert type(value_of(said)) is type(meant)


ENTITIES = """<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<ProcessingProcedure><ProcedureTitle>&b;</ProcedureTitle></ProcessingProcedure>"""
OUTSIDE = """<!DOCTYPE p [<!ENTITY secret SYSTEM "file:///etc/passwd">]>
<ProcessingProcedure><ProcedureTitle>&secret;</ProcedureTitle></ProcessingProcedure>"""


@pytest.mark.parametrize(
    "text, line, said",
    [
        ("", 1, "is not XML"),
        ("<ProcessingProcedure>\n<ProcessingCommand>\n</ProcessingProcedure>", 3, "is not XML: mismatched tag"),
        (PROCEDURE.replace("cont", "&nothing;"), 12, "undefined entity"),
        (ENTITIES, 1, "DOCTYPE"),
        (OUTSIDE, 1, "DOCTYPE"),
        ('<?xml version="1.0" encoding="no-such"?><a/>', 1, "is not XML"),
        ("<a>" * 60, 1, "nested 50 deep"),
        ("\n<html/>", 2, "its root is html"),
        ("<ProcessingProcedure/>", 1, "has no ProcessingCommand"),
        (PROCEDURE.replace("hif_makeimlist", "os.system"), 9, "'os.system', which is no task"),
        (PROCEDURE.replace("hif_makeimlist", "tclean"), 9, "'tclean', which is no task"),
        (PROCEDURE.replace("hif_makeimlist", "h_resume"), 9, "h_resume is not for a procedure to call"),
        (PROCEDURE.replace("<Command>hif_makeimlist</Command>", ""), 9, "has no Command"),
        (PROCEDURE.replace("robust", "ro bust"), 13, "'ro bust', which is no name"),
        (PROCEDURE.replace("robust", "specmode"), 13, "is given specmode twice"),
        (PROCEDURE.replace("0.5", "5" * 70000), 13, "robust of hif_makeimlist has 70000 letters"),
        (REQUEST.replace("uid___A002_X1_X3<", "../../etc<"), 25, "'../../etc' is not the name of a file"),
        (REQUEST.replace("ProcessingProcedure>", "Procedure>"), 11, "has no ProcessingProcedure"),
        (REQUEST.replace("ProcessingRequest>", "Request>"), 2, "it has 0 ProcessingRequests"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_a_way_out(path: Path, text: str, line: int, said: str) -> None:
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load(path)
    assert f"{path}:{line}" in caught.value.message
    assert said in caught.value.message
    assert caught.value.way_out


def test_files_that_are_no_files_or_too_large_are_refused(path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        load(path)
    with path.open("wb") as large:
        large.truncate(50 * 2**20)
    with pytest.raises(BadInput, match="50 MB"):
        load(path)
