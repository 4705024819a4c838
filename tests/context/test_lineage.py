from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from surgeline.context.attempts import Attempt, write_attempts
from surgeline.context.lineage import Lineage, Step, lineage
from surgeline.context.records import Decision, Fact, Image, ImagePlan, Picture, Product, subject_of
from surgeline.context.store import Context
from surgeline.errors import ContextError

RUN = "7" * 32
RAW = "/archive/raw.ms"
ENVIRONMENTS = {
    "sha256:a": {"software": {"surgeline": "0.1.0", "casatasks": "6.7.0"}, "machine": {"host": "node-1"}},
    "sha256:b": {"software": {"surgeline": "0.1.0", "casatasks": "6.7.1"}, "machine": {"host": "node-2"}},
}


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "session").mkdir()
    with closing(Context(tmp_path / "session" / "context.db")) as opened:
        yield opened


def image(name: str) -> Image:
    return Image(
        path=f"images/{name}.image", stem=f"images/{name}", kind="continuum", field=name, unit="Jy/beam",
        shape=(8, 8, 1, 1), maximum=1.0, minimum=0.0, mean=0.1, rms=0.01,
    )  # fmt: skip


def product(name: str) -> Product:
    return Product(path=f"products/{name}.fits", kind="continuum", size=1, sha256="0")


def plan(name: str) -> ImagePlan:
    return ImagePlan(name=name, vis="data/my.ms", field=name, spectral_windows="", kind="continuum", arguments={})


def said(fact: Fact, version: int) -> list[Any]:
    return [type(fact).__name__, subject_of(fact), version]


def stage(
    context: Context,
    name: str,
    *facts: Fact,
    read: list[list[Any]] | None = None,
    files: dict[str, dict[str, str]] | None = None,
    withdrawn: tuple[int, ...] = (),
    **details: Any,
) -> int:
    recorded = {"task": name, "run": RUN, "surgeline": "0.1.0", "read": read or [], "files": files or {}}
    return context.commit(name, facts, details={**recorded, **details}, withdrawn=withdrawn)


def job(
    context: Context,
    of_stage: str,
    name: str,
    reads: dict[str, str] | None = None,
    writes: dict[str, str] | None = None,
    *,
    number: int = 1,
    state: str = "finished",
    environment: str = "sha256:a",
) -> None:
    def recorded(files: dict[str, str] | None) -> list[dict[str, Any]]:
        return [
            {"path": path, "kind": "table", "size": 1, "digest": digest} for path, digest in (files or {}).items()
        ]

    attempt = Attempt(
        run=RUN, stage=of_stage, job=name, number=number, state=state, started=1.7e9, ended=1.7e9 + 2,
        worker="worker-1", host="node-1", environment=environment,
        body={
            "call": f"{name.partition(' ')[0]}(…)", "kind": "JobRequest", "inputs": recorded(reads),
            "outputs": recorded(writes), "commands": [f"{name.partition(' ')[0]}(vis='data/my.ms')"],
        },
    )  # fmt: skip
    write_attempts(context, [(attempt, ENVIRONMENTS[environment])], set())


def reduced(context: Context) -> None:
    """A session that ended well: an MS is imported and flagged, two fields are imaged, one image is exported."""
    job(context, "import_data", "copy raw.ms", {RAW: "raw"}, {"data/my.ms": "ms1"})
    stage(context, "import_data", files={"read": {RAW: "raw"}, "written": {"data/my.ms": "ms1"}})
    job(context, "flag", "flagdata", {"data/my.ms": "ms1"}, {"data/my.ms": "ms2"}, state="lost")
    job(context, "flag", "flagdata", {"data/my.ms": "ms1"}, {"data/my.ms": "ms2"}, number=2, environment="sha256:b")
    stage(context, "flag", files={"changed": {"data/my.ms": "ms2"}})
    stage(context, "look", Decision(stage="look", what="quality", value="good", reason="by eye"))
    plans = [plan("a"), plan("b")]
    stage(context, "plan_images", *plans, files={"read": {"data/my.ms": "ms2"}})
    for name in ("a", "b"):
        made = f"images/{name}.image"
        job(context, "make_images", f"tclean {name}", {"data/my.ms": "ms2"}, {made: f"image {name}"})
        job(context, "make_images", f"measure {name}", {made: f"image {name}"})
        job(context, "make_images", f"plot {name}", {made: f"image {name}"}, {f"pictures/{name}.png": "picture"})
    stage(
        context,
        "make_images",
        *(image(name) for name in ("a", "b")),
        *(Picture(path=f"pictures/{name}.png", title="", caption="", topic="image") for name in ("a", "b")),
        read=[said(plan(name), 4) for name in ("a", "b")],
        files={
            "read": {"data/my.ms": "ms2", "images/a.image": "image a", "images/b.image": "image b"},
            "written": {
                **{f"images/{name}.image": f"image {name}" for name in ("a", "b")},
                **{f"pictures/{name}.png": "picture" for name in ("a", "b")},
            },
        },
    )
    for name in ("a", "b"):
        job(context, "export", f"exportfits {name}", {f"images/{name}.image": f"image {name}"},
            {f"products/{name}.fits": f"fits {name}"})  # fmt: skip
    stage(
        context,
        "export",
        *(product(name) for name in ("a", "b")),
        read=[said(image(name), 5) for name in ("a", "b")],
        files={
            "read": {f"images/{name}.image": f"image {name}" for name in ("a", "b")},
            "written": {f"products/{name}.fits": f"fits {name}" for name in ("a", "b")},
        },
        arguments={"kinds": ["continuum"]},
    )


def step(found: Lineage, name: str) -> Step:
    return next(step for step in found.steps if step.stage == name)


def test_a_product_is_followed_back_to_what_was_given(context: Context) -> None:
    reduced(context)
    found = lineage(context, "products/a.fits")
    assert (found.product.stage, found.product.version, found.product.digest) == ("export", 6, "fits a")
    assert [step.stage for step in found.steps] == ["export", "make_images", "plan_images", "flag", "import_data"]
    assert [(file.path, file.digest) for file in found.given] == [(RAW, "raw")]
    assert [fact.kind for fact in found.facts] == ["Product"]
    read = step(found, "export").read
    assert [(file.path, file.stage, file.version, file.altered) for file in read] == [
        ("images/a.image", "make_images", 5, False)
    ]
    (changed,) = step(found, "flag").changed
    (before,) = step(found, "flag").read
    assert (changed.digest, before.digest, before.stage) == ("ms2", "ms1", "import_data")
    assert step(found, "export").arguments == {"kinds": ["continuum"]}
    assert {step.surgeline for step in found.steps} == {"0.1.0"}


def test_what_had_no_part_in_it_is_left_out(context: Context) -> None:
    reduced(context)
    found = lineage(context, "products/a.fits")
    assert [job.job for job in step(found, "export").jobs] == ["exportfits a"]
    # Those for the other field, and plots, only made files that facts of their own speak of.
    assert [job.job for job in step(found, "make_images").jobs] == ["tclean a", "measure a"]
    assert [file.path for file in step(found, "make_images").made] == ["images/a.image"]
    assert [fact.subject for fact in step(found, "export").facts] == ['["images/a.image"]']
    # Plans are about no file: whatever they led to, both were read.
    assert len(step(found, "make_images").facts) == 2


def test_jobs_come_with_casa_s_commands_and_where_they_ran(context: Context) -> None:
    reduced(context)
    found = lineage(context, "products/a.fits")
    (flagging,) = step(found, "flag").jobs
    assert (flagging.attempt, flagging.environment, flagging.host) == (2, "sha256:b", "node-1")
    assert flagging.commands == ("flagdata(vis='data/my.ms')",)
    assert flagging.ended - flagging.started == 2
    assert found.environments == ENVIRONMENTS
    assert lineage(context, "data/my.ms").environments.keys() == ENVIRONMENTS.keys()


def test_files_are_found_by_any_name_that_tells_them_apart(context: Context, tmp_path: Path) -> None:
    reduced(context)
    workdir = tmp_path / "session"
    link = tmp_path / "link"
    link.symlink_to(workdir)
    whole = [str(folder / "products/a.fits") for folder in (workdir, link)]
    for name in ("products/a.fits", "a.fits", "./products/a.fits", "products/a.fits/", *whole):
        assert lineage(context, name, workdir).product.path == "products/a.fits", name
    assert lineage(context, RAW, workdir).steps == ()
    assert lineage(context, RAW, workdir).product.version is None


def test_a_relative_path_counts_from_where_the_user_is(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduced(context)
    monkeypatch.chdir(tmp_path)
    assert lineage(context, "session/products/b.fits", Path("session")).product.path == "products/b.fits"
    monkeypatch.chdir(tmp_path / "session")
    assert lineage(context, "products/b.fits", Path()).product.path == "products/b.fits"


def test_a_file_of_another_session_is_not_taken_for_one_of_this(context: Context, tmp_path: Path) -> None:
    reduced(context)
    with pytest.raises(ContextError, match="knows no file"):
        lineage(context, str(tmp_path / "other" / "products/a.fits"), tmp_path / "session")


def test_an_unknown_file_names_the_nearest(context: Context) -> None:
    reduced(context)
    with pytest.raises(ContextError, match=r"'products/a\.fit'.*\n.*'products/a\.fits'"):
        lineage(context, "products/a.fit")
    with pytest.raises(ContextError, match="surgeline context show Product"):
        lineage(context, "xyzzy")


def test_a_name_that_several_files_have_asks_for_more(context: Context) -> None:
    files = {f"{folder}/x.fits": "1" for folder in "abcdefg"}
    stage(context, "export", files={"written": files})
    with pytest.raises(ContextError, match=r"a/x\.fits, b/x\.fits, .* and 2 more\n.*more of its path"):
        lineage(context, "x.fits")


def test_who_read_a_file_between_two_changes_depends_on_the_first_alone(context: Context) -> None:
    stage(context, "import_data", files={"written": {"my.ms": "1"}})
    stage(context, "flag", files={"changed": {"my.ms": "2"}})
    late = {"task": "plot", "files": {"read": {"my.ms": "1"}, "written": {"early.png": "p"}}}
    context.commit("plot", [], base=1, details=late)
    found = lineage(context, "early.png")
    assert [step.stage for step in found.steps] == ["plot", "import_data"]
    # Nobody read the MS before it was changed.
    assert [step.stage for step in lineage(context, "my.ms").steps] == ["flag", "import_data"]


def test_a_file_that_somebody_else_changed_is_told(context: Context) -> None:
    stage(context, "import_data", files={"written": {"my.ms": "1"}})
    stage(context, "image", files={"read": {"my.ms": "by hand"}, "written": {"x.image": "x"}})
    (read,) = step(lineage(context, "x.image"), "image").read
    assert (read.stage, read.digest, read.altered) == ("import_data", "by hand", True)


def test_withdrawn_stages_led_to_nothing_that_was_made_later(context: Context) -> None:
    stage(context, "import_data", files={"written": {"my.ms": "1"}})
    stage(context, "flag", files={"changed": {"my.ms": "2"}})
    stage(context, "flag", files={"changed": {"my.ms": "3"}, "read": {"my.ms": "1"}}, withdrawn=(2,))
    stage(context, "image", files={"read": {"my.ms": "3"}, "written": {"x.image": "x"}})
    assert [step.version for step in lineage(context, "x.image").steps] == [4, 3, 1]
    stage(context, "by hand", withdrawn=(3,))
    stage(context, "flag again", files={"changed": {"my.ms": "4"}})
    # Even where nobody recorded what was found.
    assert [step.version for step in lineage(context, "my.ms").steps] == [6, 1]


def test_what_was_made_before_a_stage_was_withdrawn_keeps_its_lineage(context: Context) -> None:
    stage(context, "import_data", files={"written": {"my.ms": "1"}})
    stage(context, "flag", files={"changed": {"my.ms": "2"}})
    stage(context, "image", files={"read": {"my.ms": "2"}, "written": {"x.image": "x"}})
    stage(context, "by hand", withdrawn=(2, 3))
    found = lineage(context, "x.image")
    assert [(step.version, step.withdrawn_by) for step in found.steps] == [(3, 4), (2, 4), (1, None)]


def test_files_that_a_withdrawn_stage_left_lying_are_known_by_their_content(context: Context) -> None:
    stage(context, "import_data", files={"written": {"my.ms": "1"}})
    stage(context, "flag", files={"changed": {"my.ms": "2"}})
    stage(context, "by hand", withdrawn=(2,))
    stage(context, "image", files={"read": {"my.ms": "2"}, "written": {"x.image": "x"}})
    (read,) = step(lineage(context, "x.image"), "image").read
    assert (read.version, read.altered) == (2, False)


def test_facts_alone_tell_of_files_that_were_made_by_hand(context: Context) -> None:
    context.commit("plan", [plan("a")])
    context.commit("image", [image("a")])
    found = lineage(context, "images/a.image")
    assert [(step.stage, step.recorded, step.follows) for step in found.steps] == [
        ("image", False, (1,)),
        ("plan", False, ()),
    ]
    assert found.product.digest == ""


def test_without_a_record_of_what_was_read_the_stages_that_were_needed_count(context: Context) -> None:
    context.commit("import_data", [], details={"needs": []})
    context.commit("look", [], details={"needs": ["import_data"]})
    context.commit("image", [image("a")], details={"needs": ["import_data"]})
    assert [step.stage for step in lineage(context, "a.image").steps] == ["image", "import_data"]


def test_a_fact_that_is_about_no_file_may_stem_from_any_job_of_its_stage(context: Context) -> None:
    job(context, "solve", "gaincal", {}, {"b.image": "b"})
    stage(context, "solve", image("b"), plan("a"), files={"written": {"images/b.image": "b"}})
    stage(context, "image", read=[said(plan("a"), 1)], files={"written": {"x.image": "x"}})
    assert [job.job for job in step(lineage(context, "x.image"), "solve").jobs] == ["gaincal"]


def test_what_a_job_read_that_another_of_its_stage_had_made_is_followed(context: Context) -> None:
    job(context, "image", "dirty", {"my.ms": "1"}, {"images/b.image": "b"})
    job(context, "image", "clean", {"images/b.image": "b"}, {"images/a.image": "a"})
    stage(context, "image", image("a"), image("b"),
          files={"read": {"my.ms": "1"}, "written": {"images/a.image": "a", "images/b.image": "b"}})  # fmt: skip
    found = lineage(context, "a.image")
    assert [job.job for job in found.steps[0].jobs] == ["dirty", "clean"]
    assert [file.path for file in found.given] == ["my.ms"]


def test_a_record_out_of_order_leads_round_in_no_circle(context: Context) -> None:
    stage(context, "a", read=[["ImagePlan", '["b"]', 2]], files={"written": {"x": "1"}})
    stage(context, "b", read=[["ImagePlan", '["b"]', 2], ["ImagePlan", '["b"]', 99]], files={"read": {"x": "1"},
          "written": {"y": "1"}})  # fmt: skip
    assert [step.stage for step in lineage(context, "y").steps] == ["b", "a"]


def test_an_empty_context_knows_no_file(context: Context) -> None:
    with pytest.raises(ContextError, match="knows no file"):
        lineage(context, "x.fits")
