"""The API of a Prefect server: requests of one kind after the other, and what refuses them in words."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from surgeline.clusters.batch import BUSY
from surgeline.errors import ClusterError, SchedulerSilent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# A server that is starting again; who asks comes back anyhow.
_RETRIES = 1
# What asks once only: the pauses between its attempts add up to half a minute.
PATIENT_RETRIES = 4
# A request that has taken longer is not answered any more.
_SECONDS = 20.0


class PrefectApi:
    """A Prefect server, as the environment or Prefect's own profile names it; to be asked from any thread."""

    def __init__(self, url: str | None = None) -> None:
        """Prepare; nothing is asked yet.

        Args:
            url: the server's API; None: as the environment, or Prefect's profile, says.
        """
        self._url = url

    def url(self) -> str:
        """The server's API.

        Raises:
            ClusterError: Prefect is not installed, or nobody says which server it is.
        """
        if self._url is None:
            import_quietly()
            from prefect.settings import PREFECT_API_URL

            self._url = PREFECT_API_URL.value()
        if self._url is None:
            raise ClusterError(
                "a work pool is kept by a Prefect server, and none is named",
                "export PREFECT_API_URL=http://…:4200/api",
            )
        return self._url

    @contextmanager
    def client(self, retries: int = _RETRIES) -> Iterator[SyncPrefectClient]:
        """Prefect's client, for a block; what goes wrong there with the server is told in its words.

        Args:
            retries: how often what the server had no time for is asked again, after 2, 4, 8 … s.

        Raises:
            SchedulerSilent: the server does not answer, or has no time.
            ClusterError: it refuses, or Prefect is not installed.
        """
        url = self.url()
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.exceptions import ObjectNotFound
        from prefect.settings import temporary_settings

        # This thread may not be the one in which the server was named.
        settings: dict[str, Any] = {
            "api.url": url,
            "client.max_retries": retries,
            "api.request_timeout": _SECONDS,
        }
        try:
            with temporary_settings(settings), get_client(sync_client=True) as client:
                yield client
        except httpx.HTTPStatusError as error:
            answer = " ".join(error.response.text.split())
            if error.response.status_code in BUSY:
                raise SchedulerSilent(
                    f"Prefect's server at {url} has no time: {error.response.status_code} {answer}",
                    "see what it says; on a busy machine its database should be PostgreSQL",
                ) from error
            raise ClusterError(
                f"Prefect's server at {url} refuses: {error.response.status_code} {answer}",
                "correct what it names; `surgeline plan` shows what is asked of it",
            ) from error
        except ObjectNotFound as error:
            raise ClusterError(
                f"Prefect's server at {url} does not find what was asked for: {error}",
                "see whether it is the server that the session began with: PREFECT_API_URL",
            ) from error
        except (httpx.HTTPError, OSError) as error:
            raise SchedulerSilent(
                f"Prefect's server at {url} does not answer: {error or type(error).__name__}",
                "start it, or correct PREFECT_API_URL",
            ) from error


def import_quietly() -> None:
    """Import Prefect; unless somebody has done so, without a word on the terminal, or to anybody else.

    Raises:
        ClusterError: it is not installed.
    """
    if "prefect" in sys.modules:
        return
    os.environ.setdefault("DO_NOT_TRACK", "1")
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        import prefect.main  # noqa: F401
    except ModuleNotFoundError as error:
        raise ClusterError(
            "clusters of type prefect need Prefect, which is not installed", "pip install 'surgeline[prefect]'"
        ) from error
    # What there is to say is said by the session itself.
    root.handlers = before
    logging.getLogger("prefect._internal").setLevel(logging.CRITICAL + 1)
