from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgeline.context.calibration import (
    applycal_arguments,
    applycal_calls,
    calibrated_parts,
    calibrations_of,
    callibrary_text,
    gaincal_arguments,
    mark_applied,
    register,
    unregister,
    unregister_part,
)
from surgeline.context.draft import Draft
from surgeline.context.records import (
    Antenna,
    CalibrationApplication,
    Field,
    Observation,
    Scan,
    SpectralWindow,
)
from surgeline.context.selection import Layout, select
from surgeline.context.store import Context
from surgeline.errors import BadInput, DataError
from surgeline.simulate import Simulation, simulate
from surgeline.stages.observation import read_observation
from surgeline.work.jobs import JobRequest

FLUX, PHASE, TARGET = "CALIBRATE_FLUX#UNSPECIFIED", "CALIBRATE_PHASE#UNSPECIFIED", "OBSERVE_TARGET#UNSPECIFIED"


def observation(vis: str = "my.ms", intents: bool = True) -> Observation:
    names = ("3C 286, old", "12", "N5921_2", "N5921_3")
    observed_for = ((FLUX,), (PHASE,), (TARGET,), (TARGET,)) if intents else ((),) * 4
    return Observation(
        vis=vis,
        origin="archive",
        telescope="VLA",
        observer="somebody",
        project="AB123",
        start=0.0,
        end=400.0,
        rows=1,
        size=1,
        fields=tuple(
            Field(id=number, name=name, ra=10.0 * number, dec=0.0, intents=observed_for[number])
            for number, name in enumerate(names)
        ),
        spectral_windows=tuple(
            SpectralWindow(
                id=number,
                name=f"A0#{number}",
                channels=64,
                reference_frequency=1e9 * number,
                channel_width=1e6,
                bandwidth=64e6,
            )
            for number in (1, 2, 3)
        ),
        scans=tuple(
            Scan(
                number=number + 1,
                fields=(number,),
                # The flux calibrator was not observed in the last window.
                spectral_windows=(1, 2) if number == 0 else (1, 2, 3),
                start=100.0 * number,
                end=100.0 * number + 90,
                intents=observed_for[number],
            )
            for number in range(4)
        ),
        antennas=tuple(
            Antenna(id=number, name=str(number + 1), station=f"W{number}", east=0.0, north=0.0, diameter=25.0)
            for number in range(4)
        ),
        longest_baseline=100.0,
    )


def table(name: str, **said: Any) -> CalibrationApplication:
    return CalibrationApplication(table=name, vis="my.ms", **said)


@pytest.fixture
def draft() -> Iterator[Draft]:
    with closing(Context(None)) as context:
        context.commit("import", [observation()])
        yield context.draft("calibrate")


def test_a_selection_is_names_numbers_ranges_and_wildcards() -> None:
    known = observation()

    def fields(text: str) -> set[int]:
        return set(select(known, field=text).fields)

    assert fields("") == fields("*") == {0, 1, 2, 3}
    assert fields("0~1,3") == {0, 1, 3}
    assert fields("N5921*") == {2, 3}
    assert fields("N5921_2, 0") == {0, 2}
    # Fields go by number where they can, antennas by name; quotes always make a name.
    assert fields('"12"') == {1}
    assert fields("12") == {1}
    assert set(select(known, antenna="1,2").antennas) == {0, 1}
    assert set(select(known, antenna="0,2~4").antennas) == {0, 1, 2, 3}
    assert set(select(known, spw="1:4~60,3").windows) == {1, 3}
    assert set(select(known, spw="A0#2").windows) == {2}
    assert select(known, intent="*PHASE*").intents == {frozenset({PHASE})}
    assert not select(known, intent="*POINTING*")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"field": "N592"}, "'N592' is no field of my.ms"),
        ({"field": "17"}, "'17' is no field"),
        ({"spw": "0"}, "'0' is no spw"),
        ({"antenna": "1&2"}, "'1&2' is no antenna"),
        ({"field": "0,,1"}, "cannot be read as field"),
    ],
)
def test_what_is_not_there_is_told(said: dict[str, str], told: str) -> None:
    with pytest.raises(BadInput, match=told.replace("(", r"\(")):
        select(observation(), **said)


def test_data_without_other_data_are_pieces_that_do_not_overlap() -> None:
    known = observation()
    whole = select(known)
    part = select(known, field="1~2", spw="2~3", intent="*PHASE*", antenna="1,2")
    pieces = whole - part
    for one, other in combinations([*pieces, part], 2):
        assert not one & other

    def cells(data: Any) -> int:
        return len(data.fields) * len(data.windows) * len(data.intents) * len(data.antennas)

    assert sum(map(cells, pieces)) + cells(part) == cells(whole)
    assert part - whole == []


def test_calibrations_are_recorded_by_number_and_in_order(draft: Draft) -> None:
    first, second, third = register(
        draft,
        table("B", field='"3C 286, old"'),
        table("G", field="N5921_2,0,12", spw="1~2", interp="linear"),
        table("T", field="0~3", spw="*", antenna="1,2,3,4"),
    )
    assert (first.field, first.order) == ("0", 1)
    assert (second.field, second.spw, second.order) == ("0~2", "1~2", 2)
    assert (third.field, third.spw, third.antenna, third.order) == ("", "", "", 3)
    assert [each.table for each in calibrations_of(draft, "my.ms")] == ["B", "G", "T"]
    assert [each.table for each in calibrations_of(draft, "my.ms", field="1")] == ["G", "T"]
    assert [each.table for each in calibrations_of(draft, "my.ms", field="0", spw="3")] == []


def test_arguments_are_lists_of_equal_length_that_casa_takes(draft: Draft) -> None:
    register(
        draft,
        table("B", interp="nearest,linear"),
        table("G", field="1~3", gainfield="1", spwmap=(0, 1, 1, 1), calwt=False),
    )
    arguments = applycal_arguments(draft, "my.ms", field="2,3")
    assert arguments == {
        "gaintable": ["B", "G"],
        "gainfield": ["", "1"],
        "spwmap": [[], [0, 1, 1, 1]],
        "interp": ["nearest,linear", "linear"],
        "calwt": [True, False],
    }
    JobRequest("applycal", {"vis": "my.ms", **arguments})
    JobRequest("gaincal", {"vis": "my.ms", "caltable": "P", **gaincal_arguments(draft, "my.ms", field="1")})
    assert applycal_arguments(draft, "my.ms", field="0")["gaintable"] == ["B"]
    assert set(map(len, applycal_arguments(draft, "my.ms", field="0").values())) == {1}


def test_data_with_different_tables_are_not_given_the_same(draft: Draft) -> None:
    register(draft, table("B"), table("G", field="1~3"))
    with pytest.raises(BadInput, match="G is for some of the data") as told:
        applycal_arguments(draft, "my.ms")
    assert "field='1~3'" in str(told.value)
    calls = applycal_calls(draft, "my.ms")
    assert [(call["field"], call["spw"], call["scan"], call["gaintable"]) for call in calls] == [
        ("1~3", "", "", ["B", "G"]),
        ("0", "", "", ["B"]),
    ]
    for call in calls:
        JobRequest("applycal", call)


def test_intents_are_told_by_scan_where_fields_do_not_tell_them() -> None:
    known = observation()
    scans = (*known.scans, known.scans[1].model_copy(update={"number": 9, "intents": (TARGET,)}))
    with closing(Context(None)) as context:
        context.commit("import", [known.model_copy(update={"scans": scans})])
        draft = context.draft("calibrate")
        register(draft, table("P", intent="*PHASE*"), table("F", intent="*FLUX*"))
        recorded = {each.table: each for each in draft.all(CalibrationApplication)}
        assert recorded["P"].intent == "*PHASE*"
        calls = {call["gaintable"][0]: call for call in applycal_calls(draft, "my.ms")}
    assert (calls["P"]["field"], calls["P"]["scan"]) == ("", "2")
    assert (calls["F"]["field"], calls["F"]["scan"]) == ("", "1")


def test_a_table_is_for_data_once(draft: Draft) -> None:
    register(draft, table("G", gainfield="0"))
    register(draft, table("G", field="1", gainfield="1"))
    assert applycal_arguments(draft, "my.ms", field="1")["gainfield"] == ["1"]
    assert applycal_arguments(draft, "my.ms", field="0")["gainfield"] == ["0"]
    assert applycal_arguments(draft, "my.ms", field="2~3")["gainfield"] == ["0"]
    register(draft, table("G", gainfield="3"))
    assert [each.gainfield for each in draft.all(CalibrationApplication)] == ["3"]


def test_what_cannot_be_registered_is_told(draft: Draft) -> None:
    with pytest.raises(BadInput, match="no data of my"):
        register(draft, table("B", intent="*POINTING*"))
    with pytest.raises(BadInput, match="no data of my"):
        register(draft, table("B", field="0", spw="3"))
    with pytest.raises(DataError, match=r"nothing is known of the MS your.ms.*\n.*my.ms"):
        register(draft, table("B").model_copy(update={"vis": "your.ms"}))
    assert draft.all(CalibrationApplication) == []


def test_calibrations_are_taken_back_by_a_predicate(draft: Draft) -> None:
    register(draft, table("B"), table("G1"), table("G2"))
    mark_applied(draft, "my.ms", tables=["G2"])
    gone = unregister(draft, lambda each: each.table.startswith("G"))
    assert [each.table for each in gone] == ["G1"]
    assert [(each.table, each.state) for each in draft.all(CalibrationApplication)] == [
        ("B", "registered"),
        ("G2", "applied"),
    ]
    assert unregister(draft, lambda _: True, vis="your.ms") == []
    unregister_part(draft, Layout(observation()), select(observation(), field="0"), ["B"])
    assert [each.field for each in calibrations_of(draft, "my.ms")] == ["1~3"]


def test_what_is_applied_to_some_data_stays_registered_for_the_rest(draft: Draft) -> None:
    register(draft, table("B"), table("G", spw="1"))
    applied = mark_applied(draft, "my.ms", field="0,1")
    assert [(each.table, each.field, each.spw) for each in applied] == [("B", "0~1", ""), ("G", "0~1", "1")]
    registered = {(each.table, each.field, each.spw) for each in calibrations_of(draft, "my.ms")}
    assert registered == {("B", "2~3", ""), ("G", "2~3", "1")}
    assert applycal_arguments(draft, "my.ms", field="0")["gaintable"] == []
    assert mark_applied(draft, "my.ms", field="2~3", tables=[]) == []
    mark_applied(draft, "my.ms")
    assert calibrations_of(draft, "my.ms") == []
    parts = calibrated_parts(draft, Layout(observation()), state="applied")
    tables = {tuple(each.table for each in part): set(data.windows) for data, part in parts}
    assert tables == {("B", "G"): {1}, ("B",): {2, 3}}


def test_the_registry_is_what_a_commit_says() -> None:
    with closing(Context(None)) as context:
        context.commit("import", [observation()])
        draft = context.draft("bandpass")
        register(draft, table("B"))
        assert callibrary_text(context.at(), "my.ms") == ""
        version = draft.accept()
        draft = context.draft("applycal")
        mark_applied(draft, "my.ms", field="0")
        draft.accept()
        assert callibrary_text(context.at(version), "my.ms") == "caltable='B' calwt=True tinterp='linear'\n"
        assert callibrary_text(context.at(), "my.ms") == "caltable='B' calwt=True field='1~3' tinterp='linear'\n"


def test_a_cal_library_says_all_that_is_for_an_ms(draft: Draft) -> None:
    register(
        draft,
        table("dir/B 1", interp="nearest,linear", calwt=False),
        table("it's G", field="1~3", spw="2", gainfield="nearest", spwmap=(0, 1, 1)),
    )
    assert callibrary_text(draft, "my.ms").splitlines() == [
        "caltable='dir/B 1' calwt=False tinterp='nearest' finterp='linear'",
        "caltable=\"it's G\" calwt=True field='1~3' spw='2' tinterp='linear' fldmap='nearest' spwmap=[0, 1, 1]",
    ]


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ([table("G", antenna="1,2")], "some antennas only"),
        ([table("G", field="0"), table("G", field="1", calwt=False)], "weights of some data"),
        ([table("both ' and \"")], "both kinds of quotes"),
        ([table("two\nlines")], "line's end"),
    ],
)
def test_what_a_cal_library_cannot_say_is_told(draft: Draft, tables: list[CalibrationApplication], told: str) -> None:
    register(draft, *tables)
    with pytest.raises(BadInput, match=told):
        callibrary_text(draft, "my.ms")


def test_tables_for_some_antennas_are_for_these_alone(draft: Draft) -> None:
    register(draft, table("G", antenna="1,2"))
    assert applycal_arguments(draft, "my.ms", antenna="2")["gaintable"] == ["G"]
    assert applycal_arguments(draft, "my.ms", antenna="3,4")["gaintable"] == []
    with pytest.raises(BadInput, match="some of the data"):
        applycal_arguments(draft, "my.ms", antenna="2,3")
    with pytest.raises(BadInput, match="some antennas only"):
        applycal_calls(draft, "my.ms")


# With CASA.


@dataclass(frozen=True)
class Calibrated:
    """An MS, its tables, and what applying them makes of it."""

    vis: str
    known: Observation
    folder: Path

    def after(self, change: Callable[[str], None]) -> list[np.ndarray[Any, Any]]:
        """The columns that applycal writes, cell by cell, after a change of a copy of the MS."""
        from casatools import table as table_tool

        copied = self.folder / "copy.ms"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(self.vis, copied)
        change(str(copied))
        with closing(table_tool()) as tool:
            tool.open(str(copied))
            names = [name for name in ("CORRECTED_DATA", "FLAG", "WEIGHT") if name in tool.colnames()]
            found: list[np.ndarray[Any, Any]] = [tool.getcol(name) for name in names]
        return found

    def by_calls(self, draft: Draft) -> list[np.ndarray[Any, Any]]:
        from casatasks import applycal

        def change(vis: str) -> None:
            for call in applycal_calls(draft, self.vis):
                applycal(**{**call, "vis": vis}, flagbackup=False)

        return self.after(change)

    def by_library(self, draft: Draft) -> list[np.ndarray[Any, Any]]:
        from casatasks import applycal

        library = self.folder / "library.txt"
        library.write_text(callibrary_text(draft, self.vis))
        return self.after(lambda vis: applycal(vis, docallib=True, callib=str(library), flagbackup=False))


def same(one: list[np.ndarray[Any, Any]], other: list[np.ndarray[Any, Any]]) -> bool:
    return len(one) == len(other) == 3 and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def simulated(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """A small observation with intents and two windows, a bandpass B, and gains G of the first window."""
    from casatasks import bandpass, gaincal, setjy

    folder = tmp_path_factory.mktemp("simulated tables")
    vis = str(folder / "small.ms")
    simulate(
        Path(vis),
        Simulation(
            antennas=5,
            spectral_windows=2,
            channels=4,
            target_scans=1,
            flux_scan_seconds=30,
            phase_scan_seconds=30,
            target_scan_seconds=30,
        ),
    )
    setjy(vis, field="0", fluxdensity=[10.0, 0, 0, 0], standard="manual", usescratch=True)
    bandpass(vis, caltable=f"{folder}/B", field="0", solint="inf", refant="0", minblperant=2)
    gaincal(vis, caltable=f"{folder}/G", field="0,1", spw="0", refant="0", minblperant=2, gaintable=[f"{folder}/B"])
    return Calibrated(vis, read_observation(vis, vis), folder)


def begin(calibrated: Calibrated) -> tuple[Context, Draft]:
    context = Context(None)
    context.commit("import", [calibrated.known])
    return context, context.draft("calibrate")


def test_intents_windows_and_maps_are_applied_alike_by_calls_and_by_library(simulated: Calibrated) -> None:
    context, draft = begin(simulated)
    with closing(context):
        folder, vis = simulated.folder, simulated.vis
        register(
            draft,
            # A window that no table is for stays as it is.
            CalibrationApplication(table=f"{folder}/B", vis=vis, intent="*BANDPASS*,*PHASE*", interp="nearest"),
            CalibrationApplication(
                table=f"{folder}/G", vis=vis, intent="*PHASE*,*TARGET*", gainfield="1", spwmap=(0, 0), interp="linear"
            ),
        )
        calls = applycal_calls(draft, vis)
        assert {len(call["gaintable"]) for call in calls} == {1, 2}
        one, other = simulated.by_calls(draft), simulated.by_library(draft)
        assert same(one, other)
        plain = simulated.after(lambda _: None)
        assert not np.array_equal(one[0], plain[0])


def test_what_is_solved_on_top_of_the_registry_is_what_explicit_arguments_give(simulated: Calibrated) -> None:
    from casatasks import gaincal
    from casatools import table as table_tool

    context, draft = begin(simulated)
    with closing(context):
        bandpass = f"{simulated.folder}/B"
        register(draft, CalibrationApplication(table=bandpass, vis=simulated.vis, interp="nearest"))
        common: dict[str, Any] = {"vis": simulated.vis, "field": "1", "refant": "0", "minblperant": 2}
        from_registry, by_hand = f"{simulated.folder}/P1", f"{simulated.folder}/P2"
        gaincal(caltable=from_registry, **common, **gaincal_arguments(draft, simulated.vis, field="1"))
        gaincal(caltable=by_hand, **common, gaintable=[bandpass], interp=["nearest"])
    solutions = []
    for path in (from_registry, by_hand):
        with closing(table_tool()) as tool:
            tool.open(path)
            solutions.append(tool.getcol("CPARAM"))
    assert np.array_equal(*solutions)


def test_ngc5921_is_calibrated_alike_by_calls_and_by_library(casa: Path, tmp_path: Path) -> None:
    import casadata
    from casatasks import applycal, bandpass, gaincal, importuvfits, setjy

    # The cal library takes names with spaces.
    folder = tmp_path / "with spaces"
    folder.mkdir()
    vis = str(folder / "ngc5921.ms")
    importuvfits(f"{casadata.datapath}/demo/NGC5921.fits", vis)
    setjy(vis, field="0", standard="Perley-Taylor 99", spw="0", usescratch=True)
    bandpass(vis, caltable=f"{folder}/B", field="0", refant="15", solint="inf")
    gaincal(vis, caltable=f"{folder}/G", field="0,1", refant="15", solint="inf", gaintable=[f"{folder}/B"])
    ngc5921 = Calibrated(vis, read_observation(vis, vis), folder)
    context, draft = begin(ngc5921)
    with closing(context):
        register(
            draft,
            CalibrationApplication(table=f"{folder}/B", vis=vis, interp="nearest"),
            CalibrationApplication(table=f"{folder}/G", vis=vis, field="1331*", gainfield="0"),
            CalibrationApplication(table=f"{folder}/G", vis=vis, field="1445*,N5921_2", gainfield="1"),
        )
        by_calls, by_library = ngc5921.by_calls(draft), ngc5921.by_library(draft)

    def by_hand(copied: str) -> None:
        for field, gainfield in (("0", "0"), ("1,2", "1")):
            applycal(
                copied,
                field=field,
                gaintable=[f"{folder}/B", f"{folder}/G"],
                gainfield=["", gainfield],
                interp=["nearest", "linear"],
                calwt=[True],
                flagbackup=False,
            )

    assert same(by_calls, by_library)
    assert same(by_calls, ngc5921.after(by_hand))
