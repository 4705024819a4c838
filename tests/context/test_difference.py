from __future__ import annotations

import time
from typing import Any

import pytest

from surgeline.context.difference import FieldChange, difference, history
from surgeline.context.records import Decision, Extension, Fact, Roles, subject_of
from surgeline.context.store import Context
from surgeline.errors import ContextError


@pytest.fixture
def context(store: Context) -> Context:
    return store


def roles(vis: str, *target: int) -> Roles:
    return Roles(vis=vis, flux=(0,), bandpass=(0,), phase=(1,), target=target, reason="by intent")


def extension(name: str, value: Any) -> Extension:
    return Extension(namespace="mine", name=name, value=value)


def decision(what: str) -> Decision:
    return Decision(stage="flag", what=what, value="yes", reason="because")


def changes(context: Context, before: int, after: int) -> list[tuple[str, Any, Any]]:
    return [
        (field.field, field.before, field.after)
        for change in difference(context, before, after).changed
        for field in change.fields
    ]


def test_the_history_counts_what_each_commit_said(context: Context) -> None:
    before = time.time()
    context.commit("import", [roles("a.ms"), roles("b.ms"), decision("one")], details={"task": "import_data"})
    context.commit("correct", [roles("a.ms", 3)], removed=[(Roles, subject_of(roles("b.ms")))])
    context.commit("nothing", [], withdrawn=(2,))
    entries = history(context)
    assert [(entry.commit.version, entry.commit.stage, entry.said, entry.taken_back) for entry in entries] == [
        (1, "import", {"Decision": 1, "Roles": 2}, {}),
        (2, "correct", {"Roles": 1}, {"Roles": 1}),
        (3, "nothing", {}, {}),
    ]
    assert [entry.commit.withdrawn_by for entry in entries] == [None, 3, None]
    assert entries[0].commit.details == {"task": "import_data"}
    assert before <= entries[0].commit.committed <= time.time()


def test_a_new_context_has_no_history(context: Context) -> None:
    assert history(context) == []
    found = difference(context, 0, 0)
    assert (found.added, found.gone, found.changed) == ((), (), ())


def test_added_gone_and_changed_facts_are_told_apart(context: Context) -> None:
    context.commit("import", [roles("a.ms"), roles("b.ms"), roles("c.ms")])
    context.commit("correct", [roles("a.ms", 3), decision("one")], removed=[(Roles, subject_of(roles("b.ms")))])
    found = difference(context, 1, 2)
    assert [(fact.kind, fact.stage, fact.version) for fact in found.added] == [("Decision", "correct", 2)]
    assert [(fact.subject, fact.version) for fact in found.gone] == [('["b.ms"]', 1)]
    (change,) = found.changed
    assert (change.before.version, change.after.version) == (1, 2)
    assert change.fields == (FieldChange("target", [], [3]),)


def test_the_way_back_is_the_opposite(context: Context) -> None:
    context.commit("import", [roles("a.ms")])
    context.commit("correct", [roles("a.ms", 3), decision("one")])
    there, back = difference(context, 1, 2), difference(context, 2, 1)
    assert (back.added, back.gone) == (there.gone, there.added)
    assert changes(context, 2, 1) == [("target", [3], [])]


def test_all_is_added_from_the_beginning(context: Context) -> None:
    facts: list[Fact] = [roles("a.ms"), decision("one"), decision("two")]
    context.commit("import", facts)
    assert len(difference(context, 0, 1).added) == 3


def test_what_is_said_anew_with_the_same_content_has_not_changed(context: Context) -> None:
    context.commit("import", [roles("a.ms", 1)])
    context.commit("again", [roles("a.ms", 1)])
    found = difference(context, 1, 2)
    assert (found.added, found.gone, found.changed) == ((), (), ())


def test_what_holds_again_after_a_withdrawal_has_not_changed(context: Context) -> None:
    context.commit("import", [roles("a.ms", 1)])
    context.commit("wrong", [roles("a.ms", 2), decision("wrong")])
    context.commit("by hand", [], withdrawn=(2,))
    found = difference(context, 1, 3)
    assert (found.added, found.gone, found.changed) == ((), (), ())
    assert changes(context, 2, 3) == [("target.0", 2, 1)]
    assert [fact.kind for fact in difference(context, 2, 3).gone] == ["Decision"]


def test_changes_are_told_as_deep_down_as_they_are(context: Context) -> None:
    context.commit("one", [extension("x", {"a": {"b": 1, "c": [1, {"d": 2}]}, "gone": 5})])
    context.commit("two", [extension("x", {"a": {"b": 1, "c": [1, {"d": 3}]}, "new": 6})])
    context.commit("three", [extension("x", {"a": {"b": 1, "c": [1]}, "new": 6})])
    assert changes(context, 1, 2) == [("value.a.c.1.d", 2, 3), ("value.gone", 5, None), ("value.new", None, 6)]
    assert changes(context, 2, 3) == [("value.a.c", [1, {"d": 3}], [1])]


def test_numbers_that_are_none_do_not_seem_to_change(context: Context) -> None:
    context.commit("one", [extension("x", float("nan"))])
    context.commit("two", [extension("x", float("nan")), extension("y", 1)])
    assert difference(context, 1, 2).changed == ()


def test_a_version_that_there_is_not_is_told(context: Context) -> None:
    for versions in ((0, 1), (1, 0), (-1, 0)):
        with pytest.raises(ContextError, match="has versions 0 to 0"):
            difference(context, *versions)
