from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from pickledcontexts import FLUX, PHASE, forget_the_pipeline, made_by_pipeline, pickled_context
from support import surgeline
from surgeline import TaskQueue, open_backend
from surgeline.config import load
from surgeline.context.legacy import (
    CalApplication,
    CalFrom,
    CalTo,
    LegacyContext,
    ListedImage,
    ResultBody,
    StoredResult,
    read_pickled_context,
    run_task,
    run_tasks,
)
from surgeline.context.legacy.domain import pipeline_intents
from surgeline.context.legacy.units import GIGAHERTZ, HERTZ, Frequency
from surgeline.context.legacy.values import LARGEST_INLINE, decode
from surgeline.context.matching import match_windows_exactly
from surgeline.context.records import (
    Antenna,
    CalibrationApplication,
    DataColumns,
    Dataset,
    Extension,
    Field,
    Observation,
    Project,
    ReferenceAntenna,
    Roles,
    Scan,
    SpectralWindow,
)
from surgeline.context.reference import answer
from surgeline.context.store import Context
from surgeline.errors import BadInput, ConflictError, ContextError, JobFailed
from surgeline.simulate import Simulation, simulate
from surgeline.stages.observation import read_observation
from surgeline.work.surroundings import FactQuery
from surgeline.work.taskqueue import Backend

# Workers cannot import this file: its tasks travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

TARGET = ("OBSERVE_TARGET#ON_SOURCE",)


def observation(
    vis: str = "data/my.ms", start: float = 1e9, windows: tuple[int, ...] = (0, 1), **said: Any
) -> Observation:
    names = ("3C 286", "J1445+0958", "TARGET", "TARGET")
    words = (FLUX, PHASE, TARGET, TARGET)
    return Observation(
        vis=vis,
        origin="archive",
        start=start,
        end=start + 400,
        rows=1,
        size=1,
        fields=tuple(
            Field(id=number, name=name, ra=202.78453 + number, dec=30.50915 - 20 * number, intents=words[number])
            for number, name in enumerate(names)
        ),
        spectral_windows=tuple(
            SpectralWindow(
                id=number,
                name=f"window {place}",
                channels=64,
                reference_frequency=1.4e9 + 64e6 * place,
                channel_width=1e6 if place == 0 else -1e6,
                bandwidth=64e6,
                correlations=("XX", "YY"),
            )
            for place, number in enumerate(windows)
        ),
        scans=tuple(
            Scan(
                number=number + 1,
                fields=(number,),
                spectral_windows=windows,
                start=start + 100 * number,
                end=start + 100 * number + 90,
                intents=words[number],
            )
            for number in range(4)
        ),
        antennas=tuple(
            Antenna(id=number, name=f"DV{number:02d}", station=f"A{number}", east=0.0, north=0.0, diameter=12.0)
            for number in range(4)
        ),
        longest_baseline=100.0,
        **{"telescope": "ALMA", "observer": "somebody", "project": "2025.1.00001.S", **said},
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Context]:
    with closing(Context(tmp_path / "context.db")) as opened:
        opened.commit("import", [observation()])
        yield opened


@pytest.fixture
def context(store: Context) -> LegacyContext:
    return LegacyContext(store)


# The face.


def test_an_ms_has_the_face_that_tasks_know(context: LegacyContext) -> None:
    run = context.observing_run
    (ms,) = run.measurement_sets
    assert (
        ms is run.get_ms("data/my.ms") is run.get_ms("my.ms") is run.get_ms("my") is run.get_ms(intent="*BANDPASS*")
    )
    assert (ms.name, ms.basename, ms.session, ms.is_imported) == ("data/my.ms", "my.ms", "session_1", True)
    assert (ms.observer, ms.project_id, ms.antenna_array.name) == ("somebody", "2025.1.00001.S", "ALMA")
    assert ms.intents == {"BANDPASS", "AMPLITUDE", "PHASE", "WVR", "TARGET"}
    assert [field.name for field in ms.fields] == ['"3C 286"', "J1445+0958", "TARGET", "TARGET"]
    first = ms.fields[0]
    assert (first.ra, first.dec, first.clean_name) == ("13:31:08.287", "+030.30.32.940", "3C_286")
    assert first.mdirection["refer"] == "J2000"
    assert {window.id for window in first.valid_spws} == {0, 1}
    assert [[field.id for field in source.fields] for source in ms.sources] == [[0], [1], [2, 3]]
    assert ms.fields[3] is ms.fields[3] and ms.fields[3].source is ms.sources[2]
    assert ms.get_original_intent("BANDPASS,TARGET") == {FLUX[0], *TARGET}
    assert [(scan.id, scan.time_on_source.total_seconds()) for scan in ms.scans[:2]] == [(1, 90.0), (2, 90.0)]
    assert ms.scans[1].intents == {"PHASE", "WVR"}
    assert [antenna.name for antenna in ms.antennas] == ["DV00", "DV01", "DV02", "DV03"]
    assert run.start_time == ms.start_time and run.observers == {"somebody"}
    ms.execblock_id, ms.schedblock_id = "uid://A002/X1", "uid://A001/X2"
    assert (run.execblock_ids, run.schedblock_ids) == (["uid://A002/X1"], {"uid://A001/X2"})
    assert run.project_ids == {"2025.1.00001.S"}
    assert str(run.start_datetime) == "2001-09-09 01:46:40+00:00"
    assert run.end_datetime is not None and run.end_datetime.timestamp() == 1e9 + 400


def test_an_ms_is_searched_as_tasks_search_it(context: LegacyContext) -> None:
    ms = context.observing_run.get_ms("my.ms")

    def ids(parts: list[Any]) -> list[Any]:
        return [part.id for part in parts]

    assert ids(ms.get_fields("TARGET,0")) == [0, 2, 3]
    assert ids(ms.get_fields(intent="PHASE,AMPLITUDE")) == [0, 1]
    assert ids(ms.get_fields(name='"3C 286",J1445+0958')) == ids(ms.get_fields(field_id=[0, 1])) == [0, 1]
    assert ids(ms.get_scans(scan_intent="TARGET", field="2")) == [3]
    assert ids(ms.get_scans(scan_id=1)) == [1]
    assert ids(ms.get_scans(spw="1")) == [1, 2, 3, 4]
    assert ids(ms.get_antenna("DV01,2")) == [1, 2]
    assert ids(ms.get_spectral_windows("1")) == [1]
    assert ids(ms.get_spectral_windows("0:3~5;8~9,1", with_channels=True)) == ["0:3~5;8~9", "1"]
    assert ids(ms.get_spectral_windows(num_channels=[128])) == []
    assert ms.get_spectral_window("1").name == "window 1"
    with pytest.raises(KeyError, match="no spectral window 7"):
        ms.get_spectral_window(7)
    with pytest.raises(KeyError, match=r"no MS is called your.ms; there are: my.ms"):
        context.observing_run.get_ms("your.ms")
    # Of windows, those for science are given unless all are asked for.
    narrow = observation("narrow.ms").model_copy(update={"spectral_windows": ()})
    windows = tuple(each.model_copy(update={"channels": 1}) for each in observation().spectral_windows)
    context.observing_run.add_measurement_set(narrow.model_copy(update={"spectral_windows": windows}))
    added = context.observing_run.get_ms("narrow.ms")
    assert added.get_spectral_windows() == []
    assert ids(added.get_spectral_windows(science_windows_only=False)) == [0, 1]
    with pytest.raises(ValueError, match="in the context already"):
        context.observing_run.add_measurement_set(narrow)


def test_frequencies_are_those_of_the_channels(context: LegacyContext) -> None:
    rising, falling = context.observing_run.get_ms("my").spectral_windows
    assert rising.min_frequency == Frequency(1.4e9 - 32.5e6, HERTZ)
    assert rising.max_frequency - rising.min_frequency == rising.bandwidth == Frequency("0.064", GIGAHERTZ)
    assert rising.channels[0].low == rising.min_frequency
    assert falling.channels[0].high == falling.max_frequency
    assert rising.channels[32].getCentreFrequency() == rising.ref_frequency
    assert rising.channel_range(rising.channels[3].low, rising.channels[5].high) == (3, 5)
    assert rising.channel_range(falling.max_frequency, falling.max_frequency * 2) == (None, None)
    assert float(rising.bandwidth.to_units({"hz": Decimal(1000)})) == 64000.0
    assert str(rising.centre_frequency / 2) == "699.750 MHz"
    assert max(rising.bandwidth, rising.ref_frequency) == rising.ref_frequency
    assert (rising.channels[0].getWidth().convert_to(GIGAHERTZ).value, rising.num_channels) == (Decimal("0.001"), 64)


def test_which_fields_serve_as_what_is_the_sessions_word(store: Context) -> None:
    store.commit(
        "roles",
        [Roles(vis="data/my.ms", flux=(1,), bandpass=(1,), phase=(0,), target=(2, 3), reason="by hand")],
    )
    ms = LegacyContext(store).observing_run.get_ms("my.ms")
    assert [sorted(field.intents) for field in ms.fields] == [
        ["PHASE"],
        ["AMPLITUDE", "BANDPASS", "WVR"],
        ["TARGET"],
        ["TARGET"],
    ]
    assert ms.scans[0].intents == {"PHASE"}
    assert pipeline_intents(["CALIBRATE_AMPLI#UNSPECIFIED"], "EVLA") == {"PHASE"}
    assert pipeline_intents(["OBSERVE_TARGET#OFF_SOURCE", "CALIBRATE_PHASE#OFF_SOURCE"], "ALMA") == {"REFERENCE"}


@pytest.mark.parametrize("known", [False, True], ids=["found anew", "as facts"])
def test_virtual_windows_are_the_same_in_all_mss(store: Context, known: bool) -> None:
    later = observation("later.ms", start=2e9, windows=(17, 4))
    store.commit("import", [later])
    if known:
        store.commit("match", match_windows_exactly([observation(), later]).facts())
    run = LegacyContext(store).observing_run
    first, second = run.measurement_sets
    assert run.virtual_science_spw_ids == {0: "window 0", 1: "window 1"}
    assert run.virtual_science_spw_names == {"window 0": 0, "window 1": 1}
    assert [run.virtual2real_spw_id(number, second) for number in (0, "1", 2)] == [17, 4, None]
    assert [run.real2virtual_spw_id(number, second) for number in (17, "4", 0)] == [0, 1, None]
    assert run.real2real_spw_id(1, first, second) == 4
    assert run.get_virtual_spw_id_by_name("window 1") == 1 and run.get_virtual_spw_id_by_name("none") is None
    assert run.virtual_science_spw_shortnames["window 0"] == "window 0"
    assert run.get_real_spwsel(["0,1:3~5", "2"], ["my.ms", "later.ms"]) == ["0,1:3~5", None]
    assert run.get_real_spwsel(["0,1:3~5"], ["later.ms"]) == ["17,4:3~5"]


class DataType:
    """Stands for an enumeration's member: what tasks say types with."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_data_are_found_by_their_type(store: Context, context: LegacyContext) -> None:
    raw, calibrated = DataType("RAW"), DataType("REGCAL_CONTLINE_ALL")
    run = context.observing_run
    ms = run.get_ms("my.ms")
    run.add_measurement_set(observation("targets.ms", start=2e9))
    ms.set_data_column(raw, "DATA")
    ms.set_data_column(calibrated, "CORRECTED_DATA", source="TARGET", spw="1")
    assert run.get_measurement_sets_of_type([DataType("BASELINED"), raw]) == [ms]
    assert run.get_measurement_sets_of_type([calibrated], msonly=False) == ({ms: "CORRECTED_DATA"}, calibrated)
    assert run.get_measurement_sets_of_type([calibrated], source="J1445+0958") == []
    assert run.get_measurement_sets_of_type([calibrated, raw], source="TARGET", spw="1") == [ms]
    assert run.get_measurement_sets_of_type([raw], vis=["targets.ms"], msonly=False) == ({}, None)
    assert ms.get_data_type("DATA") == "RAW"
    with pytest.raises(ValueError, match="holds RAW data"):
        ms.set_data_column("BASELINED", "DATA")
    context.accept()
    (fact,) = store.all(DataColumns)
    assert fact.columns == {"RAW": "DATA", "REGCAL_CONTLINE_ALL": "CORRECTED_DATA"}


def test_reference_antennas_are_facts(store: Context, context: LegacyContext) -> None:
    ms = context.observing_run.get_ms("my.ms")
    assert ms.reference_antenna is None
    ms.reference_antenna = "DV02,DV00,DV03"
    ms.update_reference_antennas(ants_to_demote={"DV02"}, ants_to_remove={"DV03"})
    assert ms.reference_antenna == "DV00,DV02"
    ms.reference_antenna_locked = True
    with pytest.raises(AttributeError, match="locked"):
        ms.reference_antenna = "DV01"
    assert store.all(ReferenceAntenna) == []
    context.accept()
    (fact,) = store.all(ReferenceAntenna)
    assert fact.names == ("DV00", "DV02")
    with pytest.raises(AttributeError, match="cannot be set"):
        ms.basename = "other.ms"


def test_derived_mss_know_where_they_come_from(store: Context) -> None:
    store.commit(
        "split",
        [
            observation("targets.ms", start=2e9),
            Dataset(path="targets.ms", parent="data/my.ms", kind="calibrated", fields=(2, 3), windows=(0, 1)),
        ],
    )
    run = LegacyContext(store).observing_run
    derived = run.get_ms("targets.ms")
    assert (derived.is_imported, derived.origin_ms) == (False, "data/my.ms")
    assert [ms.basename for ms in run.get_measurement_sets(names=["targets.ms"], intents="TARGET,PHASE")] == [
        "targets.ms"
    ]
    assert run.get_measurement_sets(intents="POINTING") == run.get_measurement_sets(fields="NONE") == []
    assert len(run.get_measurement_sets(fields='TARGET,"3C 286"')) == 2


def test_project_records_begin_with_the_project(store: Context, context: LegacyContext) -> None:
    assert context.project_summary.telescope == "ALMA"
    assert context.get_recipe_name() == ""
    store.commit("project", [Project(code="AB1", observer="me", telescope="VLA", recipe="hifv cal")])
    context = LegacyContext(store)
    assert dict(context.project_summary)["proposal_code"] == "AB1"
    assert context.get_recipe_name() == "hifv cal"
    context.set_state("ProjectStructure", "ousstatus_entity_id", "uid://A001/X1")
    context.project_summary.piname = "you"
    context.accept()
    again = LegacyContext(store)
    assert (again.get_oussid(), again.project_summary.piname) == ("uid___A001_X1", "you")


def test_records_of_a_project_without_a_context_are_all_defaults(context: LegacyContext) -> None:
    context.project_structure.recipe_name = "mine"
    context.project_summary.piname = "me"
    records = (context.project_summary, context.project_structure, context.project_performance_parameters)
    other = [
        (type(each).__name__, name) for each in records for name, value in each if value != dict(type(each)())[name]
    ]
    assert other == [
        ("ProjectSummary", "piname"),
        ("ProjectSummary", "observatory"),
        ("ProjectSummary", "telescope"),
        ("ProjectStructure", "recipe_name"),
    ]
    with pytest.raises(AttributeError, match=r"no attribute 'project_summary.nothing'"):
        _ = context.project_summary.nothing


# What is kept.


@dataclass
class Own:
    """A class of a task's own."""

    number: int
    context: Any = None


VALUES: dict[str, Any] = {
    "plain": {"a": [1, 2.5, None, True, "ü"], "": {}},
    "integer beyond 64 bits": 2**70,
    "not a number": float("nan"),
    "tuple": (1, 2),
    "set": {1, 2},
    "keys that are no texts": {1: "a", ("x", 2): "b"},
    "like a mark": {"pickled": "no"},
    "like another mark": {"pickled in": "no"},
    "half a character": "\udc80",
    "zero": "a\0b",
    "array": np.arange(3),
    "own": Own(3),
    "ends": "",
}


@pytest.mark.parametrize("name", VALUES)
def test_whatever_a_task_adds_is_kept_as_it_is(store: Context, context: LegacyContext, name: str) -> None:
    setattr(context, f"added: {name}", VALUES[name])
    context.accept()
    found = getattr(LegacyContext(store), f"added: {name}")
    assert type(found) is type(VALUES[name])
    assert repr(found) == repr(VALUES[name])
    (fact,) = store.all(Extension, namespace="legacy")
    plain = name in ("plain", "integer beyond 64 bits", "zero", "ends")
    assert (fact.value == VALUES[name]) if plain else list(fact.value) == ["pickled"]


def test_changes_in_place_are_noticed_and_nothing_else_is_said(store: Context, context: LegacyContext) -> None:
    ms = context.observing_run.get_ms("my.ms")
    context.evla = {"msinfo": {"set": {1}}}
    context.accept()
    context = LegacyContext(store)
    ms = context.observing_run.get_ms("my.ms")
    for looked_at in (
        context.evla,
        context.clean_list_pending,
        context.logs,
        ms.spwmaps,
        ms.fields[0].flux_densities,
    ):
        assert looked_at is not None
    assert context.changes().added == ()
    context.evla["msinfo"]["set"].add(2)
    context.logs["casa_commands"] = "other.log"
    ms.spwmaps["TARGET"] = [0, 0]
    ms.fields[0].flux_densities.add(2.5)
    ms.spectral_windows[1].band = "Band 3"
    said = {(fact.namespace, fact.name) for fact in context.changes().added if isinstance(fact, Extension)}
    assert said == {
        ("legacy", "evla"),
        ("legacy", "logs"),
        ("legacy data/my.ms", "spwmaps"),
        ("legacy data/my.ms", "fields 0.flux_densities"),
        ("legacy data/my.ms", "spectral_windows 1.band"),
    }
    assert context.accept() == 3
    # What a task still holds goes on being watched.
    context.evla["msinfo"]["set"].add(3)
    context.accept()
    again = LegacyContext(store)
    assert again.evla == {"msinfo": {"set": {1, 2, 3}}}
    assert again.observing_run.get_ms("my").fields[0].flux_densities == {2.5}
    assert again.observing_run.get_ms("my").spectral_windows[1].band == "Band 3"
    assert again.logs["casa_commands"] == "other.log"


def test_what_follows_from_something_else_goes_on_following(context: LegacyContext) -> None:
    assert context.report_dir == f"{context.name}/html"
    context.name, context.output_dir = "mine", "out"
    assert context.report_dir == "out/mine/html"
    assert set(context.extensions()) == {"name", "output_dir"}


def test_attributes_are_listed_and_taken_away(store: Context, context: LegacyContext) -> None:
    context.first, context.second = 1, {2}
    assert context.extensions() == {"first": 1, "second": {2}}
    context.accept()
    del context.first
    with pytest.raises(AttributeError, match="no attribute 'first'"):
        _ = context.first
    assert not hasattr(context, "third")
    assert context.extensions() == {"second": {2}}
    context.accept()
    assert LegacyContext(store).extensions() == {"second": {2}}
    with pytest.raises(AttributeError, match="cannot be replaced"):
        context.callibrary = None
    with pytest.raises(AttributeError, match="that a task has set"):
        del context.never


def test_what_cannot_be_stored_is_told_by_name_and_nothing_is_committed(
    store: Context, context: LegacyContext
) -> None:
    context.fine = 1
    context.stream = (part for part in ())
    with pytest.raises(ContextError, match="attribute 'stream' of the context, a generator, cannot be stored"):
        context.accept()
    assert store.version == 1
    context.stream = None
    context.accept()
    assert LegacyContext(store).fine == 1


def test_large_values_are_in_files_told_by_their_content(
    store: Context, context: LegacyContext, tmp_path: Path
) -> None:
    context.large = "x" * (LARGEST_INLINE + 1)
    context.array = np.arange(LARGEST_INLINE)
    context.accept()
    files = sorted((tmp_path / "context.values").iterdir())
    assert len(files) == 2
    assert {len(fact.model_dump_json()) < 300 for fact in store.all(Extension)} == {True}
    again = LegacyContext(store)
    assert again.large == context.large and np.array_equal(again.array, context.array)
    again.array[0] = 7
    again.accept()
    assert LegacyContext(store).array[0] == 7
    for path in files:
        path.write_bytes(b"else")
    with pytest.raises(ContextError, match=r"attribute 'large' of the context cannot be read.*damaged"):
        _ = LegacyContext(store).large
    shutil.rmtree(tmp_path / "context.values")
    with pytest.raises(ContextError, match=r"attribute 'large' of the context cannot be read: .*No such file"):
        _ = LegacyContext(store).large


def test_accepting_is_one_commit_and_dropping_leaves_nothing(store: Context, context: LegacyContext) -> None:
    def change() -> None:
        context.foo = 1
        context.observing_run.get_ms("my").reference_antenna = "DV01"
        context.observing_run.get_ms("my").session = "session_2"
        context.callibrary.add(CalTo("data/my.ms"), CalFrom("B", caltype="bandpass"))
        context.results.append(Own(1))
        context.sciimlist.add_item({"imagename": "a"})

    change()
    context.discard()
    assert context.changes().added == ()
    assert (len(context.results), context.sciimlist.get_imlist(), context.callibrary.active.merged()) == (0, [], {})
    assert context.observing_run.get_ms("my").session == "session_1"
    assert store.version == 1
    change()
    assert context.accept("calibrate") == 2 == store.version
    assert [commit.stage for commit in store.log()] == ["import", "calibrate"]
    assert context.changes().added == ()


def test_a_contradiction_is_told_and_nothing_of_it_is_committed(store: Context, context: LegacyContext) -> None:
    other = LegacyContext(store)
    other.foo, context.foo, context.mine = 1, 2, 3
    other.accept()
    with pytest.raises(ConflictError, match="Extension"):
        context.accept()
    assert store.version == 2
    context.discard()
    assert context.foo == 1 and not hasattr(context, "mine")
    # It has seen what the other said, and may say something else now.
    context.foo = 2
    assert context.accept() == 3


def test_a_context_at_a_version_says_what_it_said_then(store: Context, context: LegacyContext) -> None:
    context.foo = 1
    version = context.accept()
    context.foo = 2
    context.accept()
    assert LegacyContext(store.at(version)).foo == 1


# Calibrations, images, results.


def test_calibrations_are_registered_for_the_data_of_their_intents(store: Context, context: LegacyContext) -> None:
    library = context.callibrary
    library.add(CalTo("my.ms"), CalFrom("B", interp="nearest", caltype="bandpass"))
    library.add(
        CalTo("my.ms", intent="PHASE,TARGET"), [CalFrom("G", gainfield="1", caltype="gaincal", spwmap=(0, 0))]
    )
    library.add(CalTo("my.ms", intent="POINTING"), CalFrom("never"))
    library.add(CalTo("my.ms"), [])
    assert {
        calto.field: [each.gaintable for each in calfroms] for calto, calfroms in library.active.merged().items()
    } == {
        '"3C 286"': ["B"],
        "J1445+0958,2,3": ["B", "G"],
    }
    assert library.active.get_caltable() == {"B", "G"}
    assert library.active.get_caltable("gaincal") == {"G"}
    ((calto, calfroms),) = library.get_calstate(CalTo("my.ms", intent="TARGET", spw="1")).merged().items()
    assert (calto.vis, calto.field, calto.spw, calto.intent) == ("data/my.ms", "2,3", "1", "TARGET")
    application = CalApplication(calto, calfroms)
    assert (application.gaintable, application.gainfield, application.spwmap) == (["B", "G"], ["", "1"], [[], [0, 0]])
    ignored = library.get_calstate(CalTo("my.ms", field="0"), ignore=["interp"])
    assert [each.interp for each in next(iter(ignored.merged().values()))] == ["linear,linear"]
    library.mark_as_applied(CalTo("my.ms", intent="PHASE"), calfroms)
    assert [calto.field for calto in library.applied.merged()] == ["J1445+0958"]
    assert sorted(calto.field for calto in library.active.merged()) == ['"3C 286"', "2,3"]
    context.accept()
    assert {fact.state for fact in store.all(CalibrationApplication)} == {"registered", "applied"}
    assert LegacyContext(store).callibrary.active.get_caltable("bandpass") == {"B"}


def test_calibrations_are_unregistered_by_data_and_table(context: LegacyContext) -> None:
    library = context.callibrary
    library.add(CalTo("my.ms"), [CalFrom("my.bandpass.tbl", caltype="bandpass"), CalFrom("G", caltype="gaincal")])
    asked: list[Any] = []

    def of_phase(calto: Any, calfrom: Any) -> bool:
        asked.append(calto)
        return "PHASE" in calto.intent and calfrom.caltype == "gaincal"

    library.unregister_calibrations(of_phase)
    assert {calto.field: len(calfroms) for calto, calfroms in library.active.merged().items()} == {
        '"3C 286",2,3': 2,
        "J1445+0958": 1,
    }
    assert asked[0].vis == {"data/my.ms"} and asked[0].field == {'"3C 286"'} and asked[0].spw == {0, 1}
    library.unregister_calibrations(lambda _, calfrom: "bandpass" in calfrom.gaintable)
    assert library.active.get_caltable() == {"G"}
    library.clear()
    assert library.active.merged() == {}


def test_calibrations_are_written_and_read_as_calls_of_applycal(context: LegacyContext, tmp_path: Path) -> None:
    library = context.callibrary
    library.add(CalTo("my.ms"), CalFrom("it's B", calwt=False, caltype="bandpass"))
    library.add(CalTo("my.ms", field="0"), CalFrom("G", gainfield="0", spwmap=(0, 0)))
    library.export(str(tmp_path / "calls.txt"))
    before = library.active.as_applycal()
    library.import_state(str(tmp_path / "calls.txt"))
    assert library.active.as_applycal() == before
    # What a table is was said before, and no call of applycal says it.
    assert library.active.get_caltable("bandpass") == {"it's B"}
    library.export_applied(str(tmp_path / "applied.txt"))
    assert (tmp_path / "applied.txt").read_text().strip() == ""
    library.import_state(str(tmp_path / "calls.txt"), append=True)
    assert library.active.as_applycal() == before
    assert (tmp_path / "calls.txt").read_text().count("applycal(") == 2
    library.active.export_to_casa_callibrary(context.observing_run.get_ms("my"), str(tmp_path / "library.txt"))
    assert (tmp_path / "library.txt").read_text().count("caltable=") == 3
    evil = "applycal(vis=__import__('os').system('touch harm'))"
    (tmp_path / "evil.txt").write_text(evil)
    with pytest.raises(BadInput, match="cannot be read as a call of applycal"):
        library.import_state(str(tmp_path / "evil.txt"))
    assert not Path("harm").exists()


class ImageItem:
    """What tasks add to registries of images: it lists what it is."""

    def __init__(self, imagename: str, **said: Any) -> None:
        vars(self).update(imagename=imagename, version=1, version_count=1, **said)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())


def test_images_are_kept_in_their_registries(store: Context, context: LegacyContext) -> None:
    for name in ("a", "b", "a"):
        context.sciimlist.add_item(ImageItem(name, metadata={"beam": (1.0, 2)}))
    context.calimlist.add_item(ImageItem("cal"))
    context.rmsimlist.add_item(ImageItem("my.s3_1.I.iter1.image"), overwrite_on_export=False)
    again = ImageItem("my.s12_4.I.iter2.image")
    context.rmsimlist.add_item(again, overwrite_on_export=False)
    context.accept()
    kept = LegacyContext(store)
    assert [item["imagename"] for item in kept.sciimlist.get_imlist()] == ["a", "b"]
    assert kept.sciimlist.get_imlist()[0]["metadata"] == {"beam": (1.0, 2)}
    assert [(item["version"], item["version_count"]) for item in kept.rmsimlist.get_imlist()] == [(1, 2), (2, 1)]
    assert vars(again)["version"] == 2
    assert kept.subimlist.get_imlist() == []
    kept.sciimlist.get_imlist()[1]["plot"] = "b.png"
    kept.sciimlist.delete_item(ImageItem("a"))
    kept.sciimlist.add_item(ImageItem("c"))
    kept.calimlist.clear_imlist()
    kept.accept()
    facts = {(fact.registry, fact.place): fact.imagename for fact in store.all(ListedImage)}
    assert facts == {("sciimlist", 1): "b", ("sciimlist", 2): "c", ("rmsimlist", 0): "my.s3_1.I.iter1.image",
                     ("rmsimlist", 1): "my.s12_4.I.iter2.image"}  # fmt: skip
    assert LegacyContext(store).sciimlist.get_imlist()[0]["plot"] == "b.png"


@dataclass
class Numbered:
    """A result of a few words, and of many bytes."""

    number: int
    context: Any = None
    filler: bytes = b""


class Proxy:
    """What the existing pipeline keeps in place of a result: it reads it from a file of its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.uuid = uuid.UUID(int=number)

    def read(self) -> int:
        return self.number


def test_results_are_read_one_by_one(
    store: Context, context: LegacyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counting(stored: Any, owner: Any, what: str, folder: Path) -> Any:
        opened.append(what)
        return decode(stored, owner, what, folder)

    monkeypatch.setattr("surgeline.context.legacy.lists.decode", counting)
    for number in range(5):
        context.task_counter = number
        context.results.append(Numbered(number, context, bytes(LARGEST_INLINE) if number == 3 else b""))
    assert context.results[2].read() is context.results[2].read()
    context.accept()
    context.results.append(Proxy(7))
    context.accept()
    kept = LegacyContext(store)
    assert len(kept.results) == 6
    assert [entry.stage_number for entry in kept.results] == [0, 1, 2, 3, 4, 4]
    assert [entry.task for entry in kept.results[:2]] == ["Numbered", "Numbered"]
    assert opened == []
    third = kept.results[3].read()
    assert (third.number, len(third.filler), len(opened)) == (3, LARGEST_INLINE, 1)
    # A result's own context is the one that it is kept in.
    assert third.context is kept
    assert kept.results[-1].read() == 7
    assert kept.results[-1].uuid == uuid.UUID(int=7)
    assert [len(fact.model_dump_json()) < 20_000 for fact in store.all(ResultBody)] == [True] * 6
    assert len(list((tmp_path / "context.values").iterdir())) == 1
    assert [fact.task for fact in store.all(StoredResult)][-1] == "Proxy"
    # Who makes a weblog shows all of them for a while.
    entries = kept.results
    kept.results = [entry.read() for entry in entries]
    assert kept.results[-1] == 7
    assert kept.changes().added == ()
    kept.results = entries
    assert len(kept.results) == 6 and kept.results[-1].key == uuid.UUID(int=7).hex


# Journeys.


def test_a_context_travels_as_a_reference(context: LegacyContext) -> None:
    ms = context.observing_run.get_ms("my.ms")
    context.results.append(Numbered(1, context, bytes(10**6)))
    context.big = list(range(100_000))
    context.accept()
    context.callibrary.get_calstate(CalTo("my.ms"))
    for thing in (context, context.results, context.callibrary, context.observing_run, context.sciimlist,
                  context.project_summary, ms, ms.fields[0], ms.spectral_windows[0]):  # fmt: skip
        assert len(pickle.dumps(thing)) < 1000
        assert len(cloudpickle.dumps(thing)) < 1000


class OtherContext:
    """Stands for the class that tasks of the existing pipeline ask their context to be of."""

    @property
    def stage(self) -> str:
        raise AssertionError("never asked")

    @property
    def products_dir(self) -> str:
        raise AssertionError("never asked")


class Adopted(LegacyContext, OtherContext):
    """A context that is of that class, too."""


def test_a_context_may_be_of_another_class_besides(store: Context) -> None:
    context = Adopted(store)
    context.products_dir = "there"
    with context.here():
        arrived = cloudpickle.loads(cloudpickle.dumps(context))
        assert isinstance(arrived, OtherContext) and type(arrived) is Adopted
        assert (arrived.stage, arrived.products_dir) == ("0_0", "there")
    assert type(context.copy()) is Adopted
    with pytest.raises(AttributeError, match="stage of the context cannot be replaced"):
        context.stage = "1_0"


def test_what_a_task_has_changed_travels_along(context: LegacyContext) -> None:
    ms = context.observing_run.get_ms("my.ms")
    ms.reference_antenna = "DV01"
    ms.fields[1].flux_densities.add(1)
    context.foo = {"context": context, "field": ms.fields[0], "set": {1}}
    context.callibrary.add(CalTo("my.ms"), CalFrom("B", caltype="bandpass"))
    context.sciimlist.add_item(ImageItem("a"))
    context.results.append(Numbered(1))
    assert len(pickle.dumps(context)) < 10_000
    with context.here():
        arrived = pickle.loads(pickle.dumps(context))
        its = arrived.observing_run.get_ms("my.ms")
        assert (its.reference_antenna, its.fields[1].flux_densities) == ("DV01", {1})
        assert arrived.foo["context"] is arrived
        assert arrived.foo["field"] == its.fields[0]
        assert arrived.callibrary.active.get_caltable("bandpass") == {"B"}
        assert arrived.sciimlist.get_imlist()[0]["imagename"] == "a"
        assert arrived.results[0].read().number == 1
        arrived.foo["set"].add(2)
        arrived.callibrary.clear()
        # And on from there.
        twice = pickle.loads(pickle.dumps(arrived))
        assert twice.foo["set"] == {1, 2} and twice.callibrary.active.merged() == {}
        with pytest.raises(ContextError, match="cannot be accepted there"):
            arrived.accept()
    assert context.foo["set"] == {1}
    assert context.callibrary.active.get_caltable() == {"B"}
    told = r"facts of context .* are asked for while those of .* are at hand"
    with closing(Context(None)) as other, LegacyContext(other).here(), pytest.raises(ContextError, match=told):
        _ = pickle.loads(pickle.dumps(context)).observing_run.measurement_sets
    with pytest.raises(ContextError, match="outside of a job"):
        _ = pickle.loads(pickle.dumps(context)).observing_run.measurement_sets


def test_a_saved_context_is_opened_by_others(
    store: Context, context: LegacyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.name = "my context, 'ü'"
    context.accept()
    context.pending = 1
    monkeypatch.chdir(tmp_path)
    context.save()
    path = tmp_path / "my context, 'ü'.context"
    assert path.stat().st_size < 2000
    # Nobody has to be asked: it says where the store is.
    opened = pickle.loads(path.read_bytes())
    assert (opened.name, opened.pending, opened.version) == (context.name, 1, 2)
    assert opened.observing_run.get_ms("my").basename == "my.ms"


@pytest.mark.parametrize("vis", ['data/it\'s "mine".ms', "data/ü (1), #2; 50%.ms", "/tmp/a b/[x] 'y'.ms"])
def test_names_may_have_odd_characters(tmp_path: Path, vis: str) -> None:
    with closing(Context(tmp_path / "odd 'name' ü.db")) as store:
        names = ("a,b", 'q"q', "12", "*")
        fields = tuple(
            each.model_copy(update={"name": name}) for each, name in zip(observation().fields, names, strict=True)
        )
        store.commit("import", [observation(vis).model_copy(update={"fields": fields})])
        context = LegacyContext(store)
        ms = context.observing_run.get_ms(Path(vis).name)
        ms.spwmaps["a\nb"] = [1]
        setattr(context, "odd name.with'dots\"", (1,))
        context.callibrary.add(CalTo(vis, intent="PHASE"), CalFrom("cal 'x' \"y\" [1].tbl"))
        assert [field.id for field in ms.get_fields('"a,b",12')] == [0, 2]
        assert [field.id for field in ms.get_fields("*")] == [0, 1, 2, 3]
        context.accept("stage: 'é'")
        again = LegacyContext(store)
        assert again.observing_run.get_ms(vis).spwmaps == {"a\nb": [1]}
        assert getattr(again, "odd name.with'dots\"") == (1,)
        assert again.callibrary.active.get_caltable() == {"cal 'x' \"y\" [1].tbl"}
        with again.here():
            assert pickle.loads(pickle.dumps(again)).observing_run.get_ms(vis).name == vis


# Tasks.


class Results:
    """What tasks return: accepting it merges it and lists it."""

    def __init__(self, **said: Any) -> None:
        self.uuid = uuid.uuid4()
        vars(self).update(said)

    def merge_with_context(self, context: Any) -> None:
        """Nothing to merge."""

    def accept(self, context: Any) -> None:
        for entry in context.results:
            if entry.uuid == self.uuid:
                raise ValueError("this result was accepted already")
        self.merge_with_context(context)
        context.results.append(self)


class Inputs:
    """Arguments of a task, with defaults that the context gives."""

    def __init__(self, context: Any, vis: str | None = None, **parameters: Any) -> None:
        self.context = context
        self._vis = vis
        vars(self).update(parameters)

    @property
    def vis(self) -> str:
        return self._vis or self.context.observing_run.measurement_sets[0].name

    @property
    def ms(self) -> Any:
        return self.context.observing_run.get_ms(self.vis)

    @property
    def refant(self) -> str:
        return (self.ms.reference_antenna or "").partition(",")[0]


class Task:
    """A task with its inputs."""

    Inputs = Inputs

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    @property
    def context(self) -> Any:
        return self.inputs.context


class ReferenceAntennaResults(Results):
    names: str

    def merge_with_context(self, context: Any) -> None:
        context.observing_run.get_ms(self.vis).reference_antenna = self.names


class ReferenceAntennas(Task):
    """Chooses reference antennas: the first of the list."""

    def execute(self) -> Results:
        names = [antenna.name for antenna in self.inputs.ms.antennas]
        return ReferenceAntennaResults(vis=self.inputs.vis, names=",".join(names[:2]), stage=self.context.stage)


class CalibrationResults(Results):
    def merge_with_context(self, context: Any) -> None:
        def of_this_kind(calto: Any, calfrom: Any) -> bool:
            return calfrom.caltype == self.calapp.calfrom[0].caltype and self.calapp.vis in calto.vis

        context.callibrary.unregister_calibrations(of_this_kind)
        context.callibrary.add(self.calapp.calto, self.calapp.calfrom)


class Bandpass(Task):
    """Solves for a bandpass, and registers it for all data."""

    def execute(self) -> Results:
        from casatasks import bandpass

        inputs = self.inputs
        table = f"{inputs.vis}.{inputs.name}.bandpass.tbl"
        field = ",".join(str(each.id) for each in inputs.ms.get_fields(intent="BANDPASS"))
        bandpass(inputs.vis, table, field=field, refant=inputs.refant, solint="inf", minblperant=2)
        calapp = CalApplication(CalTo(inputs.vis), CalFrom(table, interp="nearest", caltype="bandpass"))
        return CalibrationResults(calapp=calapp, stage=self.context.stage)


class Gaincal(Task):
    """Solves for gains upon a bandpass that it solves for first, in a task of its own."""

    def execute(self) -> Results:
        from casatasks import gaincal

        inputs, context = self.inputs, self.context
        bandpass = Bandpass(Bandpass.Inputs(context, vis=inputs.vis, name=f"{inputs.name}.sub")).execute()
        bandpass.accept(context)
        fields = inputs.ms.get_fields(intent="PHASE")
        selected = ",".join(str(field.id) for field in fields)
        ((calto, calfroms),) = context.callibrary.get_calstate(CalTo(inputs.vis, field=selected)).merged().items()
        before = CalApplication(calto, calfroms)
        table = f"{inputs.vis}.{inputs.name}.gaincal.tbl"
        gaincal(
            inputs.vis,
            table,
            field=selected,
            refant=inputs.refant,
            minblperant=2,
            gaintable=before.gaintable,
            interp=before.interp,
        )
        calapp = CalApplication(CalTo(inputs.vis), CalFrom(table, gainfield=selected, caltype="gaincal"))
        return CalibrationResults(calapp=calapp, bandpass=bandpass, preapplied=before.gaintable)


class AppliedResults(Results):
    def merge_with_context(self, context: Any) -> None:
        for calapp in self.applied:
            context.callibrary.mark_as_applied(calapp.calto, calapp.calfrom)


class Applycal(Task):
    """Applies what is registered."""

    def execute(self) -> Results:
        from casatasks import applycal

        state = self.context.callibrary.get_calstate(CalTo(self.inputs.vis))
        applied = [CalApplication(calto, calfroms) for calto, calfroms in state.merged(hide_empty=True).items()]
        for each in applied:
            applycal(
                each.vis,
                field=each.field,
                spw=each.spw,
                gaintable=each.gaintable,
                gainfield=each.gainfield,
                interp=each.interp,
                spwmap=each.spwmap,
                calwt=each.calwt,
                flagbackup=False,
            )
        return AppliedResults(applied=applied)


class NotesResults(Results):
    def merge_with_context(self, context: Any) -> None:
        context.evla = {"msinfo": {self.vis: Own(self.number)}}
        context.clean_list_pending.append(self.number)
        context.observing_run.get_ms(self.vis).fields[0].flux_densities.add(self.number)
        context.sciimlist.add_item({"imagename": f"image {self.number}"})


class Notes(Task):
    """Adds attributes; and spoils its own copy of the context, which nobody else sees."""

    def execute(self) -> Results:
        self.context.spoilt = True
        self.context.clean_list_pending.append("spoilt")
        self.context.callibrary.clear()
        return NotesResults(
            vis=self.inputs.vis, number=self.inputs.number, field=self.inputs.ms.fields[0], own=self.context
        )


class FailsAtWork(Task):
    """Fails when it has changed its context already."""

    def execute(self) -> Results:
        self.context.harm = True
        self.context.callibrary.clear()
        raise RuntimeError("no solutions for any antenna")


class FailingResults(Results):
    def merge_with_context(self, context: Any) -> None:
        context.harm = True
        context.callibrary.clear()
        context.observing_run.get_ms(self.vis).reference_antenna = None
        context.results.append(Results())
        raise RuntimeError("cannot be merged")


class FailsAtMerging(Task):
    """Returns a result that fails when it has changed the context already."""

    def execute(self) -> Results:
        return FailingResults(vis=self.inputs.vis)


class ReturnsNothing(Task):
    """Forgets its result."""

    def execute(self) -> None:
        return None


class AddsMeasurementSet(Task):
    """Splits an MS off, and adds it."""

    def execute(self) -> Results:
        from casatasks import split

        target = str(Path(self.inputs.vis).with_name("split off.ms"))
        split(self.inputs.vis, target, field="0", datacolumn="data")
        return SplitResults(known=read_observation(target, self.inputs.vis))


class SplitResults(Results):
    def merge_with_context(self, context: Any) -> None:
        context.observing_run.add_measurement_set(self.known)


STORES: dict[str, Context] = {}


def ask(query: FactQuery) -> Any:
    return answer(STORES[query.context], query)


@pytest.fixture(scope="module", params=["serial", "dask"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp(request.param)
    overrides = [f"backend={request.param}", "dask.n_workers=2", "worker.memory=1GB"]
    configuration = load(overrides=overrides, environment={}, home=folder)
    opened = open_backend(configuration, folder=folder, ask=ask)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def small(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Observation:
    path = tmp_path_factory.mktemp("small") / "small.ms"
    scans = dict.fromkeys(("flux_scan_seconds", "phase_scan_seconds", "target_scan_seconds"), 30.0)
    simulate(path, Simulation(antennas=5, spectral_windows=2, channels=8, target_scans=1, **scans))
    return read_observation(str(path), str(path))


@pytest.fixture
def opened(small: Observation, tmp_path: Path) -> Iterator[Callable[[str], LegacyContext]]:
    """Begins contexts, each with an MS of its own."""
    stores: list[Context] = []

    def begin(name: str) -> LegacyContext:
        folder = tmp_path / name
        folder.mkdir()
        vis = folder / "my data.ms"
        shutil.copytree(small.vis, vis)
        store = Context(folder / "context.db")
        stores.append(store)
        STORES[store.identifier] = store
        store.commit("import", [small.model_copy(update={"vis": str(vis)})])
        return LegacyContext(store)

    yield begin
    for store in stores:
        del STORES[store.identifier]
        store.close()


def test_tasks_run_on_workers_and_merge_in_the_session(
    backend: Backend, opened: Callable[[str], LegacyContext]
) -> None:
    context = opened("with (odd) ü; #1")
    store = STORES[context.identifier]
    vis = context.observing_run.measurement_sets[0].name
    with TaskQueue(backend) as queue:
        chosen = run_task(context, ReferenceAntennas, {"vis": vis}, queue)
        assert chosen.stage == "1_0" and context.stage == "1_0"
        assert context.observing_run.get_ms(vis).reference_antenna == chosen.names
        first = run_task(context, Bandpass, {"vis": vis, "name": "one"}, queue)
        assert first.stage == "2_0"
        run_task(context, Bandpass, {"name": "two"}, queue)
        # The second took the place of the first.
        assert context.callibrary.active.get_caltable() == {f"{vis}.two.bandpass.tbl"}
        gains = run_task(context, Gaincal, {"vis": vis, "name": "three"}, queue)
        # The subtask's table replaced the other for the task alone, until its own result says so.
        assert gains.preapplied == f"{vis}.three.sub.bandpass.tbl"
        assert context.callibrary.active.get_caltable() == {f"{vis}.two.bandpass.tbl", f"{vis}.three.gaincal.tbl"}
        run_task(context, Applycal, {"vis": vis}, queue)
        assert context.callibrary.active.merged() == {}
        assert len(context.callibrary.applied.get_caltable()) == 2
        run_task(context, AddsMeasurementSet, {"vis": vis}, queue)
    assert [ms.basename for ms in context.observing_run.measurement_sets] == ["my data.ms", "split off.ms"]
    assert [entry.task for entry in context.results] == [
        "ReferenceAntennaResults",
        "CalibrationResults",
        "CalibrationResults",
        "CalibrationResults",
        "AppliedResults",
        "SplitResults",
    ]
    assert context.results[1].read().calapp.gaintable == f"{vis}.one.bandpass.tbl"
    tasks = ["ReferenceAntennas", "Bandpass", "Bandpass", "Gaincal", "Applycal", "AddsMeasurementSet"]
    assert [commit.stage for commit in store.log()] == ["import", *tasks]
    assert json.loads(json.dumps(dict(store.log()[3].details))) == {"number": "3_0"}
    assert LegacyContext(store).task_counter == 6


def test_tasks_side_by_side_are_merged_in_order(backend: Backend, opened: Callable[[str], LegacyContext]) -> None:
    context = opened("side by side")
    context.name = "pending"
    with TaskQueue(backend) as queue:
        results = run_tasks(context, [(Notes, {"number": number}) for number in range(4)], queue)
    assert [result.number for result in results] == [0, 1, 2, 3]
    assert context.clean_list_pending == [0, 1, 2, 3]
    assert context.evla["msinfo"].popitem()[1] == Own(3)
    assert not hasattr(context, "spoilt")
    ms = context.observing_run.measurement_sets[0]
    assert ms.fields[0].flux_densities == {0, 1, 2, 3}
    assert [item["imagename"] for item in context.sciimlist.get_imlist()] == [f"image {n}" for n in range(4)]
    assert (context.task_counter, context.name, context.version) == (4, "pending", 5)
    # What came back with a result is, once it is kept, what the context has.
    kept = LegacyContext(STORES[context.identifier])
    assert kept.results[0].read().field == kept.observing_run.measurement_sets[0].fields[0]
    assert kept.results[0].read().own is kept


def test_a_task_that_fails_leaves_nothing(backend: Backend, opened: Callable[[str], LegacyContext]) -> None:
    context = opened("failing")
    store = STORES[context.identifier]
    ms = context.observing_run.measurement_sets[0]
    context.callibrary.add(CalTo(ms.name), CalFrom("B", caltype="bandpass"))
    ms.reference_antenna = "1"
    context.accept("before")
    for task, error, told in (
        (FailsAtWork, JobFailed, "no solutions for any antenna"),
        (FailsAtMerging, RuntimeError, "cannot be merged"),
        (ReturnsNothing, BadInput, "ReturnsNothing returned a NoneType"),
    ):
        with TaskQueue(backend) as queue, pytest.raises(error, match=told):
            run_task(context, task, {}, queue)
        for seen in (context, LegacyContext(store)):
            assert seen.extensions() == {}
            assert (seen.version, seen.task_counter, len(seen.results)) == (2, 0, 0)
            assert seen.callibrary.active.get_caltable() == {"B"}
            assert seen.observing_run.get_ms(ms.name).reference_antenna == "1"
    with TaskQueue(backend) as queue, pytest.raises(JobFailed, match="no solutions"):
        run_tasks(context, [(Notes, {"number": 1}), (FailsAtWork, {})], queue)
    assert store.version == 2
    with TaskQueue(backend) as queue:
        queue.add_functioncall(int)
        with pytest.raises(BadInput, match="1 other jobs"):
            run_task(context, Notes, {"number": 1}, queue)


def test_two_contexts_do_not_meet(backend: Backend, opened: Callable[[str], LegacyContext]) -> None:
    one, other = opened("one"), opened("other")
    other.padding = 1
    other.accept()
    with TaskQueue(backend) as queue:
        for context in (one, other):
            for number in range(3):
                job = context.copy()
                job.task_counter = number
                queue.add_pipelinetask(Notes, {"number": number}, job)
        outcomes = queue.get_results()
    for place, context in enumerate((one, other)):
        for outcome in outcomes[3 * place : 3 * place + 3]:
            outcome.result().accept(context)
        context.accept()
    assert one.observing_run.measurement_sets[0].name != other.observing_run.measurement_sets[0].name
    for context in (one, other):
        vis = context.observing_run.measurement_sets[0].name
        assert list(context.evla["msinfo"]) == [vis]
        assert [entry.read().vis for entry in context.results] == [vis] * 3
    assert not hasattr(one, "padding")


def test_jobs_may_read_the_store_themselves(backend: Backend, opened: Callable[[str], LegacyContext]) -> None:
    context = opened("read by jobs")
    store = STORES[context.identifier]
    reading = LegacyContext(store, where=str(store.where))
    with TaskQueue(backend) as queue:
        result = run_task(reading, Notes, {"number": 5}, queue)
    assert result.number == 5 and store.version == 2


# Contexts that the existing pipeline has pickled.


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "pipeline-old.context"
    path.write_bytes(pickle.dumps(pickled_context(unknown=made_by_pipeline("pipeline.vlass", "Thing", {}))))
    forget_the_pipeline()
    yield path


def test_a_pickled_context_is_not_read_unless_it_is_trusted(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/harm",)

    path = tmp_path / "evil.context"
    path.write_bytes(pickle.dumps(pickled_context(evil=Harm())))
    with pytest.raises(BadInput, match=r"evil.context is a pickle.*nobody said that it is trusted\n.*trusted=True"):
        read_pickled_context(path)
    # Even of a file that is wrongly trusted, nothing is run.
    translated = read_pickled_context(path, trusted=True)
    assert any("evil" in left for left in translated.left)
    assert not (tmp_path / "harm").exists()


def test_a_pickled_context_becomes_facts(old: Path) -> None:
    translated = read_pickled_context(old, trusted=True)
    with closing(Context(None)) as store:
        store.commit("translate", translated.facts)
        context = LegacyContext(store)
        (ms,) = context.observing_run.measurement_sets
        assert (ms.name, ms.session, ms.reference_antenna) == ("uid___A002.ms", "session_3", "DV1,DV0")
        assert (ms.get_data_column("RAW"), ms.spwmaps) == ("DATA", {("TARGET", "x"): [5]})
        assert [(field.name, sorted(field.intents)) for field in ms.fields] == [
            ('"field 0"', ["AMPLITUDE", "BANDPASS"]),
            ('"field 1"', ["PHASE", "WVR"]),
        ]
        assert ms.known.longest_baseline == 50.0
        assert (ms.spectral_windows[0].id, ms.spectral_windows[0].num_channels) == (5, 16)
        assert ms.scans[0].time_on_source.total_seconds() == 43200.0
        ((calto, calfroms),) = context.callibrary.active.merged().items()
        assert (calto.field, calto.spw) == ('"field 0"', "5")
        assert [(each.gaintable, each.gainfield, each.caltype) for each in calfroms] == [
            ("B", "", "bandpass"),
            ("G", "0", "gaincal"),
        ]
        assert [calto.field for calto in context.callibrary.applied.merged()] == ['"field 1"']
        assert (context.name, context.task_counter, context.evla) == ("pipeline-old", 7, {"a": (1, 2)})
        assert context.sciimlist.get_imlist() == [{"imagename": "a", "version": 1}]
        assert context.project_summary.proposal_code == "2025.1"
        assert store.last(Project) is not None
    told = "\n".join(translated.left)
    assert len(translated.left) == 4
    for what in ("broken.ms", "flagger", "1 results", "unknown"):
        assert what in told


def test_what_is_no_context_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.context"
    path.write_bytes(b"nonsense")
    with pytest.raises(ContextError, match="cannot be read as a pickle"):
        read_pickled_context(path, trusted=True)
    path.write_bytes(pickle.dumps({"observing_run": 1}))
    with pytest.raises(BadInput, match="no pipeline context"):
        read_pickled_context(path, trusted=True)
    with pytest.raises(ContextError, match="No such file"):
        read_pickled_context(tmp_path / "none.context", trusted=True)
    with closing(Context(None)) as store, pytest.raises(BadInput, match="cannot be taken for an MS"):
        LegacyContext(store).observing_run.add_measurement_set(field)


def test_the_command_that_reads_a_pickled_context_wants_to_be_told_that_it_is_trusted(
    old: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "session"
    command = ("context", "import-pickled", old, "--workdir", workdir)
    refused = surgeline(*command)
    assert refused.returncode == 2
    assert "--trusted" in refused.stderr
    assert not workdir.exists()
    done = surgeline(*command, "--trusted")
    assert done.returncode == 0, done.stderr
    shown = surgeline("context", "show", "Observation", "--workdir", workdir)
    assert "uid___A002.ms" in shown.stdout
