"""Figures as a table on the terminal and as a file."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent


def report(figures: dict[str, float], name: str) -> None:
    """Print figures, and write them to build/NAME.json, with the machine and the time."""
    table = Table(title=f"{_machine()}, {_now()}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in figures.items():
        table.add_row(figure, f"{value:.3g}")
    Console().print(table)
    keep(figures, name)


def keep(figures: Mapping[str, Any], name: str) -> None:
    """Write figures to build/NAME.json, with the machine and the time."""
    output = ROOT / "build" / f"{name}.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps({"machine": _machine(), "when": _now(), "figures": figures}, indent=2) + "\n")
    print(f"written to {output.relative_to(ROOT)}")


def _machine() -> str:
    cores, memory = psutil.cpu_count(), psutil.virtual_memory().total / 1e9
    return f"{cores} cores, {memory:.0f} GB, {platform.machine()}, Python {platform.python_version()}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
