"""The Pipeline's scores of quality, as facts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surgeline.context.records import QualityScore


def scores_of(stage: str, result: Any) -> Iterator[QualityScore]:
    """How well a task went, in each respect that the Pipeline has scored.

    Args:
        stage: the stage that it is.
        result: of the task.
    """
    seen: dict[tuple[str, str], int] = {}
    for score in getattr(getattr(result, "qa", None), "pool", ()):
        # The Pipeline gives none where it could not tell.
        if score.score is None:
            continue
        said = getattr(getattr(score, "applies_to", None), "vis", None) or getattr(score, "vis", None) or ()
        vis = said if isinstance(said, str) else ", ".join(sorted(said))
        metric = str(getattr(getattr(score, "origin", None), "metric_name", "") or score.shortmsg)
        count = seen[metric, vis] = seen.get((metric, vis), 0) + 1
        yield QualityScore(
            stage=stage,
            metric=metric if count == 1 else f"{metric} ({count})",
            vis=vis,
            score=min(1.0, max(0.0, float(score.score))),
            reason=str(score.longmsg or score.shortmsg),
        )
