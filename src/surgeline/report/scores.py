"""How well each stage went, from 0 (unusable) to 1 (as good as it gets), each score with its reason.

Stages may say so themselves (QualityScore facts). Beside that, each stage is judged by what is known of every one.
The scale and the limits of flagging follow the CASA Pipeline's quality assessment (its user's guide, "QA scores"):
above 0.9 good, above 0.66 fair, above 0.33 poor, else bad. A stage's score is the least of its scores.

| what is known | score |
| --- | --- |
| the stage failed | 0 |
| jobs that failed, and were done without | the share that went well, 0.66 at most |
| workers that were lost; their jobs ran again | 0.9 |
| SEVERE lines in CASA's log | 0.6 |
| share of the data that the stage flagged | 1 up to 5 %, then falling to 0 at 60 % |
| cleaning that stopped at its limit of iterations | 0.65 |
| rms of an image over the noise that its threshold was set from | 1 up to 1.2 times, then falling to 0 at 3 times |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from surgeline.context.records import FlagSummary, Image, ImagePlan, QualityScore
from surgeline.context.view import View
from surgeline.report import units
from surgeline.report.pictures import file_name
from surgeline.report.stageview import StageView

_GRADES = ((0.9, "good"), (0.66, "fair"), (0.33, "poor"))
# From which flagged share on a stage loses score, and where it has none left.
_FLAGGED = (0.05, 0.60)
_NOISE = (1.2, 3.0)


@dataclass(frozen=True)
class Score:
    """A score: in which respect, of which MS (empty: of all), and why; `told` by the stage itself or not."""

    metric: str
    value: float
    reason: str
    vis: str = ""
    told: bool = False

    @property
    def grade(self) -> str:
        """The score in a word."""
        return next((word for least, word in _GRADES if self.value > least), "bad")


def lowest(scores: Iterable[Score]) -> Score | None:
    """The score that stands for all of a stage's."""
    return min(scores, key=lambda score: score.value, default=None)


def scores_of(stage: StageView, view: View, made: Sequence[str]) -> list[Score]:
    """How well a stage went, in each respect that can be told, the worst first; nothing of one that has not ended.

    Args:
        stage: the stage.
        view: what is known.
        made: paths of the images that the stage made.
    """
    if stage.state == "failed":
        reason = (stage.record["error"] or "no reason is on record").splitlines()[0]
        return [Score("course", 0.0, f"the stage failed: {reason}")]
    if stage.state != "finished":
        return []
    told = [
        Score(fact.metric, min(max(fact.score, 0.0), 1.0), fact.reason, fact.vis, told=True)
        for fact in view.all(QualityScore, stage=stage.name)
    ]
    found = [*told, *_course(stage), *_flagged(stage.name, view), *_cleaned(view, made)]
    return sorted(found, key=lambda score: score.value)


def _course(stage: StageView) -> Iterator[Score]:
    number, failed, lost = len(stage.jobs), len(stage.failed_jobs), len(stage.losses)
    if failed:
        share = (number - failed) / number
        yield Score(
            "jobs", min(share, 0.66), f"{failed} of {units.plural(number, 'job')} failed and were done without"
        )
    elif number:
        jobs = "its job" if number == 1 else f"all {number} jobs"
        yield Score("jobs", 1.0, f"{jobs} went well")
    else:
        yield Score("jobs", 1.0, "it needed no jobs, and its heuristics went well")
    if lost:
        yield Score("workers", 0.9, f"{units.plural(lost, 'worker')} died; what they did was done again")
    if severe := stage.count("SEVERE"):
        lines = units.plural(severe, "line")
        yield Score("CASA's log", 0.6, f"CASA logged {lines} as SEVERE: {stage.messages[0].text}")


def _flagged(stage: str, view: View) -> Iterator[Score]:
    """The share of each MS that the stage flagged, from its summary and the one before."""
    before: dict[str, float] = {}
    for fact in view.all(FlagSummary):
        if fact.after == stage and fact.vis in before:
            gained = max(0.0, fact.total - before[fact.vis])
            now = units.percent(fact.total)
            text = f"it flagged {units.percent(gained)} of the data, of which {now} are flagged now"
            yield Score("data flagged", _falling(gained, *_FLAGGED), text, fact.vis)
        before[fact.vis] = fact.total


def _cleaned(view: View, made: Sequence[str]) -> Iterator[Score]:
    plans = {plan.name: plan for plan in view.all(ImagePlan)}
    for image in view.all(Image):
        if image.path not in made or image.kind not in ("cube", "continuum"):
            continue
        name = file_name(image.stem)
        if "iteration" in image.stop:
            yield Score("cleaning", 0.65, f"{name} reached its limit of {image.iterations} iterations", name)
        plan = plans.get(name)
        if plan is not None and plan.threshold_sigma and image.threshold and image.rms:
            expected = image.threshold / plan.threshold_sigma
            factor, unit = units.flux_scale(image.unit, expected)
            measured, noise = units.significant(image.rms * factor), units.significant(expected * factor)
            text = f"the rms of {name} is {measured} {unit}; {noise} is the noise that its threshold was set from"
            yield Score("rms", _falling(image.rms / expected, *_NOISE), text, name)


def _falling(value: float, best: float, worst: float) -> float:
    """1 up to the best value, 0 from the worst on, and on a straight line between."""
    return min(1.0, max(0.0, (worst - value) / (worst - best)))
