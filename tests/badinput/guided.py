"""`python guided.py TARGET`: bytes for it, guided by atheris to those that reach new lines; part of `make fuzz`.

It begins with what is valid, since what is made of nothing does not get past the first line for hours.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["surgeline", "yaml"]):
    from badinput.hostile import assert_told
    from pickledcontexts import forget_the_pipeline, pickled_context
    from support import RECIPE
    from surgeline import config
    from surgeline.context.legacy import read_pickled_context
    from surgeline.errors import SurgelineError
    from surgeline.workflow import recipe

_CONFIGURATION = b"""\
dask: {cluster: batch, n_workers: 2}
mpi: {servers: auto, server_timeout: 60}
clusters:
  batch: {type: slurm, cores: 2, memory: 4GB, walltime: "1:00:00", workers: {small: {}, gpu: {gpus: 1}}}
  pods: {type: kubernetes, image: "x:1", volumes: [{path: /data, claim: a}]}
worker: {memory: null}
"""
_PIPELINE = b"pipeconfig: {dask: {n_workers: 2, clustertype: slurm, jobqueue: {slurm: {cores: 1}}}}\n"

# What reads each kind of file, and files that are right.
_TARGETS: dict[str, tuple[Callable[[Path], object], list[bytes]]] = {
    "configuration": (
        lambda path: config.load(path.parent, environment={}, home=path.parent / "home"),
        [_CONFIGURATION, _PIPELINE],
    ),
    "recipe": (lambda path: recipe.load(str(path)), [RECIPE.read_bytes()]),
    "pickle": (
        lambda path: read_pickled_context(path, trusted=True),
        [pickle.dumps(pickled_context(), protocol=protocol) for protocol in (0, 2, 4)],
    ),
}


def main() -> None:
    """Feed a target until the time is over, or something else than an error of ours comes out of it."""
    target = sys.argv.pop(1)
    read, valid = _TARGETS[target]
    forget_the_pipeline()
    # Not a temporary folder: atheris ends the process where it stands.
    folder = Path("build", "fuzz", target).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    corpus, path = folder / "corpus", folder / "config.yaml"
    corpus.mkdir(parents=True)
    for number, content in enumerate(valid):
        (corpus / str(number)).write_bytes(content)

    def once(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
        except SurgelineError as error:
            assert_told(error)

    atheris.Setup([*sys.argv, f"-artifact_prefix={folder}/", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
