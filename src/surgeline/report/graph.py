"""Stages and what they need, laid out as a drawing: each below all that it needs.

Layers by the longest way from a stage that needs none; lines that pass a layer have a place in it; places in a layer
by the mean place of their neighbours (Sugiyama, Tagawa & Toda 1981, IEEE Trans. Syst. Man Cybern. 11, 109).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 190, 48
_ACROSS, _DOWN = 220, 84
_MARGIN = 12
_SWEEPS = 4


@dataclass(frozen=True)
class Node:
    """A stage: its name, and the left upper corner of its box."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """That a stage needs another: from that one's box to its own, as the `d` of an SVG path."""

    needed: str
    by: str
    path: str


@dataclass(frozen=True)
class Drawing:
    """A graph in pixels."""

    width: float
    height: float
    nodes: Sequence[Node]
    edges: Sequence[Edge]


def draw_graph(needs: Mapping[str, Sequence[str]]) -> Drawing:
    """Lay out stages, each given with those that it needs; needs that no stage meets are passed over."""
    known = {name: [other for other in dict.fromkeys(others) if other in needs] for name, others in needs.items()}
    layer_of = _layers(known)
    chains = {
        (needed, name): [needed, *_places_between(layer_of, needed, name), name]
        for name, others in known.items()
        for needed in others
    }
    layers: list[list[str]] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for name, layer in layer_of.items():
        layers[layer].append(name)
    for chain in chains.values():
        for place, name in enumerate(chain[1:-1], layer_of[chain[0]] + 1):
            layers[place].append(name)
    links = [pair for chain in chains.values() for pair in pairwise(chain)]
    _order(layers, links)
    widest = max(map(len, layers), default=0)
    corners = {
        name: (_MARGIN + ((widest - len(layer)) / 2 + place) * _ACROSS, _MARGIN + number * _DOWN)
        for number, layer in enumerate(layers)
        for place, name in enumerate(layer)
    }
    return Drawing(
        width=2 * _MARGIN + max(0, widest - 1) * _ACROSS + WIDTH,
        height=2 * _MARGIN + max(0, len(layers) - 1) * _DOWN + HEIGHT,
        nodes=[Node(name, *corners[name]) for name in known],
        edges=[Edge(*ends, _path([corners[name] for name in chain])) for ends, chain in chains.items()],
    )


def _layers(needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    layers: dict[str, int] = {}

    def layer(name: str, above: tuple[str, ...]) -> int:
        # A record that is not in order must not lead round in circles.
        if name not in layers:
            deeper = [layer(other, (*above, name)) + 1 for other in needs[name] if other not in (*above, name)]
            layers[name] = max(deeper, default=0)
        return layers[name]

    return {name: layer(name, ()) for name in needs}


def _places_between(layer_of: Mapping[str, int], needed: str, name: str) -> list[str]:
    """Names, which no stage can have, for the places of a line in the layers that it passes."""
    return [f"\0{needed}\0{name}\0{layer}" for layer in range(layer_of[needed] + 1, layer_of[name])]


def _order(layers: list[list[str]], links: Sequence[tuple[str, str]]) -> None:
    """Order each layer so that few lines cross, downwards and upwards in turn."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for upper, lower in links:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    for sweep in range(_SWEEPS):
        neighbours = above if sweep % 2 == 0 else below
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            # Places from the middle, so that layers of different lengths compare.
            places = {name: place - (len(each) - 1) / 2 for each in layers for place, name in enumerate(each)}
            mean = {
                name: sum(places[other] for other in neighbours[name]) / len(neighbours[name])
                if neighbours.get(name)
                else places[name]
                for name in layer
            }
            layer.sort(key=mean.__getitem__)


def _path(corners: Sequence[tuple[float, float]]) -> str:
    """From the bottom of the first box through the places between to the top of the last."""
    points = [(x + WIDTH / 2, y + HEIGHT / 2) for x, y in corners]
    points[0] = (points[0][0], corners[0][1] + HEIGHT)
    points[-1] = (points[-1][0], corners[-1][1])
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for (x1, y1), (x2, y2) in pairwise(points):
        middle = (y1 + y2) / 2
        parts.append(f"C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}")
    return "".join(parts)
