"""Put Surgeline in the place of the Pipeline's own parallel layer, and take it out again."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from surgeline.adopt import copies
from surgeline.adopt.engine import INFRASTRUCTURE, PIPELINE, Engine, current, make_current
from surgeline.adopt.paralleltclean import put_tclean_back, replace_tclean
from surgeline.errors import BadInput
from surgeline.work.casaprocess import current_log_file
from surgeline.work.taskqueue import Backend

# The module of the Pipeline that makes its requests for calls of CASA.
_REQUESTS = f"{INFRASTRUCTURE}.casa_tasks"


class AdoptionWarning(UserWarning):
    """This copy of the Pipeline and Surgeline do not have the same names."""


def install(session: Backend) -> None:
    """Have the jobs of the Pipeline run on a session's workers, from its import on; call it before `import pipeline`.

    Args:
        session: where jobs go, as `surgeline.open_backend` opens it: the workers of any cluster, the servers of an
            MPI session, or this process alone. Whoever opened it closes it, after `uninstall`.

    Raises:
        BadInput: no copy of the Pipeline can be imported, or it was imported before, or Surgeline is installed, or
            this is no backend.

    Warns:
        AdoptionWarning: this copy uses names that Surgeline does not supply, or has not all that it does.
    """
    if not hasattr(session, "submit"):
        raise BadInput(f"{session!r} takes no jobs", "give what surgeline.open_backend(…) opens")
    if current() is not None:
        raise BadInput("Surgeline is installed in this process already", "call surgeline.adopt.uninstall() first")
    _check_not_imported()
    copy = copies.find()
    supplied = {module: import_module(f"{__package__}.{module}").__all__ for module in copies.SUPPLIED}
    if differences := copy.differences(supplied):
        warnings.warn(
            f"the Pipeline in {copy.package} and Surgeline differ: {'; '.join(differences)}",
            AdoptionWarning,
            stacklevel=2,
        )
    _put_in_place(copy, Engine(session, copy.home))


def uninstall() -> None:
    """Put back what was there; the Pipeline is forgotten, so that its next import gets its own parallel layer.

    Where Surgeline is not installed this does nothing.
    """
    engine = current()
    if engine is None:
        return
    engine.close_client()
    make_current(None)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    for name in [name for name in sys.modules if name == PIPELINE or name.startswith(f"{PIPELINE}.")]:
        del sys.modules[name]
    put_tclean_back()


def install_in_worker(home: str, folder: Path) -> Engine:
    """Have this process be a worker of the Pipeline, which gives no jobs away, and import it.

    Args:
        home: the folder that the session's process imports the Pipeline from.
        folder: the current directory of the session's process.

    Raises:
        BadInput: the Pipeline is not there, or was imported before.
    """
    _check_not_imported()
    copy = copies.Copy(Path(home) / PIPELINE)
    if not copy.modules():
        raise BadInput(f"{copy.package} is not there on this worker", "install the Pipeline where workers find it")
    if home not in sys.path:
        sys.path.append(home)
    without_xvfb()
    engine = Engine(None, home)
    _put_in_place(copy, engine)
    _import_apart(folder)
    return engine


def without_xvfb() -> None:
    """Have the Pipeline do without Xvfb where there is none: it starts one as it is imported, and fails."""
    if shutil.which("Xvfb") is None:
        # This says that one runs.
        os.environ.setdefault("XVFB_RUN", "1")


class _Finder(MetaPathFinder):
    """Finds Surgeline's modules by the names that the Pipeline imports."""

    def __init__(self, modules: Sequence[str], engine: Engine) -> None:
        self._engine = engine
        self._modules = {f"{INFRASTRUCTURE}.{module}": f"{__package__}.{module}" for module in modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What is imported by a name; None for all that is not Surgeline's."""
        if fullname == _REQUESTS and self._engine.backend is not None:
            # Not before: the Pipeline configures CASA, and that has to be done before casatasks is imported.
            replace_tclean(self._engine)
        if fullname not in self._modules:
            return None
        return ModuleSpec(fullname, _Loader(self._modules[fullname]))


class _Loader(Loader):
    """Gives a module that there is by another name; it stays what it was."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module."""
        module = import_module(self._name)
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to be run."""
        module.__spec__ = self._own


def _check_not_imported() -> None:
    if PIPELINE in sys.modules:
        raise BadInput(
            "the Pipeline was imported before Surgeline was installed, and has its own parallel layer",
            "call surgeline.adopt.install(…) before `import pipeline`, in a new process",
        )


def _import_apart(folder: Path) -> None:
    """Import the Pipeline in a folder of this process's own, beside its log.

    As it is imported the Pipeline begins logs in the current directory anew, whose names all processes of a machine
    share: those of the client would be lost.
    """
    log = current_log_file()
    assert log is not None, "workers are set up for CASA"
    apart = log.with_name(f"{log.stem}-{os.getpid()}")
    apart.mkdir(exist_ok=True)
    configuration = folder / "config.yaml"
    if configuration.exists() and not (apart / configuration.name).exists():
        (apart / configuration.name).symlink_to(configuration)
    before = Path.cwd()
    os.chdir(apart)
    try:
        import_module(PIPELINE)
    finally:
        os.chdir(before)


def _put_in_place(copy: copies.Copy, engine: Engine) -> None:
    sys.meta_path.insert(0, _Finder(copy.modules(), engine))
    make_current(engine)
