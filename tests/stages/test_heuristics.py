from __future__ import annotations

import math
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgeline.context.records import (
    Antenna,
    CalibrationTable,
    Field,
    FlagSummary,
    Observation,
    Roles,
    Scan,
    SpectralWindow,
)
from surgeline.errors import DataError
from surgeline.stages.applycal import current_tables, gain_fields_of
from surgeline.stages.continuum_subtract import line_channels
from surgeline.stages.flag import Parameters as FlagParameters
from surgeline.stages.flag import choose_reference_antenna, flag_commands, flag_summary
from surgeline.stages.inputs import check_unlocked, find_input
from surgeline.stages.plan_images import image_geometry, quick_size
from surgeline.stages.roles import find_roles, known_flux_calibrator
from surgeline.stages.set_model import _turns as turns
from surgeline.stages.solving import inner_channels, selections

# NGC 5921 as it was observed: 3C286, a phase calibrator that is named by its position, and the target.
FLUX = Field(id=0, name="1331+305", ra=202.784533, dec=30.509155)
PHASE = Field(id=1, name="1445+099", ra=221.317, dec=9.9722)
TARGET = Field(id=2, name="N5921_2", ra=230.483, dec=5.0706)


def window(identifier: int = 0, channels: int = 64, frequency: float = 1.42e9) -> SpectralWindow:
    return SpectralWindow(
        id=identifier,
        name=f"spw {identifier}",
        channels=channels,
        reference_frequency=frequency,
        channel_width=24414.0,
        bandwidth=24414.0 * channels,
        correlations=("RR", "LL"),
    )


def antenna(identifier: int, east: float, north: float, diameter: float = 25.0) -> Antenna:
    return Antenna(id=identifier, name=f"ea{identifier:02d}", station="", east=east, north=north, diameter=diameter)


def observation(*fields: Field, **other: Any) -> Observation:
    scans = tuple(
        Scan(
            number=number + 1,
            fields=(field.id,),
            spectral_windows=(0,),
            start=600.0 * number,
            end=600.0 * number + 540,
        )
        for number, field in enumerate(fields)
    )
    facts: dict[str, Any] = {
        "vis": "my.ms",
        "origin": "my.ms",
        "telescope": "VLA",
        "observer": "",
        "project": "",
        "start": 0.0,
        "end": 3600.0,
        "rows": 1000,
        "size": 10**6,
        "fields": fields,
        "spectral_windows": (window(),),
        "scans": scans,
        "antennas": tuple(antenna(number, 100.0 * number, 0.0) for number in range(6)),
        "longest_baseline": 1000.0,
    }
    return Observation(**(facts | other))


def flagged(**antennas: float) -> FlagSummary:
    return FlagSummary(vis="my.ms", after="flag", total=0.1, fields={}, antennas=antennas)


# Who is what.


def test_roles_without_intents_follow_from_positions_and_names() -> None:
    found = find_roles(observation(FLUX, PHASE, TARGET))
    assert (found.flux, found.bandpass, found.phase, found.target) == ((0,), (0,), (1,), (2,))
    assert "position of 3C286" in found.reason


def test_roles_follow_from_intents_where_there_are_any() -> None:
    fields = (
        Field(id=0, name="target of its own name", ra=10.0, dec=10.0, intents=("OBSERVE_TARGET#UNSPECIFIED",)),
        Field(id=1, name="J0000+0000", ra=11.0, dec=10.0, intents=("CALIBRATE_PHASE#UNSPECIFIED",)),
        Field(
            id=2,
            name="nothing known",
            ra=50.0,
            dec=10.0,
            intents=("CALIBRATE_BANDPASS#UNSPECIFIED", "CALIBRATE_FLUX#UNSPECIFIED"),
        ),
        Field(id=3, name="1234+567", ra=12.0, dec=10.0, intents=("OBSERVE_TARGET#UNSPECIFIED",)),
    )
    found = find_roles(observation(*fields))
    assert (found.flux, found.bandpass, found.phase, found.target) == ((2,), (2,), (1,), (0, 3))
    assert "by intent" in found.reason


def test_the_recipe_overrides_intents_and_knowledge_by_name_number_or_pattern() -> None:
    fields = (FLUX, PHASE, TARGET.model_copy(update={"intents": ("CALIBRATE_PHASE",)}))
    found = find_roles(observation(*fields), bandpass=["1"], phase=["1445*"], target=["N5921_2"])
    assert (found.flux, found.bandpass, found.phase, found.target) == ((0,), (1,), (1,), (2,))
    assert "the recipe says so" in found.reason


def test_a_pattern_may_match_several_fields_once_each() -> None:
    mosaic = [TARGET.model_copy(update={"id": number, "name": f"N5921_{number}"}) for number in range(2, 6)]
    found = find_roles(observation(FLUX, PHASE, *mosaic), target=["N5921_*", "3"])
    assert found.target == (2, 3, 4, 5)


def test_a_field_that_is_not_there_or_was_not_observed_names_the_nearest() -> None:
    with pytest.raises(DataError) as caught:
        find_roles(observation(FLUX, PHASE, TARGET), target=["N5912_2"])
    assert "'N5912_2'" in str(caught.value)
    assert "'N5921_2'" in str(caught.value)
    seen = observation(FLUX, PHASE, TARGET)
    with pytest.raises(DataError):
        find_roles(seen.model_copy(update={"scans": seen.scans[:2]}), target=["N5921_2"])


def test_an_observation_of_calibrators_only_has_no_target_and_says_so() -> None:
    with pytest.raises(DataError, match="target"):
        find_roles(observation(FLUX, PHASE))


def test_without_a_flux_calibrator_the_calibrator_observed_longest_serves_for_the_bandpass() -> None:
    other = PHASE.model_copy(update={"id": 0, "name": "0834+555"})
    seen = observation(other, PHASE, TARGET)
    longer = seen.scans[1].model_copy(update={"end": seen.scans[1].end + 3600.0})
    found = find_roles(seen.model_copy(update={"scans": (seen.scans[0], longer, seen.scans[2])}))
    assert found.flux == ()
    assert found.bandpass == (1,)
    assert found.target == (2,)


def test_without_a_phase_calibrator_the_bandpass_calibrator_serves() -> None:
    found = find_roles(observation(FLUX, TARGET))
    assert (found.phase, found.target) == ((0,), (2,))


@pytest.mark.parametrize(
    ("ra", "dec", "name"),
    [
        (202.784533, 30.509155, "3C286"),
        (202.784533 - 360.0, 30.509155, "3C286"),
        (202.79, 30.51, "3C286"),
        (24.4221, 33.1597, "3C48"),
        (85.65, 49.85, "3C147"),
        (202.85, 30.55, None),
        (221.3, 9.97, None),
    ],
)
def test_flux_calibrators_are_known_by_where_they_are(ra: float, dec: float, name: str | None) -> None:
    assert known_flux_calibrator(Field(id=0, name="whatever", ra=ra, dec=dec)) == name


# The reference antenna, flags.


def test_the_reference_antenna_is_central_and_little_flagged() -> None:
    seen = observation(FLUX, PHASE, TARGET)
    assert choose_reference_antenna(seen, flagged()).names[:3] == ("ea00", "ea01", "ea02")
    found = choose_reference_antenna(seen, flagged(ea00=1.0, ea01=0.5))
    assert found.names[0] == "ea02"
    assert found.names[-1] in ("ea00", "ea05", "ea04")
    assert "ea02 is 200 m from the array's centre and 0% flagged" in found.reason


def test_a_recipes_reference_antennas_are_taken_in_its_order() -> None:
    found = choose_reference_antenna(observation(TARGET), flagged(ea05=1.0), ("ea05", "ea01"))
    assert found.names == ("ea05", "ea01")
    assert "recipe" in found.reason


def test_flags_are_told_as_fractions_even_of_nothing() -> None:
    counted = {
        "flagged": 25.0,
        "total": 100.0,
        "field": {"N5921_2": {"flagged": 0.0, "total": 0.0}},
        "antenna": {"ea01": {"flagged": 5.0, "total": 10.0}},
    }
    found = flag_summary("my.ms", "flag", counted)
    assert (found.total, found.fields, found.antennas) == (0.25, {"N5921_2": 0.0}, {"ea01": 0.5})


def test_flagging_does_what_the_recipe_asks_and_its_own_commands_come_last() -> None:
    asked = FlagParameters(autocorrelations=False, quack=10, interference=True, commands=("antenna='ea05'",))
    commands = flag_commands(asked)
    assert not any("autocorr" in command for command in commands)
    assert any("quackinterval=10" in command for command in commands)
    assert any("tfcrop" in command for command in commands)
    assert commands[-1] == "antenna='ea05'"
    nothing = FlagParameters(autocorrelations=False, shadow=False, zeros=False)
    assert flag_commands(nothing) == []


# Solving and applying.


@pytest.mark.parametrize(
    ("channels", "selection"), [(64, "3:6~57"), (63, "3:6~56"), (16, "3:2~13"), (8, "3"), (1, "3")]
)
def test_gains_are_solved_without_the_edges_of_a_window(channels: int, selection: str) -> None:
    assert inner_channels(window(3, channels)) == selection


def test_each_window_is_solved_by_its_own_job_unless_the_recipe_says_otherwise() -> None:
    seen = observation(TARGET, spectral_windows=(window(0), window(2, 8)))
    assert selections(seen, "") == ["0:6~57", "2"]
    assert selections(seen, "0:3~9, 2") == ["0:3~9", "2"]


def test_targets_are_given_the_gains_of_the_nearest_phase_calibrator() -> None:
    near = PHASE.model_copy(update={"id": 3, "name": "1550+054", "ra": 237.6, "dec": 5.45})
    east = TARGET.model_copy(update={"id": 4, "name": "east", "ra": 236.0})
    also = TARGET.model_copy(update={"id": 5, "name": "also", "ra": 229.0, "dec": 6.0})
    roles = Roles(vis="my.ms", flux=(0,), bandpass=(0,), phase=(1, 3), target=(2, 4, 5), reason="")
    far_west = PHASE.model_copy(update={"ra": 228.0, "dec": 6.0})
    groups = gain_fields_of(observation(FLUX, far_west, TARGET, near, east, also), roles)
    assert groups == {(0,): (0,), (1,): (1,), (3,): (3,), (2, 5): (1,), (4,): (3,)}


def test_the_nearest_calibrator_is_found_across_the_origin_of_right_ascension() -> None:
    one = Field(id=0, name="one", ra=350.0, dec=60.0)
    other = Field(id=1, name="other", ra=20.0, dec=60.0)
    target = Field(id=2, name="target", ra=1.0, dec=60.0)
    roles = Roles(vis="my.ms", flux=(), bandpass=(), phase=(0, 1), target=(2,), reason="")
    assert gain_fields_of(observation(one, other, target), roles)[(2,)] == (0,)


def test_gains_that_were_scaled_to_flux_take_the_place_of_those_they_came_from() -> None:
    bandpass = CalibrationTable(vis="my.ms", path="my.B", kind="B", solved_on=(0,))
    gains = CalibrationTable(vis="my.ms", path="my.G", kind="G", solved_on=(0, 1))
    scaled = CalibrationTable(vis="my.ms", path="my.F", kind="F", solved_on=(0, 1), supersedes="my.G")
    assert current_tables([bandpass, gains]) == [bandpass, gains]
    assert current_tables([bandpass, gains, scaled]) == [bandpass, scaled]


def test_jobs_that_change_the_same_data_take_turns_and_others_go_together() -> None:
    assert turns([]) == []
    assert turns(["a", "b", "c"]) == [[0, 1, 2]]
    assert turns(["a", "a", "b", "a", "b"]) == [[0, 2], [1, 4], [3]]


# Images.


@pytest.mark.parametrize(
    ("asked", "size"),
    [(0, 2), (1, 2), (2, 2), (100, 100), (101, 108), (127.2, 128), (256, 256), (257, 270), (1021, 1024)],
)
def test_image_sizes_are_quick_to_transform(asked: float, size: int) -> None:
    assert quick_size(asked) == size


def test_every_quick_size_is_even_large_enough_and_made_of_small_primes() -> None:
    for asked in range(1, 3000, 7):
        size = quick_size(asked)
        assert size >= asked
        assert size % 2 == 0
        for prime in (2, 3, 5):
            while size % prime == 0:
                size //= prime
        assert size == 1


def test_cell_and_image_size_follow_from_baselines_and_dish() -> None:
    seen = observation(TARGET, longest_baseline=1030.0)
    geometry, reasons = image_geometry(seen, [window()], 4.0)
    beam = math.degrees(299792458.0 / 1.42e9 / 1030.0) * 3600
    cell = float(geometry["cell"].removesuffix("arcsec"))
    assert 0.85 * beam / 4 < cell <= beam / 4
    # To where the primary beam of 25 m dishes falls to a fifth.
    reach = math.degrees(1.2 * 299792458.0 / 1.419e9 / 25.0) * 3600 * 1.52
    assert reach <= geometry["imsize"] * cell < 1.2 * reach
    assert "1030 m" in reasons[0]
    assert "25 m" in reasons[1]


def test_longer_baselines_make_smaller_cells_and_smaller_dishes_larger_images() -> None:
    def cell_and_extent(baseline: float, diameter: float, frequency: float = 1.42e9) -> tuple[float, float]:
        antennas = (antenna(0, 0.0, 0.0, diameter), antenna(1, baseline, 0.0, 25.0))
        seen = observation(TARGET, longest_baseline=baseline, antennas=antennas)
        geometry, _ = image_geometry(seen, [window(frequency=frequency)], 4.0)
        cell = float(geometry["cell"].removesuffix("arcsec"))
        return cell, cell * geometry["imsize"]

    cell, extent = cell_and_extent(1000.0, 25.0)
    assert cell_and_extent(10000.0, 25.0)[0] == pytest.approx(cell / 10, rel=0.1)
    assert cell_and_extent(1000.0, 12.0)[1] > 1.8 * extent
    assert cell_and_extent(1000.0, 25.0, 14.2e9)[0] == pytest.approx(cell / 10, rel=0.1)


# Lines.

NOISE = 0.01
ROWS = 200


def spectra(
    profile: Any, continuum: float = 0.2, channels: int = 64, noise: float = NOISE, seed: int = 1
) -> tuple[Any, Any, Any]:
    """Visibilities of a source at the phase centre: two polarisations, channels, rows."""
    generator = np.random.default_rng(seed)
    shape = (2, channels, ROWS)
    # The noise of the average over polarisations and rows is what is asked for.
    spread = noise * math.sqrt(2 * ROWS)
    scatter = generator.normal(0, 1, shape) + 1j * generator.normal(0, 1, shape)
    data = continuum + np.asarray(profile)[np.newaxis, :, np.newaxis] + spread * scatter
    return data, np.zeros(shape, dtype=bool), np.ones((2, ROWS))


def box(first: int, last: int, height: float, channels: int = 64) -> Any:
    profile = np.zeros(channels)
    profile[first : last + 1] = height
    return profile


def found_lines(*arguments: Any) -> set[int]:
    line, _ = line_channels(*arguments)
    return set(np.flatnonzero(line).tolist())


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_no_line(seed: int) -> None:
    line, sigma = line_channels(*spectra(np.zeros(64), seed=seed))
    assert not line.any()
    assert 0.5 * NOISE < sigma < 1.6 * NOISE


def test_a_continuum_without_noise_is_no_line() -> None:
    for continuum in (0.0, 0.2, 14.76):
        assert found_lines(*spectra(np.zeros(64), continuum, noise=0.0)) == set()


@pytest.mark.parametrize("height", [0.15, -0.15])
def test_a_line_is_found_with_a_margin_in_emission_and_in_absorption(height: float) -> None:
    found = found_lines(*spectra(box(20, 30, height)))
    assert set(range(18, 33)) <= found
    assert not set(range(8, 16)) & found
    assert not set(range(35, 56)) & found


@pytest.mark.parametrize(("first", "last"), [(10, 45), (5, 50), (14, 57)])
def test_a_broad_line_leaves_the_channels_beside_it_to_the_continuum(first: int, last: int) -> None:
    channels = np.arange(64)
    centre, width = (first + last) / 2, (last - first) / 2
    # With more channels of line than of continuum, but none at which most of them agree.
    profile = np.where(abs(channels - centre) <= width, 0.5 - 0.4 * abs(channels - centre) / width, 0.0)
    found = found_lines(*spectra(profile))
    assert set(range(first, last + 1)) <= found
    beside = set(range(4, first - 3)) | set(range(last + 4, 60))
    assert len(beside & found) <= 1


def test_one_channel_alone_is_interference_and_no_line() -> None:
    assert found_lines(*spectra(box(30, 30, 1.0))) == set()


def test_flagged_channels_are_no_line_and_hide_none() -> None:
    data, flags, weights = spectra(box(20, 30, 0.15))
    data[:, 40:44, :] = 50.0
    flags[:, 40:44, :] = True
    found = found_lines(data, flags, weights)
    assert set(range(18, 33)) <= found
    assert not set(range(46, 56)) & found
    # With a line, flagged channels are not given out as continuum either.
    assert set(range(40, 44)) <= found


def test_nothing_is_found_where_there_is_nothing_to_judge_by() -> None:
    data, flags, weights = spectra(np.zeros(64))
    line, sigma = line_channels(data, np.ones_like(flags), weights)
    assert not line.any()
    assert sigma == 0.0
    for channels in (1, 2, 7):
        assert found_lines(*spectra(box(0, channels, 1.0, channels), channels=channels)) == set()


def test_weights_count() -> None:
    data, flags, weights = spectra(np.zeros(64))
    # Half of the rows are rubbish, and say so.
    data[:, 10:20, ::2] += 10.0
    assert found_lines(data, flags, weights) != set()
    weights[:, ::2] = 1e-9
    assert found_lines(data, flags, weights) == set()


# Inputs.


def test_each_kind_of_observation_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "my.ms" / "ANTENNA").mkdir(parents=True)
    (tmp_path / "my.ms" / "table.dat").touch()
    (tmp_path / "uid___A002").mkdir()
    (tmp_path / "uid___A002" / "ASDM.xml").touch()
    found = [find_input(str(tmp_path / name)) for name in ("my.ms", "uid___A002")]
    assert [(one.kind, one.ms_name) for one in found] == [("MS", "my.ms"), ("ASDM", "uid___A002.ms")]
    demo = find_input("casadata:demo/NGC5921.fits")
    assert (demo.kind, demo.ms_name) == ("UVFITS", "NGC5921.ms")
    for one in (*found, demo):
        check_unlocked(one, 0)


def test_what_is_no_observation_says_what_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.fits").write_text("not FITS")
    (tmp_path / "empty").touch()
    for name, told in (("folder", "table.dat"), ("text.fits", "UVFITS"), ("empty", "UVFITS")):
        with pytest.raises(DataError) as caught:
            find_input(str(tmp_path / name))
        assert name in str(caught.value)
        assert told in str(caught.value)


def test_a_misspelt_path_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "ngc5921.ms").mkdir()
    with pytest.raises(DataError, match=r"'ngc5921\.ms'"):
        find_input(str(tmp_path / "ngc5291.ms"))
    with pytest.raises(DataError, match="nor does the folder"):
        find_input(str(tmp_path / "nowhere" / "my.ms"))


def test_a_relative_path_and_the_home_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = find_spec("casadata")
    assert package is not None and package.submodule_search_locations
    demo = Path(package.submodule_search_locations[0]) / "__data__" / "demo" / "3C273XC1.fits"
    shutil.copy(demo, tmp_path / "my.fits")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_input("my.fits").path == tmp_path / "my.fits"
    assert find_input("~/my.fits").path == tmp_path / "my.fits"
