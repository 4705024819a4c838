from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from surgeline import FunctionCall, JobRequest, Resources
from surgeline.work.estimates import Estimates, default_file, kind_of
from surgeline.work.execution import execute
from surgeline.work.fingerprint import Fingerprint
from surgeline.work.jobs import Job, PipelineTask
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.surroundings import Surroundings

GB = 10**9


def reduce(path: str = "") -> str:
    """A job that other jobs are like."""
    return path


def reading(*paths: str) -> Job:
    return FunctionCall(reduce).declare(reads=paths)


def fingerprint(path: str, size: int) -> Fingerprint:
    return Fingerprint(path, "file", size, 1, "sha256:1", "1", True, 0.0)


class Clock:
    """Outcomes that end one after the other."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def outcome(self, memory: int = GB, seconds: float = 1.0, **more: Any) -> Outcome:
        self.now += 1
        return Outcome("job", "job()", started=self.now - seconds, ended=self.now, peak_memory=memory, **more)


def learnt(path: Path | None, *memories: int, stage: str = "image", clock: Clock | None = None) -> Estimates:
    estimates = Estimates(path)
    clock = clock or Clock()
    for memory in memories:
        estimates.learn(stage, reading(), clock.outcome(memory))
    return estimates


# What is expected


def test_before_a_stage_has_jobs_the_most_that_any_kind_of_them_took_is_expected() -> None:
    clock = Clock()
    estimates = learnt(None, 2 * GB, clock=clock)
    assert estimates.of_stage("calibrate") == (None, None)
    estimates.learn("image", FunctionCall(len, ()), clock.outcome(GB, seconds=30.0))
    assert estimates.of_stage("image") == (3 * GB, 30.0)
    estimates.learn("plots", FunctionCall(len, ()), clock.outcome(memory=0, seconds=5.0))
    assert estimates.of_stage("plots") == (None, 5.0)


def test_nothing_is_known_of_jobs_whose_like_has_not_run() -> None:
    estimates = learnt(None, GB)
    assert estimates.resources("calibrate", reading()) == (None, None)
    assert estimates.resources("image", FunctionCall(len, ())) == (None, None)


def test_memory_is_the_most_of_recent_ones_with_a_margin() -> None:
    assert learnt(None, GB, 4 * GB, 2 * GB).resources("image", reading()) == (6 * GB, 1.0)
    # Twenty later, that one counts no more.
    assert learnt(None, 4 * GB, *[GB] * 20).resources("image", reading()) == (1.5 * GB, 1.0)


def test_the_time_expected_is_that_within_which_nine_in_ten_ended() -> None:
    estimates, clock = Estimates(None), Clock()
    for seconds in (1, 2, 3, 4, 5, 6, 7, 8, 9, 1000):
        estimates.learn("image", reading(), clock.outcome(seconds=seconds))
    assert estimates.resources("image", reading())[1] == 9.0


def test_jobs_that_failed_teach_nothing() -> None:
    estimates = Estimates(None)
    estimates.learn("image", reading(), Clock().outcome(failure=Failure("exception", "no data")))
    assert estimates.resources("image", reading()) == (None, None)


def test_nothing_is_said_of_what_a_job_says_itself() -> None:
    asking = reading().declare(resources=Resources(memory="100GB"))
    assert learnt(None, GB).resources("image", asking) == (None, 1.0)
    assert learnt(None, GB).resources("image", reading().declare(seconds=5.0)) == (1.5 * GB, None)


def test_the_time_that_a_job_comes_with_is_put_right_by_what_its_like_took() -> None:
    estimates, clock = Estimates(None), Clock()
    short, long = (reading().declare(estimated_seconds=seconds) for seconds in (10.0, 40.0))
    assert estimates.resources("image", short) == (None, 10.0)
    estimates.learn("image", short, clock.outcome(seconds=5.0))
    assert estimates.resources("image", long)[1] == 20.0
    # What is asked of a cluster is not what is learnt from.
    estimates.learn("image", short.declare(seconds=5.0), clock.outcome(seconds=5.0))
    assert estimates.resources("image", long)[1] == 20.0
    # Most of them count, not the luckiest.
    estimates.learn("image", long, clock.outcome(seconds=80.0))
    assert estimates.resources("image", short)[1] == 20.0
    assert estimates.resources("image", short.declare(seconds=7.0))[1] is None


def test_a_larger_input_than_was_seen_takes_longer_and_a_smaller_one_as_long() -> None:
    estimates, clock = Estimates(None), Clock()
    made = (fingerprint("large.ms", 4000), fingerprint("small.ms", 10))
    estimates.learn("split", FunctionCall(len, ()), clock.outcome(outputs=made))
    estimates.learn("image", reading("a.ms"), clock.outcome(inputs=(fingerprint("a.ms", 1000),)))
    assert estimates.resources("image", reading("large.ms")) == (1.5 * GB, 4.0)
    assert estimates.resources("image", reading("small.ms")) == (1.5 * GB, 1.0)
    # Nothing is known of how large this one is.
    assert estimates.resources("image", reading("other.ms")) == (1.5 * GB, 1.0)


def test_a_job_that_was_run_is_known_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.dat").write_bytes(bytes(1000))
    Path("b.dat").write_bytes(bytes(3000))
    estimates = Estimates(None)
    outcome = execute(reading("a.dat"), Surroundings("here"))
    estimates.learn("image", reading("a.dat"), outcome)
    memory, seconds = estimates.resources("image", reading("a.dat"))
    assert memory == int(1.5 * outcome.peak_memory) > 0
    assert seconds == outcome.ended - outcome.started
    estimates.learn("other", reading("b.dat"), execute(reading("b.dat"), Surroundings("here")))
    assert estimates.resources("image", reading("b.dat"))[1] == pytest.approx(3 * seconds)


def test_jobs_are_alike_by_what_they_call_and_not_by_what_they_are_called() -> None:
    class Task:
        class Inputs:
            pass

    class Callable:
        def __call__(self) -> None:
            pass

    here = __name__
    assert kind_of(JobRequest("flagdata", {"vis": "a.ms"}).declare(name="flag a")) == "flagdata"
    assert kind_of(FunctionCall(reduce, "a").declare(name="reduce a")) == f"{here}.reduce"
    assert kind_of(FunctionCall(partial(partial(reduce), "a"))) == f"{here}.reduce"
    assert kind_of(FunctionCall(Callable())).endswith("Callable")
    assert kind_of(PipelineTask(Task, {}, None)).endswith("Task")


# Jobs that come with an estimate


def estimated(memory: int) -> Job:
    return reading().declare(memory=memory)


def took(*jobs: tuple[int, int]) -> Estimates:
    """What is known after jobs that were estimated at, and took, so much memory."""
    estimates, clock = Estimates(None), Clock()
    for estimate, memory in jobs:
        estimates.learn("image", estimated(estimate), clock.outcome(memory))
    return estimates


def expected(estimates: Estimates, estimate: int) -> int | None:
    return estimates.resources("image", estimated(estimate))[0]


def test_before_any_has_run_the_estimate_holds() -> None:
    assert expected(Estimates(None), 5 * GB) == 5 * GB
    asking = estimated(5 * GB).declare(resources=Resources(memory="3GB"))
    assert Estimates(None).resources("image", asking) == (None, None)


def test_what_one_took_beyond_its_estimate_is_added_to_those_of_others() -> None:
    estimates = took((10 * GB, 12 * GB), (10 * GB, 9 * GB))
    assert expected(estimates, 10 * GB) == 12 * GB
    assert expected(estimates, 20 * GB) == 22 * GB
    assert expected(estimates, 2 * GB) == 4 * GB


def test_where_all_took_less_the_estimate_is_lowered_as_far_as_the_worst_of_them_and_a_margin_allow() -> None:
    estimates = took((10 * GB, 5 * GB), (10 * GB, 4 * GB))
    assert expected(estimates, 10 * GB) == 6 * GB
    assert expected(estimates, 5 * GB) == 3 * GB


def test_what_has_fitted_a_worker_fits_it_again() -> None:
    assert expected(took((10 * GB, int(9.5 * GB))), 10 * GB) == 10 * GB
    assert expected(took((10 * GB, 12 * GB)), 10 * GB) == 12 * GB


def test_small_jobs_say_nothing_of_large_ones_but_that_they_need_no_less() -> None:
    estimates = took((GB, GB // 2), (GB, 4 * GB))
    assert expected(estimates, 10 * GB) == 10 * GB
    assert expected(estimates, 3 * GB) == 4 * GB


def test_what_is_estimated_at_more_takes_longer() -> None:
    assert took((GB, GB)).resources("image", estimated(3 * GB))[1] == 3.0
    assert took((GB, GB)).resources("image", estimated(GB // 2))[1] == 1.0


def test_estimates_are_compared_in_the_next_session_too(tmp_path: Path) -> None:
    first = Estimates(tmp_path / "estimates.json")
    first.learn("image", estimated(10 * GB), Clock().outcome(12 * GB))
    first.save()
    assert expected(Estimates(tmp_path / "estimates.json"), 10 * GB) == 12 * GB


# Widths


def test_the_width_of_a_stage_is_the_most_jobs_that_it_had_at_once() -> None:
    estimates = Estimates(None)
    assert estimates.width("demo", "image") is None
    for jobs in (3, 12, *[1] * 100):
        estimates.learn_width("demo", "image", jobs)
    assert estimates.width("demo", "image") == 12
    assert estimates.width("other", "image") is None


def test_widths_of_the_last_sessions_count(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    widths = []
    for jobs in (50, 3, 4, 1, 2, 1):
        estimates = Estimates(path)
        estimates.learn_width("demo", "image", jobs)
        estimates.save()
        widths.append(estimates.width("demo", "image"))
    assert widths == [50, 50, 50, 50, 50, 4]


# The file


def test_what_was_learnt_is_there_in_the_next_session(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "estimates.json"
    first = learnt(path, GB)
    first.learn_width("demo", "image", 7)
    first.save()
    assert Estimates(path).resources("image", reading()) == (1.5 * GB, 1.0)
    assert Estimates(path).width("demo", "image") == 7


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    learnt(None, GB).save()
    assert list(tmp_path.iterdir()) == []


def test_what_another_session_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    one, other = learnt(path, GB, stage="image"), learnt(path, 3 * GB, stage="image", clock=Clock(2e9))
    other.learn("calibrate", reading(), Clock(3e9).outcome(2 * GB))
    one.save()
    other.save()
    # Each saves what it learns again and again; nothing counts twice or is lost.
    for estimates in (one, other, one):
        estimates.save()
    for estimates in (one, other, Estimates(path)):
        assert estimates.resources("image", reading())[0] == 4.5 * GB
        assert estimates.resources("calibrate", reading())[0] == 3 * GB
    kinds = {kind["stage"]: len(kind["recent"]) for kind in json.loads(path.read_text())["jobs"]}
    assert kinds == {"image": 2, "calibrate": 1}


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    clock = Clock()
    for session in range(2):
        estimates = Estimates(path)
        for number in range(600):
            estimates.learn(f"stage {session}.{number}", reading(), clock.outcome())
        for _ in range(50):
            estimates.learn("stage 1.599", reading(), clock.outcome())
        estimates.save()
    kinds = json.loads(path.read_text())["jobs"]
    assert len(kinds) == 500
    assert max(len(kind["recent"]) for kind in kinds) == 20
    assert Estimates(path).resources("stage 1.598", reading()) == (1.5 * GB, 1.0)
    assert Estimates(path).resources("stage 0.0", reading()) == (None, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"jobs": [',
        b"\xff\x00",
        b"[]",
        b'{"format": 2}',
        b'{"jobs": [{"stage": "image", "kind": "reduce", "recent": [{"ended": 1, "memory": -1}]}]}',
    ],
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "estimates.json"
    path.write_bytes(content)
    estimates = learnt(path, GB)
    assert (tmp_path / "estimates.json.damaged").read_bytes() == content
    path.write_bytes(content)
    estimates.save()
    assert Estimates(path).resources("image", reading()) == (1.5 * GB, 1.0)


def test_a_file_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    path.mkdir()
    assert learnt(path, GB).resources("image", reading()) == (1.5 * GB, 1.0)
    assert path.is_dir()


def test_the_file_is_in_the_users_cache(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert default_file(home) == tmp_path / ".cache" / "surgeline" / "estimates.json"
    assert default_file({**home, "XDG_CACHE_HOME": "/fast"}) == Path("/fast/surgeline/estimates.json")


def test_threads_learn_ask_and_save_at_once(tmp_path: Path) -> None:
    estimates = Estimates(tmp_path / "estimates.json")
    failed: list[BaseException] = []

    def learn(name: str) -> None:
        clock = Clock(float(hash(name) % 10**6))
        try:
            for number in range(50):
                estimates.learn(f"stage {number % 5}", reading(), clock.outcome())
                estimates.resources(f"stage {number % 5}", reading())
                estimates.learn_width("demo", "image", number)
                if number % 10 == 0:
                    estimates.save()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=learn, args=(f"thread {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert estimates.width("demo", "image") == 49
