"""Which fields are pointings of one target, to be imaged as a mosaic."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from surgeline.context.matching.sky import SkyPosition, separation
from surgeline.context.records import Dataset, Field, Observation, SpectralWindow
from surgeline.paths import safe_name

_LIGHT = 299792458.0
_RADIAN_ARCSEC = 206264.806
# Fields that are named alike are pointings of one mosaic where they are less than so many widths of the primary beam
# apart, others where they are less than that.
_NAMED_ALIKE, _NAMED_OTHERWISE = 1.0, 0.5
# Closer than that, fields are one pointing that was observed twice.
_SAME_POINTING = 0.05
# How the names of other files end: a field that is called so has its number besides.
_TAKEN = re.compile(r"\.(line|mosaic|field\d+)$")


@dataclass(frozen=True)
class Pointing:
    """A field of a dataset; `selection` is how tclean is told of it: empty for the only one there is."""

    dataset: Dataset
    observation: Observation
    field: Field
    selection: str

    @property
    def position(self) -> SkyPosition:
        """Where it points."""
        return SkyPosition(self.field.ra, self.field.dec)


@dataclass(frozen=True)
class Mosaic:
    """Pointings that are imaged together, and where: degrees (J2000) of the middle, and how far in arcsec the
    pointings reach from it to either side, east and north."""

    name: str
    pointings: tuple[Pointing, ...]
    ra: float
    dec: float
    reach: tuple[float, float]


def pointings_of(datasets: Iterable[tuple[Dataset, Observation]]) -> list[Pointing]:
    """Every field of some datasets; a dataset of several numbers them anew in their order."""
    return [
        Pointing(found, observation, observation.field(number), str(position) if len(found.fields) > 1 else "")
        for found, observation in datasets
        for position, number in enumerate(found.fields)
    ]


def find_mosaics(pointings: Sequence[Pointing]) -> list[Mosaic]:
    """The mosaics among the pointings of one or several observations, each of one observation.

    Fields of the same name, or whose names differ in the number at their end (M31_1, M31_2), belong together where
    they are less than the width of the primary beam apart; others where less than half of it, as in a mosaic that is
    sampled well. So do those between which others lie that do. The primary beam is that of the lowest frequency.
    """
    found: list[Mosaic] = []
    for vis in dict.fromkeys(pointing.observation.vis for pointing in pointings):
        own = [pointing for pointing in pointings if pointing.observation.vis == vis]
        beam = primary_beam(own[0].observation, own[0].observation.spectral_windows)
        taken: list[str] = []
        for group in _groups(own, beam):
            if any(_apart(one, other) > _SAME_POINTING * beam for one, other in combinations(group, 2)):
                found.append(_mosaic(group, taken))
                taken.append(found[-1].name)
    return found


def primary_beam(observation: Observation, windows: Sequence[SpectralWindow]) -> float:
    """The widest primary beam of some windows at half power, in arcsec: 1.2 λ/D of the smallest dish D."""
    lowest = min(window.reference_frequency - abs(window.bandwidth) / 2.0 for window in windows)
    return 1.2 * _LIGHT / lowest / smallest_dish(observation) * _RADIAN_ARCSEC


def smallest_dish(observation: Observation) -> float:
    """The diameter of the smallest dish in metres; 25 where none is known."""
    return min((antenna.diameter for antenna in observation.antennas if antenna.diameter > 0), default=25.0)


def field_stem(observation: Observation, number: int) -> str:
    """What files of a field are called: by its name, and its number where another's might be called the same."""
    stems = [safe_name(field.name) for field in observation.fields]
    own = safe_name(observation.field(number).name)
    return f"{own}.field{number}" if stems.count(own) > 1 or _TAKEN.search(own) else own


def _groups(pointings: Sequence[Pointing], beam: float) -> list[list[Pointing]]:
    """Pointings that belong together, each also with those that belong to any of its group."""
    groups: list[list[Pointing]] = []
    for pointing in pointings:
        near = [group for group in groups if any(_together(pointing, other, beam) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for group in near for other in group), pointing])
    order = {id(pointing): number for number, pointing in enumerate(pointings)}
    return [sorted(group, key=lambda pointing: order[id(pointing)]) for group in groups]


def _together(one: Pointing, other: Pointing, beam: float) -> bool:
    alike = _stem(one.field.name) == _stem(other.field.name)
    return _apart(one, other) < (_NAMED_ALIKE if alike else _NAMED_OTHERWISE) * beam


def _apart(one: Pointing, other: Pointing) -> float:
    return separation(one.position, other.position)


def _stem(name: str) -> str:
    """A field's name without the number of the pointing."""
    return re.sub(r"[ _.:-]*\d+$", "", name) or name


def _mosaic(group: Sequence[Pointing], taken: Sequence[str]) -> Mosaic:
    names = list(dict.fromkeys(pointing.field.name for pointing in group))
    stems = list(dict.fromkeys(map(_stem, names)))
    base = safe_name(names[0] if len(names) == 1 else stems[0])
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    ra, dec = _middle([pointing.position for pointing in group])
    offsets = [_offset(pointing.position, ra, dec) for pointing in group]
    east, north = (max(abs(offset[axis]) for offset in offsets) for axis in (0, 1))
    return Mosaic(name, tuple(group), ra, dec, (east, north))


def _middle(positions: Sequence[SkyPosition]) -> tuple[float, float]:
    """The mean direction, in degrees."""
    x = y = z = 0.0
    for position in positions:
        ra, dec = math.radians(position.ra), math.radians(position.dec)
        x, y, z = x + math.cos(dec) * math.cos(ra), y + math.cos(dec) * math.sin(ra), z + math.sin(dec)
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.atan2(z, math.hypot(x, y)))


def _offset(position: SkyPosition, ra: float, dec: float) -> tuple[float, float]:
    """How far east and north of a direction a position is in arcsec, projected as images are."""
    turn, height, middle = math.radians(position.ra - ra), math.radians(position.dec), math.radians(dec)
    east = math.cos(height) * math.sin(turn)
    north = math.sin(height) * math.cos(middle) - math.cos(height) * math.sin(middle) * math.cos(turn)
    return east * _RADIAN_ARCSEC, north * _RADIAN_ARCSEC
