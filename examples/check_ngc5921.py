"""Hold what a session of ngc5921.yaml found against the published numbers; exits 1 when one is out of bounds.

Usage: python examples/check_ngc5921.py WORKDIR [OTHER_WORKDIR, whose cube has to have the same pixels]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

from surgeline.context.records import FluxDensity
from surgeline.context.store import Context
from surgeline.paths import SessionPaths

CUBE = "N5921_2.spw0.cube"


def pixels(workdir: Path, name: str) -> np.ndarray:
    """The pixels of a FITS product, as they are."""
    return fits.getdata(SessionPaths(workdir).products / f"{name}.fits")


def measured(workdir: Path) -> list[tuple[str, str, float, float, float]]:
    """Each number as: what, reference told, value, lowest and highest allowed."""
    context = Context(SessionPaths(workdir).context)
    model = context.last(FluxDensity, kind="model", field=0).flux
    phase = context.last(FluxDensity, kind="measured", field=1)
    context.close()
    cube = pixels(workdir, CUBE)
    valid = cube[np.isfinite(cube)].astype(float)
    integrated, velocity = pixels(workdir, f"{CUBE}.moment0"), pixels(workdir, f"{CUBE}.moment1")
    rows = [
        ("3C286 model, Perley-Taylor 99 (Jy)", "14.76", model, 0.01),
        ("1445+099 flux, Perley-Taylor 99 (Jy)", "2.485", phase.flux, 0.008),
        ("cube maximum (Jy/beam)", "0.0548", valid.max(), 0.02 * 0.0548),
        ("cube rms (Jy/beam)", "0.00223", np.sqrt(np.mean(valid**2)), 0.05 * 0.00223),
        ("moment 0 maximum (Jy/beam km/s)", "1.4933", np.nanmax(integrated), 0.01 * 1.4933),
        ("moment 1 mean (km/s)", "1484.8", np.nanmean(velocity.astype(float)), 0.002 * 1484.8),
    ]
    return [(what, told, float(value), float(told) - off, float(told) + off) for what, told, value, off in rows]


def main() -> int:
    workdirs = [Path(argument) for argument in sys.argv[1:]]
    well = True
    print(f"{'measured':40} {'reference':>10} {'this run':>12}   must be between")
    for what, told, value, low, high in measured(workdirs[0]):
        within = low <= value <= high
        well = well and within
        print(f"{what:40} {told:>10} {value:12.5f}   {low:.5f} and {high:.5f}  {'ok' if within else 'OUT OF BOUNDS'}")
    for other in workdirs[1:]:
        same = np.array_equal(pixels(workdirs[0], CUBE), pixels(other, CUBE), equal_nan=True)
        well = well and same
        print(f"every pixel of the cube equals that of {other}: {'yes' if same else 'NO'}")
    return 0 if well else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    raise SystemExit(main())
