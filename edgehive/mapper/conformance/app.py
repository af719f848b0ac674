"""`mapper conformance`: run the kit before the user's eyes."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from edgehive.mapper import device_file
from edgehive.mapper.conformance.bench import Bench, Broken, Command
from edgehive.mapper.conformance.kit import Outcome, all_checks, print_table, run_checks, summary


async def examine(socket: Path, device: Path, command: str, only: str, wait: float) -> int:
    """The exit code."""
    console = Console()
    definition = device_file.read(device)[0]
    bench = Bench(socket, definition, Command(command) if command else None)
    checks = [item for item in all_checks() if only.lower() in f"{item.group} {item.title}".lower()]

    def tell(outcome: Outcome) -> None:
        if outcome.outcome == "failed":
            console.print(f"[red]✗[/] {escape(outcome.check.title)}: {escape(outcome.why)}")

    console.print(f"{len(checks)} checks; the edge is at {escape(str(socket))}")
    try:
        outcomes = await run_checks(bench, checks, seconds=wait, tell=tell)
    except Broken as error:
        console.print(f"[red]{escape(str(error))}[/]")
        return 1
    except OSError as error:
        console.print(f"[red]{escape(str(socket))} cannot be served: {escape(error.strerror or str(error))}[/]")
        return 1
    print_table(outcomes, console)
    console.print(summary(outcomes))
    return 1 if any(item.outcome == "failed" for item in outcomes) else 0
