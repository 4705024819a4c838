from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from surgeline.clusters.accounting import Account, Accounts
from surgeline.context.records import (
    Antenna,
    CalibrationTable,
    Command,
    Dataset,
    Decision,
    Fact,
    Field,
    FlagSummary,
    FluxDensity,
    Image,
    ImagePlan,
    Observation,
    Picture,
    Product,
    ReferenceAntenna,
    Roles,
    Scan,
    SpectralWindow,
)
from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.report import units
from surgeline.report.script import commands_script, without_defaults
from surgeline.report.timeline import RunningTime, draw
from surgeline.report.weblog import write_weblog

START = 1_760_000_000.0
OBSERVED = 1_750_000_000.0
VIS = "ngc5921.ms"
HOSTILE = "NGC <script>alert('x')</script> & \"5921\""
GAINCAL = (
    "gaincal( vis='data/ngc5921.ms', caltable='calibration/ngc5921.G', field='0', spw='', intent='', "
    "selectdata=True, timerange='', uvrange='', solint='int', combine='', preavg=-1.0, refant='VA15', "
    "minsnr=3.0, solnorm=False, gaintype='G', calmode='p', gaintable=[], append=False, parang=False )"
)
TASKS = {
    "import": 2, "flag": 2, "set_model": 1, "bandpass": 2, "gaincal": 6, "fluxscale": 1, "applycal": 3,
    "continuum_subtract": 1, "plan_images": 0, "make_images": 21, "moments": 2, "export": 0,
}  # fmt: skip


ACCOUNTS = Accounts(
    {
        "flag": Account(workers=2, queued=18, asked=400, used=321, starting=14, idle=65),
        "make_images": Account(
            workers=1, queued=61, asked=3500, used=3000, lost=77, starting=8, idle=415, gpu_asked=99
        ),
    },
    in_vain=Account(workers=1, queued=4, asked=11, starting=11),
    peak_cores=8,
    fixed=15644,
)


def log_line(priority: str, text: str) -> str:
    return f"2026-10-09 09:00:00\t{priority}\ttclean::SIImageStore::restore\t{text}"


def a_job(name: str, begin: float, seconds: float, worker: int, **other: Any) -> dict[str, Any]:
    return {
        "name": name,
        "call": f"tclean(vis='data/ngc5921.ms', imagename='images/{name}', specmode='cube', niter=5000)",
        "state": "finished",
        "submitted": begin - 1.5,
        "started": begin,
        "ended": begin + seconds,
        "host": "node-1",
        "worker": f"worker-{worker}",
        "process": 4100 + worker,
        "peak_memory": 1_230_000_000 + 9_000_000 * int(seconds),
        "cpu_seconds": seconds * 0.93,
        "resources": "1 core",
        "failure": None,
        "losses": [],
        "commands": [],
        "log": [],
        **other,
    }


def a_stage(name: str, state: str = "finished", **other: Any) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "name": name, "task": name, "state": state, "started": None, "ended": None, "arguments": {},
        "cluster": "local", "needs": [], "error": None, "jobs": [],
    }  # fmt: skip
    return {**stage, **other}


def a_record(**other: Any) -> dict[str, Any]:
    """A run of 41 jobs on two workers, one of which was lost; one job failed and was done without."""
    stages: list[dict[str, Any]] = []
    now = START + 1.0
    for position, (task, count) in enumerate(TASKS.items()):
        begin, free, jobs = now, [now, now], []
        for number in range(count):
            worker = free.index(min(free))
            seconds = 6.0 + 7.0 * ((5 * number + 3 * position) % 7)
            jobs.append(a_job(f"{task} {number}", free[worker], seconds, worker))
            free[worker] += seconds + 0.3
        now = max(*free, begin + 1.0) + 0.5
        needs = [stages[-1]["name"]] if stages else []
        stages.append(a_stage(task, started=begin, ended=now, jobs=jobs, needs=needs))
    gaincal, images = stages[4], stages[9]
    gaincal["jobs"][0]["commands"] = [GAINCAL]
    gaincal["arguments"] = {"solint": "int", "minsnr": 3.0}
    lost = images["jobs"][6]["started"]
    how = "killed by signal 9: out of memory"
    images["jobs"][7]["losses"] = [{"worker": "worker-1", "how": how, "when": lost}]
    images["jobs"][12].update(
        state="failed",
        failure={
            "kind": "exception",
            "message": "RuntimeError: no channel of images/<cube> is left",
            "traceback": "Traceback (most recent call last):\n  File 'tclean.py', line 42\nRuntimeError",
        },
    )
    images["jobs"][3]["log"] = [log_line("WARN", "Restoring beam varies by 12 %")] * 3 + [
        log_line("SEVERE", "No valid channels <found>")
    ]
    record = {
        "surgeline": "0.1.0",
        "versions": {"python": "3.11.9", "casatools": "6.7.0.31", "casatasks": "6.7.0.31"},
        "host": "node-1",
        "platform": "Linux 6.1 x86_64",
        "cores": 2,
        "workdir": "/data/runs/ngc5921",
        "backend": "dask",
        "workers": 2,
        "recipe": {
            "name": "Spectral line", "description": "Calibrates and images a spectral-line observation.",
            "vis": [VIS], "stages": [],
        },
        "started": START,
        "ended": now,
        "state": "finished",
        "error": None,
        "accounts": ACCOUNTS.as_json(),
        "sessions": [
            {"started": START, "ended": START + 200, "state": "interrupted"},
            {"started": START + 203, "ended": now, "state": "finished"},
        ],
        "stages": stages,
    }  # fmt: skip
    return {**record, **other}


def an_observation() -> Observation:
    fields = [
        ("1331+305=3C286", 202.7845, 30.5092), ("1445+09900002", 221.3, 9.976), (HOSTILE, 230.485, -5.07),
    ]  # fmt: skip
    return Observation(
        vis=VIS, origin="/archive/ngc5921.ms", telescope="VLA", observer="TEST", project="AB 123",
        start=OBSERVED, end=OBSERVED + 5280, rows=22653, size=35_600_000,
        fields=tuple(
            Field(id=number, name=name, ra=ra, dec=dec, intents=("CALIBRATE_FLUX",))
            for number, (name, ra, dec) in enumerate(fields)
        ),
        spectral_windows=(
            SpectralWindow(
                id=0, name="L band", channels=63, reference_frequency=1.412665e9, channel_width=24414.0,
                bandwidth=1.55e6, correlations=("RR", "LL"),
            ),
        ),
        scans=tuple(
            Scan(
                number=number + 1, fields=(number % 3,), spectral_windows=(0,), start=OBSERVED + 600 * number,
                end=OBSERVED + 600 * number + 540, intents=("OBSERVE_TARGET",),
            )
            for number in range(8)
        ),
        antennas=tuple(
            Antenna(id=number, name=f"VA{number:02d}", station=f"VLA:N{number}", east=13.0 * number,
                    north=-7.5 * number, diameter=25.0)
            for number in range(1, 28)
        ),
        longest_baseline=1031.4,
    )  # fmt: skip


def facts_of_calibration() -> list[Fact]:
    flags = [
        FlagSummary(
            vis=VIS, after=stage, total=total, fields={"1331+305=3C286": total * 0.8, HOSTILE: total * 1.1},
            antennas={f"VA{number:02d}": total * number / 14 for number in range(1, 28)},
        )
        for stage, total in (("import", 0.0213), ("flag", 0.0871), ("applycal", 0.1034))
    ]  # fmt: skip
    return [
        *flags,
        Roles(vis=VIS, flux=(0,), bandpass=(0,), phase=(1,), target=(2,), reason="3C286 is a flux standard."),
        ReferenceAntenna(vis=VIS, names=("VA15", "VA09"), reason="Near to the centre and least flagged."),
        FluxDensity(vis=VIS, field=0, name="1331+305=3C286", spectral_window=0, kind="model", flux=14.783,
                    standard="Perley-Butler 2017"),
        FluxDensity(vis=VIS, field=1, name="1445+09900002", spectral_window=0, kind="measured", flux=2.52713,
                    error=0.01241, standard="Perley-Butler 2017"),
        FluxDensity(vis=VIS, field=1, name="1445+09900002", spectral_window=0, kind="model", flux=2.49,
                    standard="Catalogue"),
        CalibrationTable(vis=VIS, path="calibration/ngc5921.bandpass.B", kind="B", solved_on=(0,)),
        CalibrationTable(vis=VIS, path="calibration/ngc5921.fluxscale.F", kind="F", solved_on=(0, 1),
                         supersedes="calibration/ngc5921.gaincal.G"),
        Decision(stage="gaincal", what="solution interval", value="int",
                 reason="signal to noise 41 an integration, above 5"),
    ]  # fmt: skip


def facts_of_images() -> list[Fact]:
    return [
        Dataset(path="data/ngc5921.calibrated.ms", parent=VIS, kind="calibrated", fields=(2,), windows=(0,)),
        ImagePlan(name="ngc5921.cube", vis=VIS, field="2", spectral_windows="0", kind="cube",
                  threshold_sigma=2.5, arguments={"imsize": [256, 256], "cell": ["15.0arcsec"]},
                  reasons=("Five pixels a beam.",)),
        Image(path="images/ngc5921.cube.image", stem="ngc5921.cube", kind="cube", field=HOSTILE,
              unit="Jy/beam", shape=(256, 256, 1, 46), maximum=0.05338, minimum=-0.0091, mean=0.0001,
              rms=0.00212, threshold=0.0053, iterations=4213, major_cycles=5, stop="threshold reached"),
        Image(path="images/ngc5921.cont.image", stem="ngc5921.cont", kind="continuum", field=HOSTILE,
              unit="Jy/beam", shape=(256, 256, 1, 1), maximum=0.0312, minimum=-0.0009, mean=0.0,
              rms=0.0000411, threshold=0.00012, iterations=2100, major_cycles=3, stop="threshold reached"),
        Product(path="products/ngc5921 cube.fits", kind="FITS image", size=12_345_678, sha256="ab12" * 16),
        Command(stage="export", text="exportfits(imagename='images/ngc5921.cube.image', "
                "fitsimage='products/ngc5921.cube.fits', velocity=True, optical=False, overwrite=False)"),
    ]  # fmt: skip


def draw_pictures(workdir: Path) -> list[Picture]:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    random = np.random.default_rng(1)
    topics = ["observation"] + 3 * ["calibration"] + 4 * ["image"]
    found = []
    (workdir / "pictures").mkdir(parents=True)
    for number, topic in enumerate(topics):
        figure = Figure(figsize=(6, 4.5), dpi=80)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        if topic == "image":
            axes.imshow(random.normal(size=(64, 64)).cumsum(0).cumsum(1), cmap="inferno", origin="lower")
        else:
            axes.plot(random.normal(size=(200, 2)), ".", markersize=3)
        path = f"pictures/{topic}-{number}.png"
        figure.savefig(workdir / path)
        title = f"A {topic} <{number}>"
        fact = {"path": path, "title": title, "caption": "Random numbers.", "topic": topic}
        found.append(Picture.model_validate(fact))
    return found


@pytest.fixture
def context() -> Iterator[Context]:
    known = Context(None)
    yield known
    known.close()


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    return SessionPaths(tmp_path / "run")


@pytest.fixture
def rich_page(context: Context, paths: SessionPaths) -> Path:
    context.commit("import", [an_observation()])
    context.commit("gaincal", facts_of_calibration())
    context.commit("export", [*facts_of_images(), *draw_pictures(paths.workdir)])
    return write_weblog(paths, a_record(), context)


class Page(HTMLParser):
    """What a browser would make of a page: its texts, and every tag with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_has_the_numbers_of_the_field(rich_page: Path) -> None:
    text = Page(rich_page).text
    for shown in (
        "2025-06-15 15:06:40 UTC",  # the observation began
        "13:31:08.280", "-05:04:12.00",  # a right ascension and a declination
        "1.412665", "24.41", "5.18",  # GHz, kHz, km/s
        "14.78", "2.527 ± 0.012", "1.015",  # model and measured flux density, and their ratio
        "8.7 %", "10.3 %",  # flagged
        "mJy/beam", "53.38", "2.12", "25.2", "threshold reached",  # a cube's maximum and rms
        "µJy/beam", "41.1",  # a deep image's rms
        "12.3 MB", "ab12ab12ab12",
        "signal to noise 41 an integration", "VA15",
    ):  # fmt: skip
        assert shown in text, shown


def test_what_the_workers_cost_is_shown_by_stage_and_in_all(rich_page: Path) -> None:
    text = Page(rich_page).text
    assert "flag 400 321 65.0 14.0 0.00 2 9.0 0.00 0.00" in text
    assert "make_images 3500 3000 415 8.0 77.0 1 61.0 99.0 0.00" in text
    assert "asked in vain 11.0 0.00 0.00 11.0 0.00 1 4.0" in text
    assert "in all 3911 3321 480 33.0 77.0 4 20.8" in text
    assert (
        "8 cores, the most at once, for all the time would have cost 15644 core-seconds: what was asked is 0.250"
        in text
    )


def test_a_record_without_accounts_has_no_table_of_them(context: Context, paths: SessionPaths) -> None:
    for accounts in (None, {"of": "another version"}, Accounts().as_json()):
        page = Page(write_weblog(paths, a_record(accounts=accounts), context))
        assert "What the workers cost" not in page.text


def test_warnings_come_before_all_else(rich_page: Path) -> None:
    text = Page(rich_page).text
    below_the_menu = text[text.index("Environment") :]
    warnings = below_the_menu[: below_the_menu.index("Timeline")]
    assert "make_images 12 of stage make_images failed: RuntimeError: no channel of images/<cube>" in warnings
    assert "killed by signal 9: out of memory" in warnings
    assert "ran again on worker-" in warnings
    assert "make_images 1 3 Restoring beam varies by 12 % (3 times)" in warnings


def test_nothing_in_a_name_can_become_markup(rich_page: Path) -> None:
    page = Page(rich_page)
    assert HOSTILE in "".join(page.texts)
    assert len(page.all("script")) == 1


def test_the_page_loads_nothing_from_elsewhere(rich_page: Path) -> None:
    page = Page(rich_page)
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:", "../products/", "commands.py")), tag
    assert "../products/ngc5921%20cube.fits" in [link.get("href") for link in page.all("a")]
    style = rich_page.read_text().split("<style>")[1].split("</style>")[0]
    assert "@import" not in style
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", style))


def test_links_within_the_page_have_targets(rich_page: Path) -> None:
    page = Page(rich_page)
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    links = {str(link["href"])[1:] for link in page.all("a") if str(link["href"]).startswith("#")}
    assert links <= set(names)


def test_pictures_are_embedded_with_size_and_description(rich_page: Path) -> None:
    pictures = [image for image in Page(rich_page).all("img") if image["src"] != "data:,"]
    assert len(pictures) == 8
    for picture in pictures:
        assert str(picture["src"]).startswith("data:image/png;base64,")
        assert picture["alt"]
        assert (picture["width"], picture["height"]) == ("480", "360")


def test_tables_can_be_read_aloud(rich_page: Path) -> None:
    page = Page(rich_page)
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))


def test_a_missing_picture_is_named(context: Context, paths: SessionPaths) -> None:
    context.commit("x", [Picture(path="pictures/gone.png", title="Gone", caption="", topic="calibration")])
    page = Page(write_weblog(paths, a_record(), context))
    assert "The picture pictures/gone.png is missing." in page.text


def test_a_run_that_failed_early_says_why(context: Context, paths: SessionPaths) -> None:
    error = "stage 'import' failed: <ngc5921.ms> is no MeasurementSet"
    ended = START + 2
    stages = [
        a_stage("import", "failed", started=START, ended=ended, error="<ngc5921.ms> is no MeasurementSet"),
        a_stage("flag", "waiting"),
    ]
    record = a_record(
        state="failed", error=error, ended=ended, stages=stages,
        sessions=[{"started": START, "ended": ended, "state": "failed"}],
    )  # fmt: skip
    text = Page(write_weblog(paths, record, context)).text
    assert f"The run failed. {error}" in text
    assert "Stage import failed: <ngc5921.ms> is no MeasurementSet" in text
    assert "No stage or job failed" not in text
    assert "No observation has been read." in text
    assert "No image has been made." in text
    assert "None" not in text


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_run_without_an_end(context: Context, paths: SessionPaths, state: str) -> None:
    stages = [a_stage("import", "running", started=START), a_stage("flag", "waiting")]
    record = a_record(
        state=state, ended=None, stages=stages, sessions=[{"started": START, "ended": None, "state": state}]
    )
    assert f"{state}" in Page(write_weblog(paths, record, context)).text


def test_a_record_that_knows_nothing(context: Context, paths: SessionPaths) -> None:
    text = Page(write_weblog(paths, {}, context)).text
    assert "No stage has begun." in text
    assert "None" not in text


def test_no_half_page_is_left(context: Context, paths: SessionPaths) -> None:
    write_weblog(paths, a_record(), context)
    assert sorted(path.name for path in paths.weblog.parent.iterdir()) == ["commands.py", "index.html"]


def test_the_script_compiles_and_leaves_defaults_out(rich_page: Path, paths: SessionPaths) -> None:
    script = paths.script.read_text(encoding="utf-8")
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


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (units.right_ascension(359.9999999), "00:00:00.000"),
        (units.declination(-0.5), "-00:30:00.00"),
        (units.duration(99.96), "1 min 40 s"),
        (units.duration(3599.7), "1 h 00 min"),
        (units.significant(math.nan), "–"),
        (units.significant(0.000012345), "1.23e-05"),
        (units.with_error(2.5, 0.0), "2.500"),
        (units.flux_scale("Jy/beam km/s", 0.02), (1e3, "mJy/beam km/s")),
        (units.flux_scale("km/s", 0.02), (1.0, "km/s")),
    ],
)
def test_numbers_are_written_as_the_field_writes_them(written: object, expected: object) -> None:
    assert written == expected


def test_pauses_between_sessions_take_no_room() -> None:
    sessions = [{"started": 100.0, "ended": 150.0}, {"started": 90_000.0, "ended": 90_050.0}]
    time = RunningTime({"sessions": sessions}, now=0.0)
    moments = (100, 125, 150, 5000, 90_000, 90_050)
    assert [time.percent(moment) for moment in moments] == [0, 25, 50, 50, 50, 100]


def test_a_session_that_crashed_ended_with_its_last_job() -> None:
    sessions = [{"started": 100.0, "ended": None}, {"started": 90_000.0, "ended": 90_050.0}]
    stages = [a_stage("a", jobs=[a_job("a", 110.0, 40.0, 0), a_job("b", 90_000.0, 50.0, 0)])]
    assert RunningTime({"sessions": sessions, "stages": stages}, now=0.0).total == 100


def test_stages_side_by_side_have_lanes_of_their_own() -> None:
    stages = [
        a_stage("a", started=START, ended=START + 10),
        a_stage("b", started=START + 5, ended=START + 20),
        a_stage("c", started=START + 10, ended=START + 20),
    ]
    record = {"sessions": [{"started": START, "ended": START + 20}], "stages": stages}
    timeline = draw(record, now=START + 20)
    assert timeline is not None
    assert [[bar.label for bar in lane.bars] for lane in timeline.stages] == [["a", "c"], ["b"]]
    assert (timeline.stages[1].bars[0].left, timeline.stages[1].bars[0].width) == (25, 75)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (apt-get install chromium)")
def test_a_browser_runs_the_page_without_complaint(rich_page: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--dump-dom",
            rich_page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    # Both are the script's work: the button appears, and headers become buttons.
    assert re.search(r'<button class="copy"[^>]*data-copies="script">Copy', done.stdout)
    assert 'class="sort"' in done.stdout
