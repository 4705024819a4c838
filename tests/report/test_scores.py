from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from report.reported import START, VIS, a_job, a_stage, log_line
from surgeline.context.records import FlagSummary, Image, ImagePlan, QualityScore
from surgeline.context.store import Context
from surgeline.report.scores import Score, lowest, scores_of
from surgeline.report.stageview import StageView


@pytest.fixture
def context() -> Iterator[Context]:
    known = Context(None)
    yield known
    known.close()


def judged(context: Context, made: tuple[str, ...] = (), **stage: Any) -> dict[str, Score]:
    record = a_stage("flag", **{"started": START, "ended": START + 1, **stage})
    view = context.at()
    return {score.metric: score for score in scores_of(StageView(0, record, view, START), view, made)}


def flagged(after: str, total: float) -> FlagSummary:
    return FlagSummary(vis=VIS, after=after, total=total, fields={}, antennas={})


def an_image(**other: Any) -> Image:
    fact = {"path": "images/a.image", "stem": "images/a", "kind": "cube", "field": "a", "unit": "Jy/beam",
            "shape": (8, 8, 1, 4), "maximum": 1.0, "minimum": 0.0, "mean": 0.1, "rms": 0.01}  # fmt: skip
    return Image.model_validate({**fact, **other})


def test_a_stage_that_has_not_ended_is_not_judged(context: Context) -> None:
    assert judged(context, state="running") == {}
    assert judged(context, state="waiting") == {}


def test_a_stage_that_failed_is_worth_nothing(context: Context) -> None:
    (score,) = judged(context, state="failed", error="no rows\nis left").values()
    assert (score.value, score.grade, score.reason) == (0.0, "bad", "the stage failed: no rows")


@pytest.mark.parametrize(("failed", "value", "grade"), [(0, 1.0, "good"), (1, 0.66, "poor"), (3, 0.25, "bad")])
def test_jobs_that_were_done_without_lower_the_score(context: Context, failed: int, value: float, grade: str) -> None:
    jobs = [a_job(str(n), START, 1.0, 0, state="failed" if n < failed else "finished") for n in range(4)]
    score = judged(context, jobs=jobs)["jobs"]
    assert (score.value, score.grade) == (value, grade)


def test_lost_workers_and_severe_lines_are_told(context: Context) -> None:
    job = a_job("a", START, 1.0, 0, losses=[{"worker": "w", "how": "killed", "when": START}])
    job["log"] = [log_line("SEVERE", "no channels"), log_line("WARN", "oh")]
    scores = judged(context, jobs=[job])
    assert scores["workers"].value == 0.9
    assert "no channels" in scores["CASA's log"].reason
    assert lowest(scores.values()) == scores["CASA's log"]


@pytest.mark.parametrize(("gained", "value"), [(0.03, 1.0), (0.325, 0.5), (0.7, 0.0)])
def test_what_a_stage_flagged_counts_from_the_summary_before(context: Context, gained: float, value: float) -> None:
    context.commit("import", [flagged("import", 0.1)])
    context.commit("flag", [flagged("flag", 0.1 + gained)])
    score = judged(context)["data flagged"]
    assert score.value == pytest.approx(value)
    assert f"it flagged {100 * gained:.1f} % of the data" in score.reason


def test_an_image_noisier_than_expected_is_told(context: Context) -> None:
    plan = ImagePlan(
        name="a", vis=VIS, field="0", spectral_windows="0", kind="cube", threshold_sigma=2.0, arguments={}
    )
    context.commit("flag", [plan, an_image(threshold=0.01, stop="iteration limit", iterations=500)])
    scores = judged(context, ("images/a.image",))
    # Twice the noise that was expected.
    assert scores["rms"].value == pytest.approx((3.0 - 2.0) / (3.0 - 1.2))
    assert "the rms of a is 10.0 mJy/beam; 5.00 is the noise" in scores["rms"].reason
    assert scores["cleaning"].value < 0.66
    # Images of other stages say nothing of this one.
    assert "rms" not in judged(context)


def test_a_stage_may_judge_itself(context: Context) -> None:
    context.commit("flag", [QualityScore(stage="flag", metric="own", score=1.7, reason="as good as it gets")])
    assert judged(context)["own"] == Score("own", 1.0, "as good as it gets", told=True)
