"""Contexts as the existing pipeline pickles them, of classes that are made for the purpose."""

from __future__ import annotations

import sys
import types
from typing import Any

FLUX = ("CALIBRATE_BANDPASS#ON_SOURCE", "CALIBRATE_FLUX#ON_SOURCE")
PHASE = ("CALIBRATE_PHASE#ON_SOURCE", "CALIBRATE_WVR#ON_SOURCE")


def made_by_pipeline(module: str, name: str, state: Any, *arguments: Any) -> Any:
    """An object that pickles as one of a class of the existing pipeline."""
    parts = module.split(".")
    for last in range(1, len(parts) + 1):
        # Packages above it have to be there, too.
        name_so_far = ".".join(parts[:last])
        found = sys.modules.setdefault(name_so_far, types.ModuleType(name_so_far))
    cls = getattr(found, name, None)
    if cls is None:

        def reduced(self: Any, _protocol: int) -> tuple[Any, ...]:
            return cls, self.arguments, self.state

        cls = type(name, (), {"__module__": module, "__reduce_ex__": reduced, "__init__": lambda self, *_: None})
        setattr(found, name, cls)
    made = cls()
    made.arguments, made.state = arguments, state
    return made


def domain(of: str, /, **state: Any) -> Any:
    return made_by_pipeline(f"pipeline.domain.{of.lower()}", of, state)


def interval(begin: int, end: int, said: Any) -> Any:
    stamped = made_by_pipeline("pipeline.infrastructure.callibrary", "TimestampedData", None, 0, said, None)
    return made_by_pipeline("intervaltree.interval", "Interval", None, begin, end, stamped)


def tree(*intervals: Any) -> Any:
    return made_by_pipeline("intervaltree.intervaltree", "IntervalTree", None, list(intervals))


def calfrom(table: str, gainfield: str = "", spwmap: tuple[int, ...] = (), caltype: str = "gaincal") -> Any:
    state = (caltype, True, gainfield, table, "linear", spwmap)
    return made_by_pipeline("pipeline.infrastructure.callibrary", "CalFrom", state, table)


def pickled_context(**said: Any) -> Any:
    epoch = {"refer": "UTC", "type": "epoch", "m0": {"unit": "d", "value": 60000.0}}
    states = [domain("StateALMA", id=number, obs_mode=",".join(words)) for number, words in enumerate((FLUX, PHASE))]
    for state, words in zip(states, (FLUX, PHASE), strict=True):
        state.state = (0, ",".join(words))
    step = made_by_pipeline("pipeline.domain.spectralwindow", "ArithmeticProgression", (1e9, 1e6, 16))
    widths = made_by_pipeline("pipeline.domain.spectralwindow", "ArithmeticProgression", (1e6, 0.0, 16))
    channels = made_by_pipeline(
        "pipeline.domain.spectralwindow", "ChannelList", {"chan_freqs": step, "chan_widths": widths}
    )
    window = made_by_pipeline(
        "pipeline.domain.spectralwindow",
        "SpectralWindow",
        (5, "", 0, "", set(), 0, "window", "", "", "", [], 0, 0, 0, 0, channels, "TOPO"),
    )
    fields = [
        domain(
            "Field",
            id=number,
            _name=f"field {number}",
            _mdirection={"m0": {"unit": "rad", "value": -0.5}, "m1": {"unit": "rad", "value": 0.25}},
            intents={"BANDPASS"},
            states={states[number]},
        )
        for number in range(2)
    ]
    dd = domain("DataDescription", id=0, spw=window, pol_id=0)
    scans = [
        domain(
            "Scan",
            id=number + 1,
            fields=frozenset({fields[number]}),
            states=frozenset({states[number]}),
            data_descriptions=frozenset({dd}),
            _Scan__start_time=epoch,
            _Scan__end_time={**epoch, "m0": {"unit": "d", "value": 60000.5}},
        )
        for number in range(2)
    ]
    antennas = [
        domain(
            "Antenna",
            id=number,
            name=f"DV{number}",
            station="",
            diameter={"unit": "m", "value": 12.0},
            offset={"longitude offset": {"value": 30.0 * number}, "latitude offset": {"value": 40.0 * number}},
        )
        for number in range(2)
    ]
    container = made_by_pipeline(
        "pipeline.infrastructure.tablereader",
        "RetrieveByIndexContainer",
        {"_RetrieveByIndexContainer__items": fields},
    )
    ms = domain(
        "MeasurementSet",
        name="uid___A002.ms",
        origin_ms="uid___A002.ms",
        observer="me",
        project_id="p",
        _session="session_3",
        antenna_array=domain("AntennaArray", _AntennaArray__name="ALMA", antennas=antennas),
        fields=container,
        spectral_windows=[window],
        scans=scans,
        _reference_antenna="DV1,DV0",
        data_column={made_by_pipeline("pipeline.domain.datatype", "DataType", None, 1): "DATA"},
        spwmaps={("TARGET", "x"): [5]},
        flagger=made_by_pipeline("pipeline.hif", "Flagger", {}),
    )
    broken = domain("MeasurementSet", name="broken.ms")

    def state(said: Any) -> Any:
        return made_by_pipeline(
            "pipeline.infrastructure.callibrary",
            "IntervalCalState",
            {
                "data": {"uid___A002.ms": said},
                "id_to_intent": {"uid___A002.ms": {0: "AMPLITUDE", 1: "BANDPASS", 2: "PHASE", 3: "WVR"}},
            },
        )

    both = tree(interval(0, 4, [calfrom("B", caltype="bandpass"), calfrom("G", "0", (0, 0, 0, 0, 0, 5))]))
    active = tree(interval(0, 2, tree(interval(5, 6, tree(interval(0, 1, both))))))
    one = tree(interval(0, 4, [calfrom("B", caltype="bandpass")]))
    applied = tree(interval(0, 2, tree(interval(5, 6, tree(interval(1, 2, one))))))
    library = made_by_pipeline(
        "pipeline.infrastructure.callibrary",
        "IntervalCalLibrary",
        {"_active": state(active), "_applied": state(applied)},
    )
    images = made_by_pipeline(
        "pipeline.infrastructure.imagelibrary", "ImageLibrary", {"_images": [{"imagename": "a", "version": 1}]}
    )
    summary = made_by_pipeline(
        "pipeline.infrastructure.project",
        "ProjectSummary",
        {"proposal_code": "2025.1", "piname": "me", "telescope": "ALMA"},
    )
    return made_by_pipeline(
        "pipeline.infrastructure.launcher",
        "Context",
        {
            "name": "pipeline-old",
            "task_counter": 7,
            "observing_run": domain("ObservingRun", measurement_sets=[ms, broken]),
            "callibrary": library,
            "sciimlist": images,
            "project_summary": summary,
            "results": [made_by_pipeline("pipeline.infrastructure.basetask", "ResultsProxy", {})],
            "evla": {"a": (1, 2)},
            **said,
        },
    )


def forget_the_pipeline() -> None:
    """Remove the classes that were made, as on a machine that has none of them."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("pipeline", "intervaltree")]:
        del sys.modules[name]
