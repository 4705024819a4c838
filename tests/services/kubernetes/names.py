"""Tells the cluster's DNS server, dnsmasq, the addresses of services: `names.py FOLDER`, with kubectl in PATH.

dnsmasq reads every file of the folder, and anew when it changes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_COLUMNS = "NAMESPACE:.metadata.namespace,NAME:.metadata.name,ADDRESS:.spec.clusterIP"


def follow(folder: Path) -> None:
    """Write a file for each service that there is, and for each that is made, until the API server ends it."""
    command = ["kubectl", "get", "services", "--all-namespaces", "--watch", "--no-headers"]
    with subprocess.Popen(
        [*command, f"--output=custom-columns={_COLUMNS}"], stdout=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        for line in watch.stdout:
            namespace, name, address = line.split()
            if address not in ("None", "<none>"):
                short = f"{name}.{namespace}"
                written = folder.parent / "a-name"
                written.write_text(f"{address} {short}.svc.cluster.local {short}.svc {short}\n")
                written.rename(folder / short)


if __name__ == "__main__":
    while True:
        follow(Path(sys.argv[1]))
