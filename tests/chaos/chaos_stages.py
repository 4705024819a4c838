"""Stages of hundreds of cheap jobs, as a package brings them, and jobs that misbehave when they are asked to.

`scatter` writes many small files of bytes that follow from their names, `change` changes some of them in place as
CASA changes tables, `ask_for_facts` has jobs read facts of the session, `gather` makes one product of all files. What
comes out depends on nothing else: a run in which something went wrong is compared with one in which nothing did.

Each job notes in a file beside the working folder that it began. A job that finds a wish in the folder `wishes` there
takes it and does as it says, once.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from surgeline import FunctionCall
from surgeline.context.records import Fact
from surgeline.context.reference import ContextReference
from surgeline.stages.stage import Parameters, Stage, stage
from surgeline.work.procedure import Aside, Everywhere, Procedure, together

# Beside the working folder, in which jobs run.
BEGUN, WISHES = Path("..", "begun"), Path("..", "wishes")
ATTEMPT = "SURGELINE_CHAOS_ATTEMPT"
# The same as a file, for workers that have nothing of the session's environment.
ATTEMPT_FILE = Path("..", "attempt")
TABLE = "data/table"


class Piece(Fact):
    """A file, and what is in it."""

    kind_name: ClassVar[str] = "chaos.Piece"
    identity: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    digest: str


class Whole(Fact):
    """What a stage made of all files."""

    kind_name: ClassVar[str] = "chaos.Whole"
    identity: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    digest: str
    pieces: int


class ScatterParameters(Parameters):
    """How many files, and how many seconds are spent on each."""

    count: int = 100
    seconds: float = 0.0
    everywhere: bool = False


class ChangeParameters(Parameters):
    """Of which stage how many files are changed, how often, and how many seconds each change takes."""

    of: str = "many"
    count: int = 4
    times: int = 3
    seconds: float = 0.1


class AskParameters(Parameters):
    """About the files of which stage jobs ask."""

    of: str = "slow"


class GatherParameters(Parameters):
    """Where the product goes."""

    output: str = "products/whole.bin"


def content(path: str) -> bytes:
    """The bytes of a file: they follow from its name."""
    return hashlib.sha256(path.encode()).digest() * 64


def write_piece(path: str, seconds: float) -> str:
    """Write a file in two halves; its digest."""
    begin(path)
    written = content(path)
    with Path(path).open("xb") as file:
        file.write(written[:1000])
        file.flush()
        time.sleep(seconds)
        file.write(written[1000:])
    return hashlib.sha256(written).hexdigest()


def change_piece(path: str, turn: int, seconds: float) -> str:
    """Change a file, half of it at a time and not twice alike: what was half done shows."""
    begin(f"{path} {turn}")
    target = Path(path, "table.f0") if Path(path).is_dir() else Path(path)
    with target.open("r+b") as file:
        before = file.read()
        changed = bytes((byte * 3 + turn + 1) % 256 for byte in before)
        half = len(before) // 2
        for start, end in ((0, half), (half, len(before))):
            file.seek(start)
            file.write(changed[start:end])
            file.flush()
            os.fsync(file.fileno())
            time.sleep(seconds / 2)
    return hashlib.sha256(changed).hexdigest()


def write_table(path: str) -> str:
    """A folder with a lock file, as casacore's tables are."""
    begin(path)
    Path(path).mkdir()
    Path(path, "table.lock").write_bytes(b"\0" * 325)
    Path(path, "table.f0").write_bytes(content(path))
    return hashlib.sha256(content(path)).hexdigest()


def ask(reference: ContextReference, path: str) -> str:
    """What the session knows of a file."""
    begin(f"ask {path}")
    found = reference.last(Piece, path=path)
    assert found is not None, f"the session does not know {path}"
    return found.digest


def join(paths: list[str], output: str) -> str:
    """Write all files into one."""
    begin(output)
    joined = b"".join(Path(path).read_bytes() for path in paths)
    Path(output).write_bytes(joined)
    return hashlib.sha256(joined).hexdigest()


def sketch(path: str, output: str) -> None:
    """Something that nobody waits for."""
    begin(output)
    Path(output).write_bytes(Path(path).read_bytes()[:10])


def who() -> int:
    """The process that this runs in."""
    begin("everywhere")
    return os.getpid()


@stage
def scatter(stage: Stage, parameters: ScatterParameters) -> Procedure[list[Fact]]:
    if parameters.everywhere:
        yield Everywhere(FunctionCall(who))
    paths = [f"data/{stage.name}-{number:04}" for number in range(parameters.count)]
    calls = [FunctionCall(write_piece, path, parameters.seconds) for path in paths]
    digests = yield [
        call.declare(name=f"write {stage.name}", writes=[path]) for call, path in zip(calls, paths, strict=True)
    ]
    yield Aside(
        [
            FunctionCall(sketch, path, output := f"pictures/{Path(path).name}").declare(reads=[path], writes=[output])
            for path in paths[:5]
        ]
    )
    return [Piece(path=path, digest=digest) for path, digest in zip(paths, digests, strict=True)]


@stage
def table(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    (digest,) = yield [FunctionCall(write_table, TABLE).declare(name="write table", writes=[TABLE])]
    return [Piece(path=TABLE, digest=digest)]


@stage
def change(stage: Stage, parameters: ChangeParameters) -> Procedure[list[Fact]]:
    paths = [f"data/{parameters.of}-{number:04}" for number in range(parameters.count)]

    def one(path: str) -> Procedure[Fact]:
        for turn in range(parameters.times):
            call = FunctionCall(change_piece, path, turn, parameters.seconds)
            (digest,) = yield [call.declare(name=f"change {path} {turn}", changes=[path])]
        return Piece(path=path, digest=digest)

    return list((yield from together([one(stage.required(Piece, path=path).path) for path in [*paths, TABLE]])))


@stage
def ask_for_facts(stage: Stage, parameters: AskParameters) -> Procedure[list[Fact]]:
    pieces = [piece for piece in stage.known(Piece) if piece.path.startswith(f"data/{parameters.of}-")]
    assert stage.reference is not None
    answers = yield [FunctionCall(ask, stage.reference, piece.path).declare(name="ask") for piece in pieces]
    digest = hashlib.sha256("".join(answers).encode()).hexdigest()
    return [Whole(path="answers", digest=digest, pieces=len(answers))]


@stage
def gather(stage: Stage, parameters: GatherParameters) -> Procedure[list[Fact]]:
    paths = sorted(piece.path for piece in stage.known(Piece) if piece.path != TABLE)
    call = FunctionCall(join, paths, parameters.output)
    (digest,) = yield [call.declare(name="join", reads=[*paths, TABLE], writes=[parameters.output])]
    return [Whole(path=parameters.output, digest=digest, pieces=len(paths))]


def begin(what: str) -> None:
    """Note that a job begins, and do what is wished of one."""
    attempt = os.environ.get(ATTEMPT) or ATTEMPT_FILE.read_text()
    name = f"{attempt} {what}".replace("/", "|")
    with (BEGUN / name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    for wish in WISHES.iterdir():
        taken = WISHES.with_name("taken") / wish.name
        try:
            wish.rename(taken)
        except OSError:
            # Another job was first.
            continue
        MISBEHAVIOUR[wish.name.partition(".")[0]]()


def leak() -> None:
    """Take more memory than a worker may have."""
    held = []
    for _ in range(75):
        held.append(b"x" * (16 << 20))
        time.sleep(0.02)


def print_garbage() -> None:
    """Write what is no text to where a worker's words go."""
    for _ in range(50):
        os.write(1, os.urandom(4096))
        os.write(2, b"\xff\xfe\0{}\r\x1b[2J" + os.urandom(4096))


def leave_a_lock() -> None:
    """Lock a table and forget it; the process has to end before another gets it."""
    lock = Path(TABLE, "table.lock")
    if lock.exists():
        kept = os.open(lock, os.O_RDWR)
        fcntl.lockf(kept, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)


def leave_children() -> None:
    """Start processes that stay, some in a session of their own and with no parent that knows them."""
    for options in ({}, {"start_new_session": True}):
        subprocess.Popen(["sleep", "300"], **options)  # type: ignore[call-overload]
    subprocess.run(["sh", "-c", "setsid sleep 300 & setsid sleep 300 </dev/null >/dev/null 2>&1 &"], check=True)
    if "distributed.worker" in sys.modules and os.fork() == 0:
        # It keeps every socket of its worker open.
        os.setsid()
        time.sleep(300)
        os._exit(0)


def crash() -> None:
    """As CASA does: a segmentation fault."""
    ctypes.string_at(0)


def leave() -> None:
    """End the process at once, as if all were well."""
    os._exit(0)


def be_killed() -> None:
    """As the kernel ends what takes too much."""
    os.kill(os.getpid(), 9)


def close_descriptors() -> None:
    """Close what is the worker's, sockets too."""
    os.closerange(3, 200)


def stall() -> None:
    """Hold Python's own lock for some seconds: the worker answers nobody."""
    ctypes.PyDLL(None).usleep(3_000_000)


def exit_the_interpreter() -> None:
    """End as a script does."""
    sys.exit(3)


MISBEHAVIOUR: Mapping[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        leak, print_garbage, leave_a_lock, leave_children, crash, leave, be_killed, close_descriptors, stall,
        exit_the_interpreter,
    )
}  # fmt: skip


def install(folder: Path) -> None:
    """Make the folder a place from which this module is an installed package: for PYTHONPATH."""
    info = folder / "chaos_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-stages\nVersion: 1.0\n")
    stages = ("scatter", "table", "change", "ask_for_facts", "gather")
    (info / "entry_points.txt").write_text(
        "[surgeline.stages]\n"
        + "".join(f"{name} = chaos_stages:{name}\n" for name in stages)
        + "[surgeline.facts]\npiece = chaos_stages:Piece\nwhole = chaos_stages:Whole\n"
    )
    (folder / "chaos_stages.py").write_text(Path(__file__).read_text())
