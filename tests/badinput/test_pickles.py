"""Pickles that pretend to be contexts: translated, or refused; nothing of them is run, and none takes for ever."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from badinput.hostile import assert_told, damaged, examples, mutate, texts
from pickledcontexts import calfrom, forget_the_pipeline, interval, made_by_pipeline, pickled_context, tree
from surgeline.context.legacy import TranslatedContext, read_pickled_context
from surgeline.context.store import Context
from surgeline.errors import BadInput, ContextError

WHOLE = pickle.dumps(pickled_context(), protocol=4)
forget_the_pipeline()


@pytest.fixture(autouse=True)
def no_pipeline() -> Iterator[None]:
    yield
    forget_the_pipeline()


def read(content: bytes) -> TranslatedContext | None:
    """What a pickle is translated to, None if it is refused; the facts of it can be committed."""
    with TemporaryDirectory() as name:
        path = Path(name) / "old.context"
        path.write_bytes(content)
        try:
            translated = read_pickled_context(path, trusted=True)
        except (BadInput, ContextError) as error:
            assert_told(error)
            return None
        finally:
            assert list(Path(name).iterdir()) == [path]
        context = Context(None)
        context.commit("import-pickled", translated.facts)
        context.every()
        context.close()
        return translated


@examples(80)
@given(damaged(WHOLE))
def test_any_damaged_pickle_is_translated_or_refused(content: bytes) -> None:
    read(content)


@examples(60)
@given(st.data())
def test_a_context_with_anything_in_it_is_translated_or_refused(data: st.DataObject) -> None:
    said = pickled_context()
    data.draw(st.composite(lambda draw: mutate(draw, said))())
    try:
        content = pickle.dumps(said, protocol=4)
    except Exception:  # noqa: BLE001 - what cannot be pickled is no pickle
        return
    forget_the_pipeline()
    read(content)


_CALLS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("builtins", "getattr"),
    ("builtins", "open"),
    ("importlib", "import_module"),
    ("surgeline.work.jobs", "JobRequest"),
    ("cloudpickle.cloudpickle", "_make_function"),
    ("numpy", "load"),
    ("numpy.core.multiarray", "scalar"),
    ("collections", "Counter.__init__.__globals__"),
    ("copyreg", "_extension_registry"),
]


@examples(60)
@given(st.sampled_from(_CALLS), st.lists(texts() | st.just("touch pwned"), min_size=1, max_size=2))
def test_nothing_that_a_pickle_names_is_called(named: tuple[str, str], words: list[str]) -> None:
    """By the opcodes themselves: the name, its arguments, the call."""
    module, name = named
    program = io.BytesIO()
    program.write(b"\x80\x04c" + module.encode() + b"\n" + name.encode() + b"\n(")
    for word in words:
        body = word.encode(errors="surrogatepass")
        program.write(b"X" + len(body).to_bytes(4, "little") + body)
    program.write(b"tR.")
    with TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            assert read(program.getvalue()) is None
            assert not list(Path(folder).iterdir())
        finally:
            os.chdir(before)


def _large(kind: str) -> Any:
    """A context of a few kilobytes with a count in it that nobody could count to."""
    huge = 10**15
    said = pickled_context()
    if kind == "channels":
        step = made_by_pipeline("pipeline.domain.spectralwindow", "ArithmeticProgression", (1e9, 1e6, huge))
        window = said.state["observing_run"].state["measurement_sets"][0].state["spectral_windows"][0]
        window.state[15].state["chan_freqs"] = step
        return said
    one = [calfrom("B", caltype="bandpass")]
    spans = {"antennas": 2, "windows": 6, "fields": 2, "intents": 4} | {kind: huge}
    lowest = tree(interval(0, spans["intents"], one))
    calibrated = tree(interval(0, spans["windows"], tree(interval(0, spans["fields"], lowest))))
    said.state["callibrary"].state["_active"].state["data"] = {
        "uid___A002.ms": tree(interval(0, spans["antennas"], calibrated))
    }
    return said


def _numbered() -> bytes:
    """A context of which one object has, by some wrong bytes, a number that room cannot be made for."""
    whole = pickle.dumps(pickled_context(), protocol=2)
    put = next(place for opcode, _, place in pickletools.genops(whole) if opcode.name == "BINPUT")
    return whole[:put] + b"r" + (2**32 - 1).to_bytes(4, "little") + whole[put + 2 :]


def test_a_number_that_is_too_large_is_refused_before_there_is_room_for_so_many(tmp_path: Path) -> None:
    path = tmp_path / "large.context"
    path.write_bytes(_numbered())
    with pytest.raises(ContextError, match="with the number 4294967295"):
        read_pickled_context(path, trusted=True)


@pytest.mark.parametrize("kind", ["channels", "antennas", "windows", "fields", "intents"])
def test_a_count_that_is_too_large_takes_neither_time_nor_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "large.context"
    path.write_bytes(pickle.dumps(_large(kind)))
    code = (
        "import resource, sys; from surgeline.context.legacy import read_pickled_context as read\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))\n"
        "print(len(read(sys.argv[1], trusted=True).facts))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
