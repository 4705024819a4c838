"""UVFITS files whose headers and tables are damaged: imported, or refused; in time, with nothing left elsewhere."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import casadata
from hypothesis import given

from badinput.hostile import assert_told, damaged, examples
from surgeline.errors import DataError
from surgeline.stages.inputs import find_input

_WHOLE = (Path(casadata.datapath) / "demo" / "3C273XC1.fits").read_bytes()
_HEADER = 2880 * 6
_VALUES = (b"-1", b"0", b"99999999999", b"1E400", b"NaN", b"'x", b"T", b"''''", b"", b"'$(touch pwned)'")
_IMPORT = """
import sys
from pathlib import Path
from surgeline.work.casaprocess import CasaProcess
CasaProcess(Path.cwd(), Path("casa.log")).prepare()
from surgeline.stages.observation import read_observation
from surgeline.work.jobs import JobRequest
for name in sys.argv[1:]:
    try:
        JobRequest("importuvfits", {"fitsfile": name, "vis": name.replace("fits", "ms")}).run()
        read_observation(name.replace("fits", "ms"), name).model_dump_json()
    except Exception as error:
        print("refused", type(error).__name__, flush=True)
    else:
        print("imported", flush=True)
"""


@examples(50)
@given(damaged(_WHOLE[:_HEADER]))
def test_any_file_is_recognised_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "x.fits"
        path.write_bytes(content)
        try:
            assert find_input(str(path)).kind == "UVFITS"
        except DataError as error:
            assert_told(error)


def _wrong(seed: int) -> bytes:
    """The file with cards that say something else, or are not there, and bytes that are others."""
    chance = random.Random(seed)
    body = bytearray(_WHOLE)
    for _ in range(chance.randint(1, 4)):
        card = chance.randrange(_HEADER) // 80 * 80
        change = chance.random()
        if change < 0.5:
            body[card + 10 : card + 30] = chance.choice(_VALUES).rjust(20)
        elif change < 0.7:
            body[card : card + 8] = b"XXXXXXXX"
        elif change < 0.9:
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        else:
            del body[chance.randrange(len(body)) :]
    return bytes(body)


def test_wrong_headers_end_in_an_ms_or_an_error(tmp_path: Path) -> None:
    many = int(os.environ.get("SURGELINE_FUZZ_EXAMPLES", "0")) // 10
    first = random.randrange(10**9) if many else 0
    names = [f"{seed}.fits" for seed in range(first, first + (many or 8))]
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in names:
        (inside / name).write_bytes(_wrong(int(name.partition(".")[0])))
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORT, *names], cwd=inside, capture_output=True, timeout=120 + 10 * len(names)
    )
    said = [line for line in ran.stdout.split(b"\n") if line.startswith((b"refused", b"imported"))]
    assert (ran.returncode, len(said)) == (0, len(names)), (names, said, ran.stderr[-2000:])
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert not (inside / "pwned").exists()
