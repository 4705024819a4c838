"""How far a continuum is, and when it is clean: CASA's iteration control, told of all that was done."""

from __future__ import annotations

from surgeline.imaging.rowimages import continuum_parameters, imager_tools
from surgeline.imaging.synthesis import Arguments, Record, plain

# What was done so far: ("begun", what the deconvolver of each image says of its residual), ("executed", what it says
# of a minor cycle), ("major", []).
History = list[tuple[str, list[Record]]]


def control_of(arguments: Arguments, history: History) -> Record:
    """Ask CASA's iteration control what follows from all that was done.

    Returns:
        `stop`: 0, or tclean's stop code; `controls` of the next minor cycle; `record`: what tclean returns.
    """
    parameters = continuum_parameters(arguments)
    most = parameters.getIterPars()["nmajor"]
    stop, cycles = 0, -1
    with imager_tools(parameters) as imager:
        imager.initializeIterationControl()
        control = imager.IBtool
        for kind, records in history:
            if kind == "major":
                control.cleanComplete(lastcyclecheck=True)
                control.endmajorcycle()
                cycles += 1
            elif kind == "begun":
                control.resetminorcycleinfo()
                for number, record in enumerate(records):
                    control.mergeinitrecord(record, number)
                stop = int(control.cleanComplete(reachedMajorLimit=0 <= most <= cycles))
            else:
                control.getminorcyclecontrols()
                control.resetminorcycleinfo()
                for number, record in enumerate(records):
                    control.mergeexecrecord(record, number)
        record = plain(imager.getSummary(bool(arguments.get("fullsummary", False))))
        return {"stop": stop, "controls": plain(control.getminorcyclecontrols()), "record": record}
