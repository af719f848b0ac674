"""`edgehive fleet`: many hollow edge nodes for any cloudcore, ours or stock; what they ask and how soon it is answered.

Nodes join by token, connect, register, keep alive, acknowledge and report pods as stock edges do, and run nothing.
With a kubeconfig the token is read from the cluster, pods and ConfigMaps are made for the nodes, and all of it is
removed at the end.
"""

import asyncio
import contextlib
import json
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from edgehive import __version__
from edgehive.kube.errors import ApiError
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import KubeconfigError, load
from edgehive.testing.fleet import report
from edgehive.testing.fleet.fleet import Fleet, Plan
from edgehive.testing.fleet.journal import Waited
from edgehive.testing.fleet.liars import KINDS, Liars
from edgehive.testing.fleet.meter import Meter, NoSuchProcess
from edgehive.testing.fleet.node import Hub, Refused
from edgehive.testing.fleet.scenarios import SCENARIOS, WITH_API, Choice, Play, needed
from edgehive.testing.fleet.workload import Advance, TokenMissing, Workload, join_token
from edgehive.wire import join
from edgehive.wire.link import JoinRefused, LinkClosed

#: Descriptors a process needs besides its nodes' connections.
SPARE_DESCRIPTORS = 200
#: Liars of one kind.
MAX_LIARS = 1000
DEFAULT_SCENARIOS = ("connect", "register", "idle")


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for."""

    hub: Hub
    join_server: str
    nodes: int
    prefix: str
    token: str
    kubeconfig: str
    choice: Choice
    #: The kind of each liar.
    lies: list[str]
    keep: bool
    output: Path | None
    server_pid: int
    shared_key: bool
    at_once: int


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--nodes", default=10, show_default=True, type=click.IntRange(1, 50000), help="How many nodes.")
@click.option("--hub", required=True, metavar="HOST:PORT", help="Where nodes connect, such as 192.0.2.1:10000.")
@click.option("--join", "join_server", required=True, metavar="URL", help="Where they join: https://192.0.2.1:10002.")
@click.option("--token", default="", help="The join token (keadm gettoken).")
@click.option("--kubeconfig", default="", metavar="FILE", help="The cluster: for the token, pods and ConfigMaps.")
@click.option("--scenario", "scenarios", multiple=True, type=click.Choice([*SCENARIOS, "all"]), help="Repeatable.")
@click.option("--pods", default=1, show_default=True, type=click.IntRange(1, 200), help="Pods per node.")
@click.option("--churn", default=0, show_default=True, type=click.IntRange(0), help="Rounds of deleting all pods.")
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(1), help="How long to be idle.")
@click.option("--settle", default=6.0, show_default=True, type=click.FloatRange(0), help="Pause after each scenario.")
@click.option("--storm-pause", default=0.0, show_default=True, type=click.FloatRange(0), help="Before all reconnect.")
@click.option("--at-once", default=32, show_default=True, type=click.IntRange(1, 5000), help="Nodes busy at a time.")
@click.option(
    "--liars",
    "lies",
    multiple=True,
    metavar="KIND=N",
    help=f"Beside the nodes, N that lie until the end. Kinds: {', '.join(KINDS)}. May be repeated.",
)
@click.option("--prefix", default="fleet", show_default=True, help="Nodes are named <prefix>-00001 and so on.")
@click.option("--project-id", default=join.DEFAULT_PROJECT_ID, help="The project edges name when connecting.")
@click.option("--shared-key", is_flag=True, help="One private key for all nodes (their certificates still differ).")
@click.option("--server-pid", default=0, help="Measure this cloudcore process, which runs on this machine.")
@click.option("--keep", is_flag=True, help="Leave nodes, leases, pods and ConfigMaps in the cluster.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to this JSON file.")
@click.version_option(__version__, prog_name="edgehive fleet")
def main(
    hub: str, project_id: str, scenarios: tuple[str, ...], pods: int, churn: int, seconds: float, settle: float,
    storm_pause: float, lies: tuple[str, ...], **rest: Any,
) -> None:  # fmt: skip
    """Many hollow edge nodes for any cloudcore, and how soon it serves them."""
    chosen = SCENARIOS if "all" in scenarios else scenarios or DEFAULT_SCENARIOS
    choice = Choice(needed(chosen), pods, churn, seconds, settle, storm_pause)
    order = Order(hub=_hub(hub, project_id), choice=choice, lies=_lies(lies), **rest)
    _check(order)
    try:
        _run(order)
    except _ERRORS as error:
        click.echo(f"edgehive fleet: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("edgehive fleet: stopped", err=True)
        sys.exit(130)


_ERRORS = (
    ApiError,
    JoinRefused,
    KubeconfigError,
    LinkClosed,
    NoSuchProcess,
    Refused,
    TokenMissing,
    Waited,
)


def _hub(text: str, project_id: str) -> Hub:
    host, found, port = text.rpartition(":")
    if not found or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{text!r} is to be <host>:<port>, such as 192.0.2.1:10000", param_hint="--hub")
    return Hub(host.strip("[]"), int(port), project_id)


def _lies(texts: tuple[str, ...]) -> list[str]:
    kinds = []
    for text in texts:
        kind, _, number = text.partition("=")
        if kind not in KINDS or not number.isdecimal() or not 0 < int(number) <= MAX_LIARS:
            known = ", ".join(KINDS)
            raise click.BadParameter(
                f"{text!r} is to be <kind>=<number up to {MAX_LIARS}>, the kind one of {known}", param_hint="--liars"
            )
        kinds += [kind] * int(number)
    return kinds


def _check(order: Order) -> None:
    """Refuse what cannot work before anything is opened."""
    if not order.join_server.startswith("https://"):
        raise click.BadParameter("use a URL such as https://192.0.2.1:10002", param_hint="--join")
    if not order.token and not order.kubeconfig:
        raise click.UsageError("give --token, or --kubeconfig of the cluster that holds it")
    without = WITH_API.intersection(order.choice.scenarios)
    if without and not order.kubeconfig:
        raise click.UsageError(f"the scenarios {', '.join(sorted(without))} need --kubeconfig: pods are made there")
    if order.output is not None and not order.output.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {order.output.absolute().parent} does not exist", param_hint="--output")
    most = _raise_descriptors() - SPARE_DESCRIPTORS
    if order.nodes > most:
        raise click.UsageError(f"this process may open only {most} connections: raise the limit with ulimit -n")


def _raise_descriptors() -> int:
    """As many files as the machine allows this process; gives the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1_000_000 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _run(order: Order) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_play(order))


class _Bars:
    """A bar per scenario."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    def begin(self, what: str, total: int) -> Advance:
        task = self._bars.add_task(what, total=total)
        return lambda: self._bars.advance(task)


async def _play(order: Order) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Bars(*columns, console=Console(stderr=True))
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(HttpClient(load(order.kubeconfig))) if order.kubeconfig else None
        token = order.token or (await join_token(client) if client is not None else "")
        plan = Plan(order.nodes, order.hub, order.join_server, token, order.prefix, order.shared_key, order.at_once)
        stack.enter_context(bars)
        fleet = Fleet(plan)
        workload: Workload | None = None
        liars: Liars | None = None
        if order.lies:
            lying = replace(plan, nodes=len(order.lies), prefix=f"{order.prefix}-liar")
            liars = Liars(lying, order.lies)
        if client is not None:
            workload = Workload(client, order.prefix, fleet.journal)
            if not order.keep:
                names = [node.name for node in [*fleet.nodes, *(liars.nodes if liars is not None else ())]]
                stack.push_async_callback(workload.clean, names, _Bars(bars).begin("nodes removed", len(names)))
            await stack.enter_async_context(workload)
        await stack.enter_async_context(fleet)
        if liars is not None:
            await stack.enter_async_context(liars)
            await liars.begin()
        meter = Meter(order.server_pid) if order.server_pid else None
        play = Play(fleet, workload, meter, order.choice, _Bars(bars))
        try:
            await play.run()
        finally:
            _tell(order, fleet, liars, play)


def _tell(order: Order, fleet: Fleet, liars: Liars | None, play: Play) -> None:
    """Also what was measured before a scenario failed."""
    found = report.body(fleet.journal, play.outcome)
    if liars is not None:
        found["lies"] = dict(sorted(liars.journal.counts.items()))
    report.show(found, Console())
    if order.output is not None:
        order.output.write_text(json.dumps(found, indent=2) + "\n")
    if not order.kubeconfig and not order.keep:
        click.echo(f"the nodes {order.prefix}-* stay in the cluster: only with --kubeconfig can they be removed")


if __name__ == "__main__":
    main()
