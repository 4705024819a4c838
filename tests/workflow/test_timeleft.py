"""How long a session still takes, as far as that is known."""

from __future__ import annotations

import pytest

from surgeline.workflow.timeleft import Expectation, Left, duration, time_left


def test_jobs_run_side_by_side() -> None:
    jobs = [Expectation(60.0), Expectation(60.0), Expectation(60.0, since=30.0)]
    assert time_left(jobs, [], workers=2).seconds == pytest.approx(75.0)
    # However many workers there are, the longest job takes its time.
    assert time_left(jobs, [], workers=100).seconds == pytest.approx(60.0)


def test_stages_to_come_follow_in_rounds() -> None:
    assert time_left([Expectation(10.0)], [(20.0, 5), (30.0, 1)], workers=2).seconds == pytest.approx(
        10 + 3 * 20 + 30
    )


def test_what_is_not_known_is_said() -> None:
    left = time_left([Expectation(120.0), Expectation(None)], [(None, 3), (5.0, None), (60.0, 1)], workers=1)
    assert str(left) == "about 3 min of what is known; not known of 1 job and 2 stages"
    assert str(time_left([Expectation(100.0)], [], workers=1)) == "about 2 min of what is known"


def test_a_job_that_takes_longer_than_expected_may_take_any_time() -> None:
    assert time_left([Expectation(60.0, since=61.0)], [], workers=1) == Left(None, 1, 0)


def test_nothing_known_is_nothing_said() -> None:
    assert str(time_left([Expectation(None)], [(None, None)], workers=4)) == ""
    assert str(Left()) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (42.0, "42 s"),
        (200.0, "3 min"),
        (7800.0, "2 h 10 min"),
        (7200.0, "2 h"),
        (201_600.0, "2 days 8 h"),
    ],
)
def test_times_are_as_exact_as_one_wants_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
