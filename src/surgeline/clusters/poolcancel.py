"""Ends all that a session has in a work pool: run as `python -m surgeline.clusters.poolcancel NAME URL`."""

from __future__ import annotations

import argparse

from surgeline.clusters import poolruns
from surgeline.clusters.prefectapi import PATIENT_RETRIES, PrefectApi
from surgeline.errors import ClusterError


def main() -> None:
    """Cancel the session's flow runs, and remove its deployment and what let its workers in."""
    parser = argparse.ArgumentParser(prog="python -m surgeline.clusters.poolcancel", description=__doc__)
    parser.add_argument("name", help="the name of the session's deployment, such as surgeline-1a2b3c4d")
    parser.add_argument("url", help="the API of Prefect's server")
    asked = parser.parse_args()
    try:
        with PrefectApi(asked.url).client(PATIENT_RETRIES) as client:
            poolruns.clear(client, asked.name)
    except ClusterError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
