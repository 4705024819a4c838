"""How far a cube that is cleaned in parts is: CASA's iteration control, told of all parts as of one cube."""

from __future__ import annotations

from collections.abc import Sequence

from surgeline.imaging.synthesis import Arguments, Record, imager_parameters, plain

# The row of CASA's full summary of a minor cycle that counts iterations up to a plane.
_START_ITERATION = 8


def next_controls(arguments: Arguments, history: Sequence[tuple[str, Sequence[Record]]]) -> Record:
    """Decide, by CASA's own iteration control, whether the whole cube is clean, and how to go on if not.

    Args:
        arguments: tclean's, for the whole cube.
        history: the records of all parts so far, in order: ("begun", one a part) and ("executed", one a part).

    Returns:
        `stop`: 0, or tclean's stop code; `controls` for the next minor cycle; `record`: what tclean returns;
        `cycles`: how many major cycles there were after the one that made the dirty cube.
    """
    from casatasks.private.imagerhelpers.imager_base import PySynthesisImager

    parameters = imager_parameters(arguments)
    imager = PySynthesisImager(params=parameters)
    most = parameters.getIterPars()["nmajor"]
    stop = cycles = 0
    try:
        imager.initializeIterationControl()
        control = imager.IBtool
        control.cleanComplete(lastcyclecheck=True)
        control.endmajorcycle()
        for kind, records in history:
            if kind == "begun":
                control.resetminorcycleinfo()
                control.mergeinitrecord(begun_of_one_cube(records), 0)
                stop = control.cleanComplete(reachedMajorLimit=0 <= most <= cycles)
            else:
                control.getminorcyclecontrols()
                control.resetminorcycleinfo()
                control.mergeexecrecord(executed_of_one_cube(records), 0)
                if any(record["iterdone"] > 0 for record in records):
                    control.cleanComplete(lastcyclecheck=True)
                    control.endmajorcycle()
                    cycles += 1
        record = plain(imager.getSummary(bool(arguments.get("fullsummary", False))))
        return {
            "stop": int(stop),
            "controls": plain(control.getminorcyclecontrols()),
            "record": record,
            "cycles": cycles,
        }
    finally:
        imager.deleteTools()


def begun_of_one_cube(records: Sequence[Record]) -> Record:
    """What CASA's deconvolver would say at the beginning of a cycle if it were given all parts as one cube."""
    highest = ("peakresidual", "peakresidualnomask", "maxpsfsidelobe", "madrms", "nsigmathreshold", "masksum")
    merged = {**records[0], **{name: max(record[name] for record in records) for name in highest}}
    sums = [record["masksum"] for record in records]
    if max(sums) > 0:
        # A part in which nothing is masked has no peak to clean; alone, CASA would take that of all its pixels.
        merged["peakresidual"] = max(record["peakresidual"] for record in records if record["masksum"] > 0)
        merged["masksum"] = sum(found for found in sums if found > 0)
    return merged


def executed_of_one_cube(records: Sequence[Record]) -> Record:
    """What CASA's deconvolver would say of a minor cycle if it were given all parts as one cube."""
    import numpy as np

    summaries, before = [], 0
    for record in records:
        summary = record["summaryminor"].copy()
        # The full summary tells at which iteration of the cycle each plane was begun.
        summary[_START_ITERATION:][:1] += before
        summaries.append(summary)
        before += record["iterdone"]
    return {
        **records[0],
        "iterdone": before,
        "maxcycleiterdone": max(record["maxcycleiterdone"] for record in records),
        "peakresidual": max(record["peakresidual"] for record in records),
        "updatedmodelflag": any(record["updatedmodelflag"] for record in records),
        "summaryminor": np.concatenate(summaries, axis=1),
    }
