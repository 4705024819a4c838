"""The stages of a session: as run.json tells them, and what of them the context knows to be finished."""

from __future__ import annotations

from collections.abc import Mapping

from surgeline.serve.models import Stage
from surgeline.serve.queries import HoldingCommit
from surgeline.serve.record import Record, StageRecord

# What a session calls its commits that only withdraw.
_NO_STAGE = "rerun"


def merged_stages(record: Record, holding: Mapping[str, HoldingCommit]) -> list[Stage]:
    """Every stage of the record, or those that the context knows where there is no record.

    Args:
        record: what run.json says.
        holding: of each stage the latest commit that holds.
    """
    told = record.stages or tuple(StageRecord(name=name) for name in holding if name != _NO_STAGE)
    return [_merged(stage, holding.get(stage.name)) for stage in told]


def _merged(stage: StageRecord, commit: HoldingCommit | None) -> Stage:
    merged = Stage(**stage.model_dump(), version=commit.version if commit else None)
    # The context, not the record, says what is finished: a record that was lost begins anew.
    if merged.state == "waiting" and commit is not None:
        return merged.model_copy(update={"state": "finished", "ended": commit.committed})
    return merged
