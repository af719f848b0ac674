"""Runs the checks one after another against a mapper and tells the outcome as a table."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from grpclib.exceptions import GRPCError
from rich.console import Console
from rich.table import Table

from edgehive.mapper.conformance.bench import Bench, Broken, NotTried

#: Seconds one check may take, and the mapper to register.
CHECK_SECONDS, REGISTER_SECONDS = 60.0, 60.0


@dataclass(frozen=True, slots=True)
class Check:
    group: str
    title: str
    run: Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    check: Check
    #: "passed", "failed" or "not tried".
    outcome: str
    why: str = ""
    seconds: float = 0.0


CHECKS: list[Check] = []


def check(group: str, title: str) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    """The decorated function raises Broken where the mapper does not do what the title says."""

    def keep(run: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        CHECKS.append(Check(group, title, run))
        return run

    return keep


def all_checks() -> list[Check]:
    """In the order in which they are made."""
    from edgehive.mapper.conformance import checks_devices, checks_edge, checks_registration, checks_reports

    modules = [part.__name__ for part in (checks_registration, checks_devices, checks_reports, checks_edge)]
    return sorted(CHECKS, key=lambda item: modules.index(item.run.__module__))


async def run_checks(
    bench: Bench, checks: Iterable[Check], *, seconds: float = REGISTER_SECONDS, tell: Callable[[Outcome], None]
) -> list[Outcome]:
    """Raises Broken where no mapper registers at all."""
    outcomes = []
    async with bench.open(seconds):
        for item in checks:
            outcome = await _made(bench, item)
            if what := await _revived(bench):
                outcome = replace(outcome, outcome="failed", why="; ".join(filter(None, (outcome.why, what))))
            outcomes.append(outcome)
            tell(outcome)
            await bench.clear()
    return outcomes


async def _revived(bench: Bench) -> str:
    try:
        return await bench.revive()
    except Broken as error:
        return str(error)


async def _made(bench: Bench, item: Check) -> Outcome:
    loop = asyncio.get_running_loop()
    start = loop.time()

    def ended(outcome: str, why: str = "") -> Outcome:
        return Outcome(item, outcome, why, loop.time() - start)

    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await item.run(bench)
    except NotTried as error:
        return ended("not tried", str(error))
    except Broken as error:
        return ended("failed", str(error))
    except GRPCError as error:
        return ended("failed", f"the mapper refuses: {error.message}")
    except ExceptionGroup as group:  # of calls made at once
        first = group.exceptions[0]
        return ended("failed", str(first) or type(first).__name__)
    except TimeoutError:
        return ended("failed", f"not done within {CHECK_SECONDS:g} s")
    return ended("passed")


def print_table(outcomes: Iterable[Outcome], console: Console) -> None:
    marks = {"passed": "[green]✓[/]", "failed": "[red]✗[/]", "not tried": "[dim]–[/]"}
    table = Table(show_header=True, header_style="bold")
    table.add_column("")
    table.add_column("group")
    table.add_column("check")
    table.add_column("seconds", justify="right")
    for item in outcomes:
        title = item.check.title if not item.why else f"{item.check.title}\n[dim]{item.why}[/]"
        table.add_row(marks[item.outcome], item.check.group, title, f"{item.seconds:.1f}")
    console.print(table)


def summary(outcomes: list[Outcome]) -> str:
    counts = {name: sum(item.outcome == name for item in outcomes) for name in ("passed", "failed", "not tried")}
    return ", ".join(f"{count} {name}" for name, count in counts.items())
