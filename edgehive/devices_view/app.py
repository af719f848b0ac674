"""`edgehive devices`: what devices report and what is desired of them, live; a property as a curve; desired values set.

It speaks to any API server that serves devices.kubeedge.io/v1beta1 and needs neither cloudcore nor an edge at hand.
Only `set` writes. What is wrong is one sentence and exit code 1; Ctrl-C is how one leaves, so it ends with 0.
"""

import asyncio
import contextlib
import json
import logging
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
from rich.console import Console

from edgehive import __version__
from edgehive.devices_view import live, table
from edgehive.devices_view.choice import Scope, Unusable, check_name, one_device, plottable
from edgehive.devices_view.desire import set_desired
from edgehive.devices_view.rows import Kinds, views
from edgehive.devices_view.source import Followed, access, listed
from edgehive.kit.clock import Clock, SystemClock
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import KubeconfigError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)([smhd])")
_HELP = {"help_option_names": ["-h", "--help"]}


def _seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """A duration written as 30s, 5m or 2h."""
    if value is None:
        return None
    found = _DURATION.fullmatch(value)
    if found is None or float(found[1]) == 0:
        raise click.BadParameter(f"{value!r} is to be a number and a unit, such as 30s, 5m or 2h")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for."""

    name: str = ""
    selector: str = ""
    once: bool = False
    as_json: bool = False
    plot: str = ""
    window: float = 300.0
    stale_after: float | None = None


_kubeconfig = click.option("--kubeconfig", default="", metavar="FILE", help="The cluster.  [default: as kubectl]")
_namespace = click.option("-n", "--namespace", default="", help="Where devices are.  [default: the kubeconfig's]")


@click.command(
    context_settings=_HELP,
    epilog="`edgehive devices set NAME PROPERTY VALUE` sets a desired value. A value's age is since when it is what it "
    "is; it is stale while its device is offline or unknown, or older than --stale-after.",
)
@click.argument("name", default="")
@_kubeconfig
@_namespace
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Devices of all namespaces.")
@click.option("-l", "--selector", default="", metavar="LABELS", help="Devices with these labels, such as room=hall.")
@click.option("--once", is_flag=True, help="A plain table, once; so it is too where the output is no terminal.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="Once, as JSON.")
@click.option("--plot", default="", metavar="PROPERTY", help="Draw this property of device NAME over time.")
@click.option(
    "--since",
    "window",
    default="5m",
    show_default=True,
    callback=_seconds,
    metavar="DURATION",
    help="What a plot shows.",
)
@click.option("--stale-after", callback=_seconds, metavar="DURATION", help="Mark values that are older, such as 10m.")
@click.version_option(__version__, prog_name="edgehive devices")
def show(kubeconfig: str, namespace: str, everywhere: bool, output: str | None, **rest: Any) -> None:
    """Show what devices report, and what is desired of them, as it changes.

    With --plot NAME's property is drawn from now on, since the API keeps no history; with --once it is watched for
    the time of --since and then drawn.
    """
    order = Order(as_json=output == "json", **rest)
    if order.plot and not order.name:
        raise click.UsageError("--plot needs the NAME of a device: edgehive devices NAME --plot PROPERTY")
    if order.plot and order.as_json:
        raise click.UsageError("--plot draws; leave out -o json")
    if namespace and everywhere:
        raise click.UsageError("give -n or -A, not both")

    async def work(client: Client, default: str) -> None:
        scope = Scope("" if everywhere else namespace or default, order.selector)
        await view(client, scope, order, Console(highlight=False), SystemClock())

    _run(kubeconfig, work)


@click.command("set", context_settings=_HELP | {"ignore_unknown_options": True})
@click.argument("name")
@click.argument("property")
@click.argument("value")
@_kubeconfig
@_namespace
def set_value(name: str, property: str, value: str, kubeconfig: str, namespace: str) -> None:
    """Set what PROPERTY of device NAME is desired to be; an empty VALUE ("") takes that back.

    The value is held against the device's model first.
    """

    async def work(client: Client, default: str) -> None:
        click.echo(await set_desired(client, namespace or default, name, property, value))

    _run(kubeconfig, work)


def main(arguments: Sequence[str], prog_name: str = "edgehive devices") -> None:
    """Run the command; `set` is a command of its own, `-- set` a device of that name."""
    words = list(arguments)
    if words[:1] == ["set"]:
        set_value.main(words[1:], prog_name=f"{prog_name} set")
    else:
        show.main(words, prog_name=prog_name)


async def view(client: Client, scope: Scope, order: Order, console: Console, clock: Clock) -> None:
    """Print once, or draw until cancelled; raises Unusable."""
    first = await listed(client, scope)
    check_name(first, order.name, scope)

    def judge() -> table.Judge:
        after = timedelta(seconds=order.stale_after) if order.stale_after is not None else None
        return table.Judge(clock.now(), after)

    is_once = order.once or order.as_json or not console.is_terminal
    if order.plot:
        await _plot(Followed(client, scope, clock), first, scope, order, console, clock, is_once=is_once)
    elif is_once:
        _print(first, order, scope, judge())
    else:
        draw = live.TablePicture(console, judge, order.name)
        await live.follow(Followed(client, scope, clock), first, console, clock, draw)


async def _plot(
    followed: Followed, first: Kinds, scope: Scope, order: Order, console: Console, clock: Clock, *, is_once: bool
) -> None:
    chosen = plottable(one_device(first, order.name, scope), order.plot)
    picture = live.PlotPicture(console, clock, chosen, order.window)
    if not is_once:
        await live.follow(followed, first, console, clock, picture)
        return
    click.echo(f"edgehive devices: watching for {order.window:g} seconds", err=True)
    await live.watch_once(followed, first, picture)
    click.echo("\n".join(picture.lines(console.width, min(console.height, 24) - 2)))


def _print(kinds: Kinds, order: Order, scope: Scope, judge: table.Judge) -> None:
    found = views(kinds, order.name)
    if order.as_json:
        click.echo(json.dumps(table.as_json(found, judge), indent=2, ensure_ascii=False))
    elif kinds.devices.items():
        click.echo("\n".join(table.plain(found, judge)))
    else:
        click.echo(f"edgehive devices: there are no devices {scope}", err=True)


def _run(kubeconfig: str, work: Callable[[Client, str], Coroutine[Any, Any, None]]) -> None:
    # What informers log would be written into the picture, which says it by itself.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        asyncio.run(_connected(kubeconfig, work))
    except (Unusable, KubeconfigError, ApiError) as error:
        click.echo(f"edgehive devices: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(0)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


async def _connected(kubeconfig: str, work: Callable[[Client, str], Coroutine[Any, Any, None]]) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is not None:
        # The picture is to give the cursor back.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(signal.SIGTERM, task.cancel)
    found = access(kubeconfig)
    async with HttpClient(found) as client:
        await work(client, found.namespace)
