"""Cut the rows of a continuum into parts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeline.errors import DataError
from surgeline.imaging.products import images_named, parts_folder, remove, remove_images
from surgeline.imaging.rowimages import START, continuum_parameters, imager_tools, part_stem, stems_of
from surgeline.imaging.rowparts import RowPart, weights_need_density
from surgeline.imaging.synthesis import Arguments, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cut_rows(arguments: Arguments, most: int, run: str, fit: int | None = None) -> list[RowPart]:
    """Cut the rows into parts of as many unflagged visibilities each; what an earlier attempt left is removed.

    A mosaic that is weighted field by field is cut between fields: so a part has all that its weights depend on.

    Args:
        arguments: tclean's.
        most: how many parts there may be. There are fewer where there are fewer unflagged rows, or fields.
        run: see `RowPart`.
        fit: how many unflagged visibilities fit a worker, if that is a limit; there are more parts where it is.

    Raises:
        DataError: no rows are selected, or all of them are flagged.
    """
    parameters = continuum_parameters(arguments)
    for stem in stems_of(parameters):
        remove_images(stem)
    remove(Path(parts_folder(arguments)))
    Path(parts_folder(arguments)).mkdir(parents=True)
    counted = _counted(parameters)
    total = sum(int(visibilities.sum()) for visibilities, _ in counted.values())
    if not total:
        raise DataError(
            f"no unflagged visibility is selected for {arguments['imagename']}",
            "look at field, spw and the other selections, and at the flags",
        )
    most = max(most, -(-total // fit)) if fit else most
    by_fields = parameters.getWeightPars()["multifield"] and weights_need_density(parameters.getWeightPars())
    cut = (_cut_between_fields if by_fields else _cut_between_rows)(counted, most)
    coordinates = begin_images(parameters)
    for number, stem in enumerate(stems_of(parameters)):
        for path, ending in images_named(stem, ("model",)):
            path.rename(part_stem(arguments, START, number) + ending)
    digits = len(str(len(cut) - 1))
    share = -(-total // len(cut))
    return [RowPart(arguments, f"rows-{n:0{digits}d}", rows, coordinates, run, share) for n, rows in enumerate(cut)]


def count_visibilities(arguments: Arguments) -> int:
    """How many unflagged visibilities are selected."""
    counted = _counted(continuum_parameters(arguments))
    return sum(int(visibilities.sum()) for visibilities, _ in counted.values())


def _counted(parameters: Any) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    return {key: _unflagged(selection) for key, selection in sorted(parameters.getSelPars().items())}


def selected_rows(selection: Record, taql: str = "") -> NDArray[Any]:
    """The numbers of the rows of an MS that CASA's imager selects, or of those of a part.

    Args:
        selection: CASA's.
        taql: which of these the part has.
    """
    from casatools import ms

    selected = {
        "field": selection["field"],
        "spw": selection["spw"],
        "time": selection["timestr"],
        "uvdist": selection["uvdist"],
        "baseline": selection["antenna"],
        "scan": selection["scan"],
        "observation": selection["obs"],
        "scanintent": selection["state"],
    }
    with closing(ms()) as tool:
        tool.open(selection["msname"])
        tool.msselect({name: text for name, text in selected.items() if text})
        if taql:
            tool.msselect({"taql": taql})
        rows: NDArray[Any] = tool.range(["rows"])["rows"]
    return rows


def _unflagged(selection: Record) -> tuple[NDArray[Any], NDArray[Any]]:
    """How many unflagged visibilities each selected row of an MS has, and the field of each."""
    import numpy as np
    from casatools import table

    rows = selected_rows(selection)
    with closing(table()) as tool:
        tool.open(selection["msname"])
        path = selection["msname"].replace("'", "\\'")
        visibilities = tool.calc(f"iif(FLAG_ROW, 0, nfalse(FLAG)) from '{path}'")
        fields = tool.getcol("FIELD_ID")
    return np.asarray(visibilities)[rows], fields[rows]


def _cut_between_rows(
    counted: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], most: int
) -> list[tuple[tuple[str, str], ...]]:
    """Cut the rows of all MSs, one after the other, where parts have as many unflagged visibilities each."""
    import numpy as np

    sizes = [len(visibilities) for visibilities, _ in counted.values()]
    sums = np.cumsum(np.concatenate([visibilities for visibilities, _ in counted.values()]))
    after = np.unique(np.searchsorted(sums, sums[-1] * np.arange(1, most) / most) + 1)
    # A last part without an unflagged visibility would have nothing to grid.
    edges = [0, *(int(edge) for edge in after if sums[edge - 1] < sums[-1]), len(sums)]
    starts = np.cumsum([0, *sizes])
    parts = []
    for first, last in pairwise(edges):
        rows = []
        for key, start, size in zip(counted, starts, sizes, strict=False):
            low, high = max(first - start, 0), min(last - start, size)
            if low < high:
                # As CASA cuts them: numbers among the selected rows, from 1 on.
                rows.append((key, f"ROWNUMBER() >= {low + 1} && ROWNUMBER() <= {high}"))
        parts.append(tuple(rows))
    return parts


def _cut_between_fields(
    counted: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], most: int
) -> list[tuple[tuple[str, str], ...]]:
    """Give the fields of each MS to parts, the largest first, each to the part that has least."""
    import numpy as np

    found = []
    for key, (visibilities, fields) in counted.items():
        for field in np.unique(fields):
            if unflagged := int(visibilities[fields == field].sum()):
                found.append((unflagged, key, int(field)))
    parts: list[tuple[int, list[tuple[str, int]]]] = [(0, []) for _ in range(min(most, len(found)))]
    for unflagged, key, field in sorted(found, key=lambda one: -one[0]):
        parts.sort(key=lambda part: part[0])
        parts[0] = (parts[0][0] + unflagged, [*parts[0][1], (key, field)])
    return [
        tuple(
            (key, f"FIELD_ID IN [{', '.join(str(field) for one, field in sorted(fields) if one == key)}]")
            for key in sorted({key for key, _ in fields})
        )
        for _, fields in parts
    ]


def begin_images(parameters: Any) -> tuple[Record, ...]:
    """Have CASA derive the coordinates of all images from all rows, and make their start models."""
    coordinates = []
    with imager_tools(parameters) as imager:
        from casatools import synthesisimager

        imager.SItool = synthesisimager()
        for key in sorted(imager.allselpars):
            imager.SItool.selectdata(imager.allselpars[key])
        for number in range(imager.NF):
            imager.SItool.defineimage(imager.allimpars[str(number)], imager.allgridpars[str(number)])
            # Those of the image that was defined last.
            coordinates.append(imager.SItool.getcsys()["coordsys"])
    return tuple(coordinates)
