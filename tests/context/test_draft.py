from __future__ import annotations

import pytest

from stores import decision, extension, flux
from surgeline.context.records import Decision, Extension, FluxDensity
from surgeline.context.store import Context
from surgeline.errors import ConflictError, ContextError


def test_a_draft_is_seen_by_who_holds_it_and_by_nobody_else(store: Context) -> None:
    store.commit("import", [flux(1, 1.0), flux(2, 1.0), decision("before")])
    draft, other = store.draft("by hand"), store.draft("by another")
    draft.add(flux(1, 2.0), flux(3, 2.0), decision("tried"))
    assert draft.remove(FluxDensity, field=2) == 1
    assert draft.all(FluxDensity) == [flux(1, 2.0), flux(3, 2.0)]
    assert draft.all(FluxDensity, field=3) == [flux(3, 2.0)]
    assert draft.last(FluxDensity) == flux(3, 2.0)
    assert draft.last(FluxDensity, field=2) is None
    assert draft.all(Decision) == [decision("before"), decision("tried")]
    for reader in (store, other):
        assert reader.all(FluxDensity) == [flux(1, 1.0), flux(2, 1.0)]
        assert reader.all(Decision) == [decision("before")]
    assert store.version == draft.version == 1


def test_an_accepted_draft_says_in_one_commit_what_it_showed(store: Context) -> None:
    store.commit("import", [flux(1, 1.0), flux(2, 1.0), flux(3, 1.0)])
    draft = store.draft("by hand")
    draft.add(flux(4, 2.0), flux(1, 2.0), decision("tried"))
    draft.add(flux(4, 3.0))
    draft.remove(FluxDensity, field=2)
    shown = draft.all(FluxDensity)
    assert draft.accept(who="me") == 2
    assert store.all(FluxDensity) == shown == [flux(3, 1.0), flux(1, 2.0), flux(4, 3.0)]
    assert store.all(Decision) == [decision("tried")]
    commit = store.log()[-1]
    assert (commit.stage, commit.base, commit.details) == ("by hand", 1, {"who": "me"})
    # Only the last word of each subject is said.
    assert len(store.said_by(2)) == 4
    assert store.at(1).all(FluxDensity) == [flux(1, 1.0), flux(2, 1.0), flux(3, 1.0)]


def test_a_dropped_draft_leaves_nothing(store: Context) -> None:
    draft = store.draft("by hand")
    draft.add(flux(1, 1.0))
    draft.drop()
    assert store.version == 0
    assert store.every() == []


@pytest.mark.parametrize("end", ["accept", "drop"])
def test_a_draft_ends_once(store: Context, end: str) -> None:
    draft = store.draft("by hand")
    draft.add(flux(1, 1.0))
    getattr(draft, end)()
    version = store.version
    for late in (draft.accept, draft.drop, lambda: draft.add(flux(2, 1.0)), lambda: draft.remove(FluxDensity)):
        with pytest.raises(ContextError, match=f"{end}.*already"):
            late()
    assert store.version == version


def test_what_is_taken_back_may_be_said_again(store: Context) -> None:
    store.commit("import", [flux(1, 1.0)])
    draft = store.draft("by hand")
    draft.remove(FluxDensity)
    assert draft.all(FluxDensity) == []
    draft.add(flux(1, 2.0), decision("tried"), decision("again"))
    assert draft.remove(Decision, what="tried") == 1
    assert draft.remove(FluxDensity, field=7) == 0
    draft.accept()
    assert store.all(FluxDensity) == [flux(1, 2.0)]
    assert store.all(Decision) == [decision("again")]


def test_what_has_no_identity_cannot_be_taken_back(store: Context) -> None:
    store.commit("import", [decision("before")])
    draft = store.draft("by hand")
    with pytest.raises(ContextError, match="Decision has no identity"):
        draft.remove(Decision)
    assert draft.all(Decision) == [decision("before")]


def test_a_draft_keeps_its_base_while_others_commit(store: Context) -> None:
    store.commit("import", [flux(1, 1.0)])
    draft = store.draft("by hand")
    store.commit("stage", [flux(2, 2.0)])
    assert draft.all(FluxDensity) == [flux(1, 1.0)]
    draft.add(flux(1, 3.0))
    assert draft.accept() == 3
    assert store.all(FluxDensity) == [flux(2, 2.0), flux(1, 3.0)]
    assert store.log()[-1].base == 1


@pytest.mark.parametrize("change", ["say", "take back"])
def test_a_draft_that_contradicts_what_was_said_meanwhile_is_refused(store: Context, change: str) -> None:
    store.commit("import", [flux(1, 1.0), extension("x", 1)])
    draft = store.draft("by hand")
    draft.add(extension("x", 2))
    if change == "say":
        draft.add(flux(1, 3.0))
    else:
        draft.remove(FluxDensity)
    store.commit("stage", [flux(1, 2.0)])
    with pytest.raises(ConflictError, match=r"'by hand'[\s\S]*'stage'"):
        draft.accept()
    assert store.version == 2
    assert store.all(Extension) == [extension("x", 1)]
    # Nothing of it is lost, either: it may be dropped, or read to be said anew.
    assert draft.all(Extension) == [extension("x", 2)]
    draft.drop()


def test_drafts_that_say_different_things_are_all_accepted(store: Context) -> None:
    drafts = [store.draft(f"draft {number}") for number in range(5)]
    for number, draft in enumerate(drafts):
        draft.add(flux(number, 1.0), extension("shared", "the same"))
    assert [draft.accept() for draft in reversed(drafts)] == [1, 2, 3, 4, 5]
    assert [fact.field for fact in store.all(FluxDensity)] == [4, 3, 2, 1, 0]
    assert store.all(Extension) == [extension("shared", "the same")]
