"""What of a session is shown in Prefect."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from surgeline.context.records import Decision, Picture
from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.workflow import prefect_artifacts as artifacts

# One pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cfc0f01f00"
    "05000201cf2c3d650000000049454e44ae426082"
)


def job(name: str, seconds: float, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "finished",
        "started": 100.0,
        "ended": 100.0 + seconds,
        "host": "node1",
        "worker": "worker-0",
        "peak_memory": 2_000_000,
        "failure": None,
        "losses": [],
        **changes,
    }


def stage(*jobs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "Clean it",
        "task": "make_images",
        "state": "finished",
        "arguments": {"niter": 5},
        "cluster": "local",
        "needs": ["flag"],
        "error": None,
        "jobs": list(jobs),
        "started": 100.0,
        "ended": 110.0,
        **changes,
    }


def test_keys_are_what_prefect_takes() -> None:
    assert artifacts.key("My recipe", "ngc5921|cont.", "jobs") == "my-recipe-ngc5921-cont-jobs"
    assert artifacts.key("Ω") == "unnamed"


def test_a_stage_shows_its_jobs_those_that_failed_first_and_the_longest_of_many() -> None:
    jobs = [job(f"part {number}", number) for number in range(300)]
    jobs[7] = job("part 7", 7, state="failed", failure={"message": "a | b"}, losses=[{"worker": "worker-1"}])
    summary, table = artifacts.of_stage(stage(*jobs), [], "cube")
    assert (summary.key, summary.type) == ("cube-clean-it-summary", "markdown")
    for row in ("| jobs | 300, 1 failed |", "| workers lost | 1 |", "| arguments | niter = 5 |", "| needs | flag |"):
        assert row in summary.data
    assert table.description == "300 jobs of stage Clean it, 200 of them here"
    assert [row["job"] for row in table.data[:3]] == ["part 7", "part 299", "part 298"]
    assert table.data[0]["error"] == "a | b"


def test_a_session_shows_its_stages_and_where_its_weblog_is(tmp_path: Path) -> None:
    record = {
        "host": "login1",
        "recipe": {"name": "cube", "vis": ["ngc5921.ms"]},
        "stages": [stage(), stage(name="one|two", state="failed", ended=None)],
        "accounts": None,
        "error": "it broke\n  mend it",
    }
    paths = SessionPaths(tmp_path)
    (summary,) = artifacts.of_session(record, paths)
    assert "| Clean it | make_images | finished | 0 | 10.0 s |" in summary.data
    assert "| one\\|two | make_images | failed | 0 | – |" in summary.data
    assert "**it broke**" in summary.data and "ngc5921.ms" in summary.data
    paths.make()
    paths.weblog.write_text("")
    _, weblog = artifacts.of_session(record, paths)
    assert f"]({paths.weblog.as_uri()})" in weblog.data


def test_pictures_are_shown_with_the_stage_that_made_them(tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path)
    paths.make()
    with closing(Context(None)) as context:
        known = [
            Picture(path=f"pictures/{name}.png", title=name, caption="seen", topic="image")
            for name in ("small", "large", "missing")
        ]
        # Of these there may be hundreds.
        known += [
            known[0].model_copy(update={"path": f"pictures/{name}.png", **details})
            for name, details in {
                "plane": {"kind": "plane", "channel": 0},
                "one antenna": {"kind": "gains", "antenna": "ea01"},
            }.items()
        ]
        context.commit("images", known)
        context.commit("other", [Decision(stage="other", what="depth", value="1", reason="none")])
        (tmp_path / "pictures" / "small.png").write_bytes(PNG)
        (tmp_path / "pictures" / "large.png").write_bytes(PNG + bytes(2_000_000))
        for fact in known[3:]:
            (tmp_path / fact.path).write_bytes(PNG)
        facts = artifacts.facts_of("images", context)
        assert [type(fact) for fact in facts] == [Picture] * 5
        stage = {"name": "images", "task": "make_images", "state": "finished", "jobs": [], "arguments": {},
                 "cluster": "", "needs": [], "error": None}  # fmt: skip
        table = next(shown for shown in artifacts.of_stage(stage, facts, "cube") if shown.key.endswith("facts"))
        assert len(table.data) == 3
        ((made_by, shown),) = artifacts.pictures(context, paths, "cube")
    assert (made_by, shown.type, shown.description) == ("images", "image", "small: seen")
    assert shown.data.startswith("data:image/png;base64,iVBORw0KGgo")
