"""How much of the data is flagged, before a stage and after it. `draw` runs as a job."""

from __future__ import annotations

from collections.abc import Mapping

from surgeline.stages.plots.canvas import BLUE, ORANGE, figure, grid_lines, margins, save, shortened

# Names of more than so many do not fit side by side.
_MOST_NAMES = 30
# Of fewer things, bars would be very wide.
_FEWEST_PLACES = 8
_STYLES = {"before": {"color": ORANGE, "hatch": "//"}, "after": {"color": BLUE}}


def draw(vis: str, shares: Mapping[str, Mapping[str, Mapping[str, float]]], path: str) -> None:
    """Bars of flagged shares.

    Args:
        vis: the MS.
        shares: fractions from 0 to 1, by what is told apart (antenna, spectral window, field), by when (`before`,
            `after`, or both), and by name.
        path: where the picture goes.
    """
    made, grid = figure(len(shares), 1, (9.0, 0.6 + 2.2 * len(shares)))
    for axes, (what, times) in zip(grid[:, 0], shares.items(), strict=True):
        names = list(dict.fromkeys(name for counted in times.values() for name in counted))
        width = 0.8 / max(1, len(times))
        for number, when in enumerate(when for when in _STYLES if when in times):
            counted = times[when]
            places = [row + (number + 0.5) * width - 0.4 for row in range(len(names))]
            percents = [100.0 * counted.get(name, 0.0) for name in names]
            axes.bar(places, percents, width, label=when, edgecolor="white", linewidth=0, **_STYLES[when])
        step = -(-len(names) // _MOST_NAMES) or 1
        crowded = len(names) > 12 or sum(map(len, names)) > 90
        shown = {"rotation": 90} if crowded else {}
        axes.set_xticks(
            range(0, len(names), step), [shortened(name, 14) for name in names[::step]], fontsize=7, **shown
        )
        axes.set_xlim(-0.6, max(len(names), _FEWEST_PLACES) - 0.4)
        highest = max((share for counted in times.values() for share in counted.values()), default=0.0)
        axes.set_ylim(0, max(1.0, min(105.0, 140.0 * highest)))
        if not highest:
            axes.text(0.5, 0.5, "nothing is flagged", transform=axes.transAxes, ha="center", fontsize=9)
        axes.set(xlabel=what, ylabel="flagged (%)")
        grid_lines(axes)
        axes.grid(axis="x", visible=False)
    grid[0, 0].set_title(f"flagged share of {vis}")
    grid[0, 0].legend(fontsize=8, loc="upper right", ncols=2)
    margins(made, 0.7, 0.2, 0.9, 0.4, hspace=0.75)
    save(made, path)
