"""Records and facts of sessions that never ran, for all tests of the weblog."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

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
    QualityScore,
    ReferenceAntenna,
    Roles,
    Scan,
    SpectralWindow,
)
from surgeline.context.store import Context
from surgeline.paths import SessionPaths

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
        QualityScore(stage="applycal", metric="unflagged share", vis=VIS, score=0.8966, reason="10.3 % are flagged"),
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
    (workdir / "pictures").mkdir(parents=True, exist_ok=True)
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


def pictures_in_detail(workdir: Path) -> list[Picture]:
    """Pictures that say what they show: a cube's planes, a residual, a spectrum, and a plot of each antenna."""
    drawn = (workdir / "pictures" / "image-4.png").read_bytes()
    cube, table = "images/ngc5921.cube.image", "calibration/ngc5921.bandpass.B"
    found = [
        Picture(path=f"pictures/plane-{channel}.png", title=f"channel {channel}", caption="", topic="image",
                kind="plane", subject=cube, channel=channel, frequency=1.4127e9 + 24414.0 * channel)
        for channel in range(4)
    ]  # fmt: skip
    found += [
        Picture(path=f"pictures/{kind}.png", title=f"{kind} of the cube", caption="", topic="image", kind=kind,
                subject=cube)
        for kind in ("residual", "spectrum")
    ]  # fmt: skip
    found += [
        Picture(path=f"pictures/bandpass-{name}.png", title=f"bandpass of {name}", caption="", topic="calibration",
                kind="bandpass", vis=VIS, subject=table, antenna=name)
        for name in (None, "VA01", "VA02")
    ]  # fmt: skip
    found.append(
        Picture(path="pictures/elevation.png", title="elevation", caption="of all fields", topic="observation",
                kind="elevation", vis=VIS)
    )  # fmt: skip
    for picture in found:
        (workdir / picture.path).write_bytes(drawn)
    return found


def begin_folder(paths: SessionPaths, record: dict[str, Any]) -> Context:
    """What a session has in its folder: its record, its context, and the log of its workers."""
    paths.make()
    paths.record.write_text(json.dumps(record))
    for worker in ("worker-0", "worker-1"):
        (paths.logs / f"casa-{worker}.log").write_text("2026-10-09 09:00:00\tINFO\ttclean\tall is well\n")
    return Context(paths.context)


def fill(paths: SessionPaths, record: dict[str, Any]) -> None:
    """A session that has all that there is."""
    with closing(begin_folder(paths, record)) as context:
        context.commit("import", [an_observation()])
        context.commit("gaincal", facts_of_calibration())
        context.commit("make_images", facts_of_images())
        cube = paths.workdir / "products" / "ngc5921 cube.fits"
        cube.write_bytes(b"SIMPLE")
        digest = hashlib.sha256(b"SIMPLE").hexdigest()
        exported = Product(path="products/ngc5921 cube.fits", kind="cube", size=6, sha256=digest)
        context.commit("export", [exported, *draw_pictures(paths.workdir), *pictures_in_detail(paths.workdir)])


def a_large_record(jobs: int = 500) -> dict[str, Any]:
    """A run with that many jobs in one stage."""
    found = [a_job(f"image {number}", START + number // 8 * 6.0, 5.5, number % 8) for number in range(jobs)]
    for number, job in enumerate(found):
        job["log"] = [log_line("WARN", f"Residual {number} is not converging")]
    ended = START + jobs // 8 * 6.0 + 6.0
    stages = [
        a_stage("import", started=START, ended=START + 1.0, jobs=[a_job("import", START, 0.9, 0)]),
        a_stage("make_images", started=START, ended=ended, jobs=found, needs=["import"]),
    ]
    sessions = [{"started": START, "ended": ended, "state": "finished"}]
    return a_record(stages=stages, ended=ended, sessions=sessions)
