"""Its own parallel layer, which nothing may use where another was installed."""

OWN = True
USE_MPI = True
ENABLE_TIER0_PLOTMS = True
mpiclient = None
mpi_server_list = None


class MPIEnvironment:
    is_mpi_enabled = False
    is_mpi_client = False


class Executable: ...


class AsyncTask: ...


class SyncTask: ...


class TaskQueue: ...


class Tier0FunctionCall: ...


class Tier0JobRequest: ...


class Tier0PipelineTask: ...


def exec_func(fn, *args, include_client=True, **kwargs): ...


def is_mpi_ready():
    return False


def is_mpi_server():
    return False


def parse_mpi_input_parameter(input_arg): ...


def parse_parallel_input_parameter(input_arg): ...
