"""Its own parallel layer, which nothing may use where another was installed."""

from contextlib import contextmanager

OWN = True
daskclient = None
tier0futures = False


class FutureTask: ...


def exec_func(fn, *args, include_client=True, **kwargs): ...


def is_dask_ready(): ...


def is_dask_worker(): ...


def is_daskclient_allowed(): ...


def is_worker(): ...


def start_daskcluster(dask_config=None): ...


def stop_daskcluster(): ...


@contextmanager
def sanitized_env():
    yield
