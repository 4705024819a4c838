"""What the context can do, one test for each row of the table at the end of docs/context.md."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any, ClassVar

import cloudpickle
import pytest
import yaml
from jsonschema import Draft202012Validator
from prov.model import ProvDocument
from pydantic import ValidationError

import cheap_stages
from serve.serving import API, Server, make_product, serving
from support import NOBODY, ROOT, surgeline, wait_until
from surgeline import FunctionCall, TaskQueue, open_backend
from surgeline.config import load
from surgeline.context.attempts import read_attempts
from surgeline.context.calibration import applycal_arguments, register, unregister
from surgeline.context.difference import difference
from surgeline.context.export import export_json, json_schema
from surgeline.context.legacy import LegacyContext, run_task
from surgeline.context.lineage import lineage
from surgeline.context.matching import (
    MatchOverride,
    WindowGroup,
    choose_data,
    match_fields,
    match_windows_by_overlap,
    match_windows_exactly,
    match_windows_in_range,
    real_numbers,
    virtual_id,
)
from surgeline.context.prov import export_prov
from surgeline.context.records import (
    Antenna,
    CalibrationApplication,
    Extension,
    Fact,
    Field,
    FlagSummary,
    ImagePlan,
    Observation,
    Project,
    QualityScore,
    ReferenceAntenna,
    Roles,
    Scan,
    SpectralWindow,
)
from surgeline.context.reference import ContextReference, answer
from surgeline.context.snapshot_file import export_snapshot
from surgeline.context.store import Context
from surgeline.errors import ConflictError, SurgelineError
from surgeline.work.surroundings import FactQuery
from surgeline.work.taskqueue import Backend

# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

MHZ, GHZ = 1e6, 1e9
INTENTS = ("CALIBRATE_BANDPASS#ON_SOURCE", "CALIBRATE_PHASE#ON_SOURCE", "OBSERVE_TARGET#ON_SOURCE")
SOURCES = ("3C 286", "J1445+0958", "NGC 5921")


def window(number: int, low: float = 1.4 * GHZ, channels: int = 64, width: float = MHZ) -> SpectralWindow:
    """A spectral window by its lower edge."""
    middle = low + (channels // 2 + 0.5) * width
    return SpectralWindow(
        id=number, name="", channels=channels, reference_frequency=middle, channel_width=width,
        bandwidth=channels * width,
    )  # fmt: skip


def observation(
    vis: str = "a.ms",
    windows: Sequence[SpectralWindow] = (window(0), window(1, 1.5 * GHZ)),
    names: Sequence[str] = SOURCES,
    start: float = 0.0,
    telescope: str = "VLA",
) -> Observation:
    """A calibrator of the bandpass, one of the phases, and a target, a scan each."""
    fields = [
        Field(id=number, name=name, ra=10.0 * number, dec=5.0, intents=(INTENTS[number],))
        for number, name in enumerate(names)
    ]
    scans = [
        Scan(
            number=field.id + 1, fields=(field.id,), spectral_windows=tuple(each.id for each in windows),
            start=start + 100 * field.id, end=start + 100 * field.id + 90, intents=field.intents,
        )
        for field in fields
    ]  # fmt: skip
    return Observation(
        vis=vis, origin=vis, telescope=telescope, observer="somebody", project="AB1", start=start, end=start + 300,
        rows=1000, size=10**6, fields=tuple(fields), spectral_windows=tuple(windows), scans=tuple(scans),
        antennas=(Antenna(id=0, name="VA01", station="N1", east=0.0, north=0.0, diameter=25.0),),
        longest_baseline=1000.0,
    )  # fmt: skip


# A session of stages that cost next to nothing, run as a user does.

STAGES: list[dict[str, Any]] = [{"task": "make"}, {"task": "change"}, {"task": "total"}]
CHANGED: list[dict[str, Any]] = [{"task": "make"}, {"task": "change", "arguments": {"by": 7}}, {"task": "total"}]
SLOW: list[dict[str, Any]] = [{"task": "make"}, {"task": "change", "arguments": {"pause": 600}}, {"task": "total"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all sessions of this file are; the cheap stages are an installed package there."""
    made = tmp_path_factory.mktemp("capabilities")
    cheap_stages.install(made / "plugins")
    return made


def command(workdir: Path, stages: Sequence[dict[str, Any]], verb: str = "run") -> list[str | Path]:
    """The command that runs a recipe of these stages."""
    recipe = workdir.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump({"name": "cheap", "stages": list(stages)}))
    return [verb, recipe, "--workdir", workdir, "--set", "backend=serial"]


def run(workdir: Path, stages: Sequence[dict[str, Any]], verb: str = "run") -> str:
    """Run a recipe of these stages; returns what was told."""
    done = surgeline(*command(workdir, stages, verb), PYTHONPATH=str(workdir.parent / "plugins"))
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running_until_killed(workdir: Path, stages: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Run a recipe beside the test, and kill it without warning in the end."""
    words = map(str, command(workdir, stages))
    process = subprocess.Popen(
        [sys.executable, "-m", "surgeline.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(workdir.parent / "plugins")},
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def knowledge(workdir: Path) -> Iterator[Context]:
    """What a session knows."""
    with closing(Context(workdir / "context.db")) as context:
        yield context


@pytest.fixture(scope="module")
def session(folder: Path) -> Path:
    """The working folder of a session that has finished."""
    run(folder / "session", STAGES)
    return folder / "session"


@pytest.fixture(scope="module")
def rerun(session: Path) -> tuple[Path, str, str]:
    """The same session run again with another argument: its working folder, what was planned, what was told."""
    workdir = session.with_name("rerun")
    shutil.copytree(session, workdir)
    return workdir, run(workdir, CHANGED, "plan"), run(workdir, CHANGED)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """The HTTP API over sessions that have not begun."""
    with serving(folder / "progress", folder / "artifacts", folder / "events") as found:
        yield found


STORES: dict[str, Context] = {}


def ask(query: FactQuery) -> Any:
    """The session's side of a question that a job asks."""
    return answer(STORES[query.context], query)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Two workers of Dask, which know no store and may ask."""
    configuration = load(overrides=["backend=dask", "dask.n_workers=2"])
    with closing(open_backend(configuration, folder=tmp_path_factory.mktemp("workers"), ask=ask)) as opened:
        yield opened


@contextmanager
def asked_by_workers(store: Context) -> Iterator[ContextReference]:
    """Let workers ask a store; gives what jobs carry."""
    STORES[store.identifier] = store
    yield ContextReference(store.identifier, store.version)
    del STORES[store.identifier]


# What the context of the existing pipeline does.


def test_populate_and_query_observation_metadata(store: Context) -> None:
    store.commit("import", [observation("a.ms"), observation("b.ms", telescope="ALMA")])
    found = store.last(Observation, vis="a.ms")
    assert found is not None
    assert [field.name for field in found.fields if INTENTS[2] in field.intents] == ["NGC 5921"]
    assert [(each.channels, each.bandwidth) for each in found.spectral_windows] == [(64, 64 * MHZ)] * 2
    assert [scan.number for scan in found.scans if 1 in scan.fields] == [2]
    assert [each.vis for each in store.all(Observation, telescope="ALMA")] == ["b.ms"]
    # Tasks of the existing framework ask in their own way.
    ms = LegacyContext(store).observing_run.get_ms("a.ms")
    assert [field.id for field in ms.get_fields(intent="PHASE")] == [1]


def test_cross_ms_lookup(store: Context) -> None:
    later = observation("b.ms", [window(17, 1.5 * GHZ), window(4)], start=1e5)
    store.commit("import", [observation("a.ms"), later])
    store.commit("match", match_windows_exactly(store.all(Observation)).facts())
    groups = store.all(WindowGroup)
    assert virtual_id(groups, "b.ms", 17) == virtual_id(groups, "a.ms", 1) == 1
    assert real_numbers(groups, 1, "b.ms") == (17,)
    observing_run = LegacyContext(store).observing_run
    assert observing_run.virtual2real_spw_id(0, observing_run.get_ms("b.ms")) == 4
    assert [ms.basename for ms in observing_run.measurement_sets if ms.get_fields("NGC 5921")] == ["a.ms", "b.ms"]


def test_project_metadata(store: Context) -> None:
    store.commit("begin", [Project(code="AB1", observer="somebody", telescope="VLA", recipe="calimage")])
    project = store.last(Project, code="AB1")
    assert project is not None and (project.observer, project.recipe) == ("somebody", "calimage")
    context = LegacyContext(store)
    assert context.project_summary.proposal_code == "AB1"
    context.project_structure.ousstatus_entity_id = "uid://A001/X1"
    context.accept("begin")
    assert LegacyContext(store).project_structure.ousstatus_entity_id == "uid://A001/X1"


def test_calibration_state_with_scope_and_unregistering(store: Context) -> None:
    store.commit("import", [observation("a.ms")])
    draft = store.draft("calibrate")
    register(
        draft,
        CalibrationApplication(table="a.B", vis="a.ms", interp="nearest"),
        CalibrationApplication(table="a.G", vis="a.ms", intent="*PHASE*,*TARGET*", gainfield="1"),
    )
    calibrated = draft.accept()

    def tables(field: str, version: int | None = None) -> list[str]:
        return applycal_arguments(store.at(version), "a.ms", field=field)["gaintable"]

    assert (tables("3C 286"), tables("NGC 5921")) == (["a.B"], ["a.B", "a.G"])
    draft = store.draft("calibrate anew")
    unregister(draft, lambda application: application.table == "a.G", vis="a.ms")
    draft.accept()
    assert tables("NGC 5921") == ["a.B"]
    assert tables("NGC 5921", calibrated) == ["a.B", "a.G"]


class Mask(Fact):
    """What a mask was made with, as an older version recorded it."""

    kind_name: ClassVar[str] = "tests.Mask"
    identity: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    sigma: float


class NewerMask(Mask):
    """The same kind, with a field more."""

    schema_version: ClassVar[int] = 2

    grow: int

    @classmethod
    def from_older(cls, body: dict[str, Any], schema_version: int) -> dict[str, Any]:
        return {**body, "grow": 0}


def test_imaging_state_with_a_schema(store: Context) -> None:
    plan = ImagePlan(
        name="NGC_5921.cube", vis="a.ms", field="NGC 5921", spectral_windows="0", kind="cube",
        arguments={"imsize": 256, "cell": "15arcsec"}, threshold_sigma=3.0,
    )  # fmt: skip
    store.commit("plan_images", [plan, Mask(name="NGC_5921.cube", sigma=5.0)])
    assert store.last(ImagePlan, kind="cube") == plan
    with pytest.raises(ValidationError, match="thresold"):
        ImagePlan.model_validate({**plan.model_dump(), "thresold": 1.0})
    assert "threshold_sigma" in json_schema()["$defs"]["ImagePlan"]["properties"]
    # What an older version recorded is read as it is now.
    assert store.last(NewerMask) == NewerMask(name="NGC_5921.cube", sigma=5.0, grow=0)


def test_image_registries(store: Context) -> None:
    context = LegacyContext(store)
    context.sciimlist.add_item({"imagename": "NGC_5921.cube.image", "metadata": {"beam": [45.0, 40.0]}})
    context.sciimlist.add_item({"imagename": "NGC_5921.cont.image"})
    context.calimlist.add_item({"imagename": "J1445.mfs.image"})
    context.accept("make_images")
    again = LegacyContext(store)
    assert [item["imagename"] for item in again.calimlist.get_imlist()] == ["J1445.mfs.image"]
    assert again.sciimlist.get_imlist()[0]["metadata"] == {"beam": [45.0, 40.0]}
    again.sciimlist.delete_item({"imagename": "NGC_5921.cont.image"})
    again.accept("make_images again")
    kept = LegacyContext(store).sciimlist.get_imlist()
    assert [item["imagename"] for item in kept] == ["NGC_5921.cube.image"]


def test_progress(folder: Path, server: Server) -> None:
    path = server.session("progress")
    assert server.json(path)["state"] == "not begun"

    def states() -> list[tuple[str, str]]:
        return [(stage["name"], stage["state"]) for stage in server.json(path)["stages"]]

    expected = [("make", "finished"), ("change", "running"), ("total", "waiting")]
    with running_until_killed(folder / "progress", SLOW):
        wait_until(lambda: states() == expected, 60, "one stage has finished and the next one runs")


def test_per_stage_record(session: Path) -> None:
    with knowledge(session) as context:
        make, change, total = context.log()
        attempts = read_attempts(context, "change")
        said = context.said_by(total.version)
    assert [commit.stage for commit in (make, change, total)] == ["make", "change", "total"]
    assert (change.details["task"], change.details["needs"], change.details["arguments"]) == ("change", ["make"], {})
    assert change.details["files"]["changed"].keys() == {"data/numbers.json"}
    assert [fact.kind for fact in said] == ["cheap.Total"]
    changes = [attempt for attempt in attempts if attempt.job.startswith("change")]
    assert [(attempt.job, attempt.state) for attempt in changes] == [(f"change {n}", "finished") for n in range(3)]
    assert all(attempt.host and attempt.started <= attempt.ended for attempt in attempts)


def test_propagation_to_later_stages(session: Path) -> None:
    with knowledge(session) as context:
        make, _, total = context.log()
        made = context.at(make.version).all(cheap_stages.Numbers)
    assert made == [cheap_stages.Numbers(path="data/numbers.json", count=20)]
    # The last stage found by itself what the first had said, and that is on record.
    assert total.details["read"] == [["cheap.Numbers", '["data/numbers.json"]', make.version]]


def test_transient_workspace(store: Context) -> None:
    store.commit("import", [ReferenceAntenna(vis="a.ms", names=("VA01",), reason="central")])
    for name, keep in (("VA02", False), ("VA03", True)):
        draft = store.draft("try a reference antenna")
        draft.add(ReferenceAntenna(vis="a.ms", names=(name,), reason="tried"))
        tried, held = draft.last(ReferenceAntenna), store.last(ReferenceAntenna)
        assert tried is not None and tried.names == (name,)
        # Nobody else sees it.
        assert held is not None and held.names == ("VA01",)
        if keep:
            draft.accept()
        else:
            draft.drop()
    assert [each.names for each in store.all(ReferenceAntenna)] == [("VA03",)]
    assert [commit.stage for commit in store.log()] == ["import", "try a reference antenna"]


class ChosenAntenna:
    """What the task of the existing framework returns."""

    def __init__(self, vis: str, name: str) -> None:
        self.vis, self.name = vis, name

    def accept(self, context: Any) -> None:
        context.observing_run.get_ms(self.vis).reference_antenna = self.name
        context.results.append(self)


class ChooseAntenna:
    """A task in the form that the existing framework gives its tasks."""

    class Inputs:
        def __init__(self, context: Any, vis: str) -> None:
            self.context, self.vis = context, vis

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def execute(self) -> ChosenAntenna:
        ms = self.inputs.context.observing_run.get_ms(self.inputs.vis)
        return ChosenAntenna(self.inputs.vis, f"of {len(ms.fields)} fields")


def test_several_drivers(folder: Path, workers: Backend) -> None:
    workdir = folder / "drivers"
    run(workdir, STAGES[:1])
    with knowledge(workdir) as context, asked_by_workers(context), TaskQueue(workers) as queue:
        assert context.last(cheap_stages.Numbers) is not None
        context.commit("by Python", [observation("a.ms")])
        run_task(LegacyContext(context), ChooseAntenna, {"vis": "a.ms"}, queue)
        assert context.stages() == ["make", "by Python", "ChooseAntenna"]
        assert len(LegacyContext(context).results) == 1
    shown = surgeline("context", "show", "ReferenceAntenna", "--json", "--workdir", workdir)
    assert [(fact["stage"], fact["body"]["names"]) for fact in json.loads(shown.stdout)] == [
        ("ChooseAntenna", ["of 3 fields"])
    ]
    run(workdir, STAGES)
    with knowledge(workdir) as context:
        assert {"by Python", "ChooseAntenna", "total"} <= set(context.stages())


def test_save_and_restore(folder: Path, session: Path) -> None:
    workdir = folder / "restored"

    def half_way() -> bool:
        states = workdir / "run.json"
        return states.exists() and [each["state"] for each in json.loads(states.read_text())["stages"]] == [
            "finished", "running", "waiting",
        ]  # fmt: skip

    with running_until_killed(workdir, SLOW):
        wait_until(half_way, 60, "the second stage runs")
    # Nothing had to be saved: what was committed is in the store, and the session goes on after it.
    assert "1 of 3 stages had finished before" in run(workdir, STAGES)
    assert (workdir / "products" / "total.json").read_text() == (session / "products" / "total.json").read_text()
    with knowledge(workdir) as context:
        context.commit("import", [observation("a.ms")])
        saved = workdir / "saved.context"
        LegacyContext(context).save(str(saved))
    # The existing framework's way to save gives a small file that refers to the store.
    assert saved.stat().st_size < 1000
    assert pickle.loads(saved.read_bytes()).observing_run.get_ms("a.ms").basename == "a.ms"


def flagged(reference: ContextReference, vis: str) -> FlagSummary:
    """What a job finds out of an MS, for which it asks for what is known of that MS."""
    known = reference.last(Observation, vis=vis)
    assert known is not None
    return FlagSummary(vis=vis, after="flag", total=known.rows / 10_000, fields={}, antennas={})


def test_state_to_parallel_workers(store: Context, workers: Backend) -> None:
    names = [f"{number}.ms" for number in range(8)]
    store.commit("import", [observation(name) for name in names])
    with asked_by_workers(store) as reference, TaskQueue(workers) as queue:
        # What is said later is of no concern to them.
        store.commit("import again", [observation(name).model_copy(update={"rows": 0}) for name in names])
        for name in names:
            queue.add(FunctionCall(flagged, reference, name))
        found = [outcome.result() for outcome in queue.get_results()]
    assert [(each.vis, each.total) for each in found] == [(name, 0.1) for name in names]
    # However much is known, a job carries as little.
    assert len(pickle.dumps(reference)) < 1000


def test_aggregate_from_workers(store: Context, workers: Backend) -> None:
    names = [f"{number}.ms" for number in range(8)]
    base = store.commit("import", [observation(name) for name in names])
    with asked_by_workers(store) as reference, TaskQueue(workers) as queue:
        for name in [*names, "missing.ms"]:
            queue.add(FunctionCall(flagged, reference, name))
        *done, failed = queue.get_results()
    # One job that fails takes nothing away from the others, which become visible together.
    assert not failed.ok
    store.commit("flag", [outcome.result() for outcome in done], base=base)
    assert [each.vis for each in store.all(FlagSummary)] == names
    assert store.at(base).all(FlagSummary) == []


def test_read_only_state_for_reports(store: Context) -> None:
    first = store.commit("begin", [Project(code="AB1", observer="one", telescope="VLA", recipe="calimage")])
    with closing(Context(store.where, store.identifier, read_only=True)) as reader:
        report = reader.at()
        store.commit("correct", [Project(code="AB1", observer="other", telescope="VLA", recipe="calimage")])
        # A report is of one version from beginning to end.
        assert report.version == first
        assert [project.observer for project in report.all(Project)] == ["one"]
        with pytest.raises(SurgelineError):
            reader.commit("report", [])
    assert store.version == 2


def test_qa(store: Context) -> None:
    def score(value: float, reason: str) -> QualityScore:
        return QualityScore(stage="flag", metric="flagged", vis="a.ms", score=value, reason=reason)

    first = store.commit("flag", [score(0.4, "60 % of a.ms is flagged")])
    assert [each.reason for each in store.all(QualityScore) if each.score < 0.5] == ["60 % of a.ms is flagged"]
    store.commit("flag again", [score(0.9, "10 % of a.ms is flagged")])
    assert [each.score for each in store.all(QualityScore, stage="flag")] == [0.9]
    assert [each.score for each in store.at(first).all(QualityScore)] == [0.4]


def test_inspection(rerun: tuple[Path, str, str]) -> None:
    workdir, *_ = rerun

    def inspect(*words: str) -> Any:
        return json.loads(surgeline("context", *words, "--json", "--workdir", workdir).stdout)

    assert [(commit["stage"], commit["withdrawn_by"]) for commit in inspect("log")] == [
        ("make", None), ("change", 4), ("total", 4), ("rerun", None), ("change", None), ("total", None),
    ]  # fmt: skip
    (shown,) = inspect("show", "cheap.Total")
    (changed,) = inspect("diff", "3", "6")["changed"]
    (field,) = changed["fields"]
    assert (field["field"], field["after"]) == ("total", shown["body"]["total"])
    assert field["before"] != field["after"]


def test_telescope_extensions(store: Context) -> None:
    for telescope, value in (("vla", {"bands": ["L"]}), ("alma", "B3"), ("vla", {"bands": ["L", "S"]})):
        store.commit("import", [Extension(namespace=telescope, name="receivers", value=value)])
    # A package may bring kinds of its own, too, with a schema of their own.
    store.commit("make", [cheap_stages.Numbers(path="data/numbers.json", count=20)])
    assert {fact.namespace: fact.value for fact in store.all(Extension)} == {
        "vla": {"bands": ["L", "S"]}, "alma": "B3",
    }  # fmt: skip
    assert [fact.count for fact in store.all(cheap_stages.Numbers)] == [20]
    # Who has not installed it can still hand it on.
    (handed_on,) = json.loads("".join(export_json(store)))["facts"]["cheap.Numbers"]
    assert handed_on["body"] == {"path": "data/numbers.json", "count": 20}


def test_export(store: Context, tmp_path: Path) -> None:
    first = store.commit("import", [observation("a.ms")], details={"task": "import"})
    store.commit("import more", [observation("b.ms")])
    exported = json.loads("".join(export_json(store)))
    Draft202012Validator(json_schema()).validate(exported)
    assert [fact["body"]["vis"] for fact in exported["facts"]["Observation"]] == ["a.ms", "b.ms"]
    prov = ProvDocument.deserialize(content="".join(export_prov(store)), format="json")
    assert len(prov.get_records()) > 0
    # One version as a store of its own, which answers as the whole does.
    export_snapshot(store, first, tmp_path / "snapshot.db")
    with closing(Context(tmp_path / "snapshot.db", read_only=True)) as snapshot:
        assert snapshot.all(Observation) == [observation("a.ms")]


# What it cannot do, and this one can.


def test_asynchronous_stages_with_isolation_and_conflict_detection(store: Context) -> None:
    def antenna(vis: str, name: str) -> ReferenceAntenna:
        return ReferenceAntenna(vis=vis, names=(name,), reason="central")

    stages = {"one": antenna("a.ms", "VA01"), "contrary": antenna("a.ms", "VA02"), "other": antenna("b.ms", "VA03")}
    all_began = Barrier(len(stages))

    def run_stage(name: str) -> str:
        draft = store.draft(name)
        all_began.wait(60)
        draft.add(stages[name])
        # Whoever has committed meanwhile, a stage sees the version that it began with, and its own.
        assert draft.all(ReferenceAntenna) == [stages[name]]
        try:
            draft.accept()
        except ConflictError as error:
            return error.message
        return ""

    with ThreadPoolExecutor(len(stages)) as threads:
        refusals = dict(zip(stages, threads.map(run_stage, stages), strict=True))
    # Of two that contradict each other the second is refused whole, and told by whom and in what.
    (refused,) = [name for name, refusal in refusals.items() if refusal]
    (kept,) = {"one", "contrary"} - {refused}
    for word in ("ReferenceAntenna", "a.ms", f"'{kept}'", f"'{refused}'"):
        assert word in refusals[refused]
    assert sorted(commit.stage for commit in store.log()) == sorted([kept, "other"])
    assert store.all(ReferenceAntenna, vis="a.ms") == [stages[kept]]


# Asks for facts and for the product of a checksum; it has an address, and of the session nothing else.
REMOTE = """
import encodings.idna, hashlib, json, os, sys
from urllib.parse import urljoin
from urllib.request import urlopen

session, sha256, folder, nobody = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(nobody))
    os.setuid(int(nobody))
(roles,) = json.load(urlopen(urljoin(session, "facts?kind=Roles")))["items"]
content = urlopen(urljoin(session, f"artifacts/{sha256}")).read()
may_enter = os.access(folder, os.R_OK)
print(json.dumps([roles["body"]["target"], hashlib.sha256(content).hexdigest(), may_enter]))
"""


def test_state_and_artifacts_without_a_shared_filesystem(folder: Path, server: Server) -> None:
    workdir = folder / "artifacts"
    cube = make_product(workdir, "cube.fits", bytes(range(256)) * 100)
    with knowledge(workdir) as context:
        roles = Roles(vis="a.ms", flux=(0,), bandpass=(0,), phase=(1,), target=(2,), reason="by intent")
        context.commit("export", [roles, cube, make_product(workdir, "mask.fits", b"mask", "mask")])
    workdir.chmod(0o700)
    address = f"{server.url.rstrip('/')}{API}{server.session('artifacts')}/"
    words = [sys.executable, "-I", "-c", REMOTE, address, cube.sha256, workdir, str(NOBODY)]
    asked = subprocess.run(words, cwd="/", capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    target, sha256, may_enter = json.loads(asked.stdout)
    assert (target, sha256) == ([2], cube.sha256)
    # Only root's processes can become somebody who may not enter the working folder.
    assert not may_enter or os.geteuid() != 0


def test_provenance(session: Path) -> None:
    with knowledge(session) as context:
        found = lineage(context, "products/total.json", session)
    assert [step.stage for step in found.steps] == ["total", "change", "make"]
    total, change, _ = found.steps
    # The data as they were left are told from the data as they had been found.
    assert change.changed[0].digest == total.read[0].digest != change.read[0].digest
    assert [job.job for job in change.jobs if job.job.startswith("change")] == [f"change {n}" for n in range(3)]
    content = (session / "products" / "total.json").read_bytes()
    assert found.product.digest.endswith(hashlib.sha256(content).hexdigest())
    (environment,) = found.environments.values()
    assert {"surgeline", "numpy"} <= environment["software"].keys()


def test_partial_rerun(rerun: tuple[Path, str, str]) -> None:
    workdir, planned, told = rerun
    # It is told before anything runs, with the reason.
    for words in ("argument by: by heuristics → 7", "it uses data/numbers.json, which 'change' makes anew"):
        assert words in planned and words in told
    assert "make: began" not in told
    with knowledge(workdir) as context:
        assert [attempt.stage for attempt in read_attempts(context)].count("make") == 1
        assert context.stages() == ["make", "rerun", "change", "total"]


def test_external_systems(folder: Path, server: Server) -> None:
    (folder / "events").mkdir()
    path = server.session("events")
    with knowledge(folder / "events") as context:
        context.commit("import", [observation("a.ms")])
        address = f"{server.url.rstrip('/')}{API}{path}/events"
        with urllib.request.urlopen(address, timeout=20) as events:
            commits = (json.loads(line[6:]) for line in events if line.startswith(b"data: "))
            assert next(commits)["stage"] == "import"
            # Who listens is told what happens from now on, too.
            context.commit("flag", [])
            assert next(commits)["stage"] == "flag"
    (fact,) = server.every(f"{path}/facts?kind=Observation")
    assert (fact["version"], fact["body"]["telescope"]) == (1, "VLA")


FETCH = """
const answer = await fetch(process.argv[1]);
const { items } = await answer.json();
console.log(JSON.stringify(items.map((fact) => [fact.stage, fact.body.vis, fact.body.fields.length])));
"""


def ask_in_sql(store: Context, question: str) -> list[str]:
    """Ask with a database's own means: psql, or any program that reads SQLite's files."""
    if isinstance(store.where, Path):
        with closing(sqlite3.connect(f"file:{store.where}?mode=ro", uri=True)) as database:
            return ["|".join(row) for row in database.execute(question)]
    psql = ["psql", "--no-align", "--tuples-only", "--command", question]
    address = str(store.where).replace("+psycopg", "")
    return subprocess.run([*psql, address], capture_output=True, text=True, check=True).stdout.splitlines()


def test_any_language(store: Context) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node, in which the client is written")
    store.commit("import", [observation("a.ms")])
    store.commit("import more", [observation("b.ms", names=SOURCES[:1])])
    with serving(store.where.parent if isinstance(store.where, Path) else str(store.where)) as server:
        (session,) = server.every("/sessions")
        address = f"{server.url.rstrip('/')}{API}/sessions/{session['id']}/facts?kind=Observation"
        fetched = subprocess.run(
            [node, "--input-type=module", "--eval", FETCH, address], capture_output=True, text=True, check=True
        )
    assert json.loads(fetched.stdout) == [["import", "a.ms", 3], ["import more", "b.ms", 1]]
    question = "SELECT stage, subject FROM current_facts WHERE kind = 'Observation' ORDER BY version"
    assert ask_in_sql(store, question) == ['import|["a.ms"]', 'import more|["b.ms"]']


def test_incremental_data_an_added_ms(store: Context) -> None:
    def match() -> int:
        found = match_windows_exactly(store.all(Observation), known=store.all(WindowGroup))
        return store.commit("match", found.facts())

    store.commit("import", [observation("b.ms", start=1e5)])
    before = match()
    old = store.at(before).all(WindowGroup)
    # The MS that comes later was observed earlier, numbers its windows otherwise, and has one more.
    store.commit("import more", [observation("a.ms", [window(0, 1.5 * GHZ), window(1), window(2, 1.6 * GHZ)])])
    match()
    now = store.all(WindowGroup)
    assert [(virtual_id(now, "b.ms", number), virtual_id(old, "b.ms", number)) for number in (0, 1)] == [
        (0, 0), (1, 1),
    ]  # fmt: skip
    assert [virtual_id(now, "a.ms", number) for number in (0, 1, 2)] == [1, 0, 2]
    # The version before is what it was.
    assert store.at(before).all(WindowGroup) == old
    assert [known.vis for known in store.at(before).all(Observation)] == ["b.ms"]


def test_incremental_data_versioned_results(session: Path, rerun: tuple[Path, str, str]) -> None:
    workdir, *_ = rerun
    with knowledge(workdir) as context:
        first, second = (context.at(version).all(cheap_stages.Total)[0] for version in (3, 6))
        (changed,) = [each for each in difference(context, 3, 6).changed if each.after.kind == "cheap.Total"]
    assert [(field.before, field.after) for field in changed.fields] == [(first.total, second.total)]
    # The files of both are there, those of the first under its version.
    assert json.loads((workdir / "products" / "total.json").read_text()) == second.total
    assert json.loads((workdir / "replaced" / "3" / "products" / "total.json").read_text()) == first.total


def test_matching_across_unlike_mss(store: Context) -> None:
    fine = window(3, channels=128, width=MHZ / 2)
    names = ("3C286", "1445+099", "NGC 5921")
    observations = [
        observation("a.ms", [window(0)]),
        observation("b.ms", [window(5, 1.4 * GHZ + 0.3 * MHZ)], names=names, start=1.0),
        observation("c.ms", [fine], start=2.0),
    ]

    def members(groups: Sequence[Any]) -> list[list[str]]:
        return [[f"{member.vis} {member.number}" for member in group.members] for group in groups]

    exactly = match_windows_exactly(observations)
    assert members(exactly.groups) == [["a.ms 0", "b.ms 5"], ["c.ms 3"]]
    overlapping = match_windows_by_overlap(observations)
    assert members(overlapping.groups) == [["a.ms 0", "b.ms 5", "c.ms 3"]]
    line = match_windows_in_range(observations, 1.42 * GHZ, 1.43 * GHZ)
    assert members(line.groups) == [["a.ms 0", "b.ms 5", "c.ms 3"]]
    # Fields are the same by their place, whatever they are called.
    fields = match_fields(observations)
    assert [group.names for group in fields.groups[:2]] == [("3C 286", "3C286"), ("J1445+0958", "1445+099")]
    columns = {"a.ms": {"RAW": "DATA", "CALIBRATED": "CORRECTED_DATA"}, "b.ms": {"RAW": "DATA"}}
    data = choose_data(columns, ("CALIBRATED", "RAW"))
    assert (data.data_type, [each.column for each in data.columns]) == ("RAW", ["DATA", "DATA"])
    assert "a.ms has CALIBRATED, too" in data.told[0]
    # A user's word counts more than the rules, and its reason is kept.
    word = MatchOverride(
        vis="c.ms", what="spectral window", number=3, belongs=False, groups=(0,), reason="its edge has interference"
    )
    corrected = match_windows_by_overlap(observations, overrides=[word])
    store.commit("match", [word, *corrected.facts(), *fields.facts(), data])
    assert members(store.all(WindowGroup)) == [["a.ms 0", "b.ms 5"], ["c.ms 3"]]
    (member,) = store.all(WindowGroup)[1].members
    assert member.overridden and "its edge has interference" in member.reason
    with pytest.raises(ValidationError, match="needs a reason"):
        MatchOverride(**{**word.model_dump(), "reason": " "})


# The table.


def test_every_row_of_the_table_has_its_test_and_every_test_its_row() -> None:
    _, _, section = (ROOT / "docs" / "context.md").read_text(encoding="utf-8").partition("\n## What it can do\n")
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    rows = [(capability, test.strip("`")) for capability, _, test in lines[2:]]
    this = test_every_row_of_the_table_has_its_test_and_every_test_its_row.__name__
    tests = [name for name in globals() if name.startswith("test_") and name != this]
    assert [test for _, test in rows] == tests
    for capability, test in rows:
        words = "".join(letter if letter.isalnum() else " " for letter in capability.lower())
        assert test == f"test_{'_'.join(words.split())}"
