from __future__ import annotations

import json
import random
import threading
from contextlib import closing
from pathlib import Path

import pytest

from stores import Model, at_once, commit_with_keys, decision, extension, flux, random_change
from surgeline.context.records import Decision, Extension, Fact, FluxDensity, subject_of
from surgeline.context.store import Context, Snapshot
from surgeline.errors import ConflictError, ContextError

KINDS: tuple[type[Fact], ...] = (FluxDensity, Extension, Decision)


def of_kinds(facts: list[Fact]) -> list[list[Fact]]:
    return [[fact for fact in facts if isinstance(fact, kind)] for kind in KINDS]


def seen(snapshot: Snapshot) -> list[list[Fact]]:
    return [list(snapshot.all(kind)) for kind in KINDS]


@pytest.mark.parametrize("seed", [1, 2])
def test_every_version_says_for_ever_what_it_said_when_it_was_made(where: str | Path, seed: int) -> None:
    numbers, model = random.Random(seed), Model()
    with closing(Context(where)) as context:
        for version in range(1, 101):
            change = random_change(numbers, model.standing())
            model.changes.append(change)
            assert change.commit_to(context, f"stage {version}") == version
            assert seen(context.at()) == of_kinds(model.at(version)), version
    with closing(Context(where, context.identifier)) as context:
        assert context.version == 100
        for version in range(101):
            assert seen(context.at(version)) == of_kinds(model.at(version)), version
        assert context.stages() == [f"stage {version}" for version in model.standing()]
        log = context.log()
        assert [commit.version for commit in log if commit.withdrawn_by is None] == model.standing()
        for commit in log:
            change = model.changes[commit.version - 1]
            assert commit.stage == commit.details["stage"] == f"stage {commit.version}"
            assert [other.version for other in log if other.withdrawn_by == commit.version] == sorted(
                change.withdrawn
            )
            said = [stored.kind for stored in context.said_by(commit.version)]
            assert len(said) == len(change.added) + len(change.removed)


def test_what_a_withdrawn_commit_replaced_holds_again_and_what_it_said_beside_is_gone(store: Context) -> None:
    store.commit("first", [flux(1, 1.0), flux(2, 1.0), decision("first")])
    store.commit("second", [flux(1, 2.0), flux(3, 2.0), decision("second")])
    store.commit("third", [flux(3, 3.0)])
    assert store.commit("rerun", [], withdrawn=[2]) == 4
    assert store.all(FluxDensity) == [flux(1, 1.0), flux(2, 1.0), flux(3, 3.0)]
    assert store.all(Decision) == [decision("first")]
    assert store.stages() == ["first", "third", "rerun"]
    # Nothing that was seen before is seen otherwise.
    assert store.at(3).all(FluxDensity) == [flux(2, 1.0), flux(1, 2.0), flux(3, 3.0)]
    assert store.at(2).all(Decision) == [decision("first"), decision("second")]


def test_a_stage_that_runs_again_replaces_what_it_said_in_one_commit(store: Context) -> None:
    store.commit("calibrate", [flux(1, 1.0), flux(2, 1.0), decision("once")])
    store.commit("calibrate", [flux(1, 2.0), decision("again")], withdrawn=[1])
    assert store.all(FluxDensity) == [flux(1, 2.0)]
    assert store.all(Decision) == [decision("again")]
    assert [commit.withdrawn_by for commit in store.log()] == [2, None]


def test_a_fact_that_was_taken_back_holds_again_when_that_is_withdrawn(store: Context) -> None:
    store.commit("said", [flux(1, 1.0)])
    store.commit("taken back", [], removed=[(FluxDensity, subject_of(flux(1, 0.0)))])
    assert store.all(FluxDensity) == []
    store.commit("rerun", [], withdrawn=[2])
    assert store.all(FluxDensity) == [flux(1, 1.0)]
    assert store.at(2).all(FluxDensity) == []


def test_of_what_one_commit_says_twice_the_last_word_holds(store: Context) -> None:
    store.commit("stage", [flux(1, 1.0), flux(2, 1.0), flux(1, 2.0)])
    assert store.all(FluxDensity) == [flux(2, 1.0), flux(1, 2.0)]
    assert len(store.every()) == 3


@pytest.mark.parametrize("version", [-1, 3])
def test_a_version_that_there_is_not_is_refused(store: Context, version: int) -> None:
    store.commit("one", [])
    store.commit("two", [])
    with pytest.raises(ContextError, match=rf"no version {version}\n.*0 to 2"):
        store.at(version)
    with pytest.raises(ContextError, match="no version 3"):
        store.commit("rerun", [], withdrawn=[1, 3])
    assert store.stages() == ["one", "two"]


def test_a_commit_is_withdrawn_once(store: Context) -> None:
    store.commit("one", [flux(1, 1.0)])
    store.commit("rerun", [], withdrawn=[1, 1])
    with pytest.raises(ContextError, match="version 1 was withdrawn already, by version 2"):
        store.commit("rerun", [], withdrawn=[1])
    assert store.version == 2


def test_a_key_makes_a_commit_once(where: str | Path) -> None:
    with closing(Context(where)) as context:
        assert context.commit("stage", [decision("one")], key="a") == 1
        assert context.commit("stage", [decision("two")], key="b") == 2
        assert context.commit("stage", [decision("one")], key="a") == 1
    with closing(Context(where, context.identifier)) as again:
        assert again.commit("stage", [decision("two")], key="b") == 2
        assert [fact.what for fact in again.all(Decision)] == ["one", "two"]


def test_a_key_makes_a_commit_once_whoever_uses_it_at_the_same_time(where: str | Path) -> None:
    keys = [f"key {number}" for number in range(20)]
    found: list[list[int]] = []

    def commit() -> None:
        found.append(commit_with_keys(where, context.identifier, keys))

    with closing(Context(where)) as context:
        threads = [threading.Thread(target=commit) for _ in range(2)]
        with at_once(commit_with_keys, *[(where, context.identifier, keys)] * 2) as processes:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            found += [process.result() for process in processes]
        assert found == [list(range(1, 21))] * 4
        assert [fact.what for fact in context.all(Decision)] == keys


def test_who_contradicts_what_was_said_since_its_base_is_refused_whole(store: Context) -> None:
    store.commit("import", [flux(1, 1.0), flux(2, 1.0)])
    store.commit("fluxscale", [flux(1, 2.0), flux(3, 2.0)], base=1)
    with pytest.raises(ConflictError) as caught:
        store.commit("setjy", [decision("new"), flux(2, 9.0), flux(1, 9.0)], base=1)
    message = str(caught.value)
    for told in ("'setjy'", "'fluxscale'", "version 1", f"FluxDensity {subject_of(flux(1, 0.0))}", "recipe"):
        assert told in message
    assert subject_of(flux(2, 0.0)) not in message
    assert store.version == 2
    assert store.all(FluxDensity) == [flux(2, 1.0), flux(1, 2.0), flux(3, 2.0)]
    assert store.all(Decision) == []
    # Upon the newest version it may.
    assert store.commit("setjy", [flux(1, 9.0)], base=2) == 3


def test_what_others_said_is_no_conflict_when_it_is_the_same_or_of_something_else(store: Context) -> None:
    store.commit("import", [flux(1, 1.0)])
    store.commit("one", [flux(1, 2.0), flux(2, 2.0), decision("same")], base=1)
    assert store.commit("other", [flux(1, 2.0), flux(3, 3.0), decision("same")], base=1) == 3
    assert store.all(FluxDensity) == [flux(2, 2.0), flux(1, 2.0), flux(3, 3.0)]
    assert store.all(Decision) == [decision("same"), decision("same")]
    assert [(commit.base, commit.stage) for commit in store.log()] == [(0, "import"), (1, "one"), (1, "other")]


def test_only_the_last_word_of_the_others_counts(store: Context) -> None:
    store.commit("import", [])
    store.commit("one", [flux(1, 2.0)])
    store.commit("two", [flux(1, 3.0)])
    assert store.commit("other", [flux(1, 3.0)], base=1) == 4
    with pytest.raises(ConflictError, match="'other'"):
        store.commit("another", [flux(1, 2.0)], base=1)


def test_what_others_took_back_or_withdrew_is_a_conflict(store: Context) -> None:
    store.commit("import", [flux(1, 1.0), flux(2, 1.0)])
    store.commit("more", [flux(3, 1.0)])
    store.commit("taken back", [], removed=[(FluxDensity, subject_of(flux(1, 0.0)))])
    store.commit("rerun", [], withdrawn=[2])
    with pytest.raises(ConflictError, match="'taken back'"):
        store.commit("late", [flux(1, 2.0)], base=2)
    with pytest.raises(ConflictError, match="'rerun'"):
        store.commit("late", [flux(3, 2.0)], base=2)
    assert store.commit("late", [flux(2, 2.0)], base=2) == 5


def test_what_others_said_and_withdrew_again_is_no_conflict(store: Context) -> None:
    store.commit("import", [])
    store.commit("one", [flux(1, 1.0)])
    store.commit("rerun", [], withdrawn=[2])
    assert store.commit("late", [flux(1, 2.0)], base=1) == 4


def test_who_withdraws_what_others_built_upon_is_refused(store: Context) -> None:
    store.commit("import", [flux(1, 1.0)])
    store.commit("one", [flux(1, 2.0)])
    with pytest.raises(ConflictError, match="'one'"):
        store.commit("rerun", [], base=1, withdrawn=[1])
    assert store.commit("rerun", [], base=2, withdrawn=[1]) == 3
    assert store.all(FluxDensity) == [flux(1, 2.0)]


def test_many_conflicts_are_told_by_the_first_few(store: Context) -> None:
    store.commit("import", [])
    store.commit("one", [flux(number, 1.0) for number in range(30)])
    with pytest.raises(ConflictError, match="and 25 more"):
        store.commit("other", [flux(number, 2.0) for number in range(30)], base=1)


def test_facts_are_found_by_their_texts_whatever_others_say(store: Context) -> None:
    odd = ["", "NUL\0within", "100%", 'quo"te', "\\u0000", "umläut", "'; --"]
    store.commit("said", [extension(name, name) for name in odd])
    store.commit("taken back", [], removed=[(Extension, json.dumps(["tests", "umläut"]))])
    store.commit("other kinds", [flux(1, 1.0), decision("NUL\0 here too"), decision("plain")])
    for name in odd:
        assert store.all(Extension, name=name) == ([] if name == "umläut" else [extension(name, name)])
        assert store.all(Extension, namespace="tests", value=name) == store.all(Extension, name=name)
    assert store.all(Decision, what="plain") == [decision("plain")]
    assert store.all(FluxDensity, vis="my.ms", field=1) == [flux(1, 1.0)]
    assert store.all(FluxDensity, vis="other.ms") == []
    assert store.last(Extension, namespace="tests") == extension("'; --", "'; --")
