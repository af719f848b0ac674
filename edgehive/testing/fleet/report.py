"""What a fleet measured, as tables for people and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from edgehive.testing.fleet.journal import Journal
from edgehive.testing.fleet.scenarios import Outcome


def body(journal: Journal, outcome: Outcome) -> dict[str, Any]:
    """The file's content; times in seconds, memory in bytes, processor time in seconds per unit and net of idle."""
    phases = [asdict(phase) | {"cpuPerUnit": outcome.cpu_per_unit(phase)} for phase in outcome.phases]
    return {
        "nodes": outcome.nodes,
        "phases": phases,
        "latencies": {name: asdict(found) for name, found in journal.quantiles().items()},
        "counts": dict(sorted(journal.counts.items())),
        "idleCores": outcome.idle,
        "memory": outcome.memory,
        "facts": outcome.facts,
    }


def show(report: Mapping[str, Any], console: Console) -> None:
    console.print(_phases(report))
    console.print(_latencies(report["latencies"]))
    counts = ", ".join(f"{name} {number}" for name, number in report["counts"].items())
    if counts:
        console.print(f"counted: {counts}")
    if lies := report.get("lies"):
        console.print("lies: " + ", ".join(f"{name} {number}" for name, number in lies.items()))
    for name, value in report["facts"].items():
        console.print(f"{name}: {value:,.1f}")
    for name, cores in report["idleCores"].items():
        console.print(f"server at rest ({name}): {cores:.4f} cores")
    for name, size in report["memory"].items():
        console.print(f"server memory ({name}): {size / 2**20:.1f} MiB")


def _phases(report: Mapping[str, Any]) -> Table:
    table = Table(title=f"{report['nodes']} hollow nodes", title_justify="left")
    table.add_column("scenario")
    for column in ("units", "seconds", "units/s", "server CPU per unit"):
        table.add_column(column, justify="right")
    for phase in report["phases"]:
        cpu = "" if phase["cpuPerUnit"] is None else _duration(phase["cpuPerUnit"])
        rate = phase["units"] / phase["seconds"] if phase["seconds"] > 0 else 0.0
        table.add_row(phase["name"], str(phase["units"]), f"{phase['seconds']:.2f}", f"{rate:,.1f}", cpu)
    return table


def _latencies(latencies: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title="latencies", title_justify="left")
    table.add_column("what")
    for column in ("count", "p50", "p99", "max"):
        table.add_column(column, justify="right")
    for name, found in latencies.items():
        times = [_duration(found[key]) for key in ("p50", "p99", "max")]
        table.add_row(name, str(found["count"]), *times)
    return table


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
