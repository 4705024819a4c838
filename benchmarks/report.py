"""Figures as a table on the terminal and as a file."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent


def report(figures: dict[str, float], name: str) -> None:
    """Print figures, and write them to build/NAME.json, with the machine and the time."""
    cores, memory = psutil.cpu_count(), psutil.virtual_memory().total / 1e9
    machine = f"{cores} cores, {memory:.0f} GB, {platform.machine()}, Python {platform.python_version()}"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    table = Table(title=f"{machine}, {when}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in figures.items():
        table.add_row(figure, f"{value:.3g}")
    Console().print(table)
    output = ROOT / "build" / f"{name}.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "when": when, "figures": figures}, indent=2) + "\n")
    print(f"written to {output.relative_to(ROOT)}")
