"""Jobs that carry a reference to the context, and ask for the few facts that they need."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cloudpickle
import pytest

from surgeline import FunctionCall, TaskQueue, open_backend
from surgeline.config import load
from surgeline.context.records import FluxDensity, Roles
from surgeline.context.reference import ContextReference, answer
from surgeline.context.store import Context
from surgeline.errors import ContextError
from surgeline.work.taskqueue import Backend

# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def fluxes_of(reference: ContextReference, vis: str) -> list[float]:
    return [fact.flux for fact in reference.all(FluxDensity, vis=vis)]


def flux(vis: str, field: int, value: float) -> FluxDensity:
    return FluxDensity(
        vis=vis,
        field=field,
        name="1445+099",
        spectral_window=0,
        kind="measured",
        flux=value,
        standard="Perley-Taylor 99",
    )


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with closing(Context(tmp_path / "context.db")) as opened:
        opened.commit("fluxscale", [flux("a.ms", 0, 14.7), flux("a.ms", 1, 2.5), flux("b.ms", 1, 2.4)])
        yield opened


@pytest.fixture(params=["serial", "dask"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, context: Context) -> Iterator[Backend]:
    configuration = load(overrides=[f"backend={request.param}", "dask.n_workers=2"])
    with closing(open_backend(configuration, folder=tmp_path, ask=lambda query: answer(context, query))) as opened:
        yield opened


def test_a_job_reads_the_facts_of_its_version_and_no_later_ones(backend: Backend, context: Context) -> None:
    reference = ContextReference(context.identifier, context.version)
    context.commit("fluxscale again", [flux("a.ms", 1, 2.6)])
    newer = ContextReference(context.identifier, context.version)
    with TaskQueue(backend) as queue:
        for asked in (reference, newer, reference):
            queue.add(FunctionCall(fluxes_of, asked, "a.ms"))
        queue.add(FunctionCall(fluxes_of, reference, "c.ms"))
        found = [outcome.result() for outcome in queue.get_results()]
    assert found == [[14.7, 2.5], [14.7, 2.6], [14.7, 2.5], []]


def test_a_reference_is_small_whatever_the_context_holds(context: Context) -> None:
    context.commit("many", [flux(f"{number}.ms", number, 1.0) for number in range(5000)])
    reference = ContextReference(
        context.identifier, context.version, "postgresql+psycopg://user@somewhere.org:5432/facts"
    )
    assert len(pickle.dumps(reference)) < 1000


def test_a_reference_to_a_file_needs_no_session(context: Context, tmp_path: Path) -> None:
    reference = ContextReference(context.identifier, 1, str(tmp_path / "context.db"))
    assert fluxes_of(reference, "b.ms") == [2.4]
    assert reference.last(Roles) is None


def test_without_a_session_to_ask_it_says_so(context: Context) -> None:
    with pytest.raises(ContextError, match="outside of a job"):
        fluxes_of(ContextReference(context.identifier, 1), "a.ms")


def test_what_goes_wrong_in_the_session_fails_the_job_that_asked(backend: Backend, context: Context) -> None:
    reference = ContextReference(context.identifier, context.version)
    context.close()
    # A closed context opens its file again; one whose file is gone cannot.
    (Path(str(context.where))).rename(Path(str(context.where)).with_name("away"))
    Path(str(context.where)).mkdir()
    with TaskQueue(backend) as queue:
        queue.add(FunctionCall(fluxes_of, reference, "a.ms"))
        (outcome,) = queue.get_results()
    assert outcome.failure is not None
    assert "context.db" in outcome.failure.message
