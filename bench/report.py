"""A benchmark's figures: one JSON file each, one table for all. Figures are reported with their bar, met or not."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `bar` is the promise it is held against, "" where there is none."""

    name: str
    value: float
    unit: str
    bar: str = ""
    met: bool | None = None


def at_most(name: str, value: float, unit: str, bar: float) -> Figure:
    return Figure(name, round(value, 4), unit, f"at most {bar:g} {unit}", value <= bar)


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def write(name: str, figures: list[Figure]) -> None:
    RESULTS.mkdir(exist_ok=True)
    body = {
        "benchmark": name,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "figures": [asdict(figure) for figure in figures],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(body, indent=2) + "\n")


def show(name: str, figures: list[Figure]) -> None:
    table = Table("figure", "value", "bar", "met", title=name, title_justify="left")
    for figure in figures:
        met = {True: "yes", False: "NO", None: ""}[figure.met]
        table.add_row(figure.name, f"{figure.value:,.4g} {figure.unit}", figure.bar, met)
    Console().print(table)
