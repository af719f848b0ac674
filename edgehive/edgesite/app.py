"""`edgesite up | status | down | mapper`: one command makes this machine a whole cluster, another takes it away.

`up` runs the site in the foreground, or with `--detach` as a process of its own whose output goes to
DATA/edgesite.log. Every failure is one sentence and exit code 1.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from edgehive import __version__
from edgehive.api.config.edgesite import EdgeSite
from edgehive.edgesite import process, progress
from edgehive.edgesite.layout import DEFAULT_DATA, Layout
from edgehive.kit.config import ConfigError
from edgehive.kit.log import LEVELS

#: Seconds `up --detach` waits for the node, `down` for the process.
UP_PATIENCE, DOWN_PATIENCE = 90.0, 40.0

_data = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DATA,
    show_default=True,
    help="Where the site keeps everything.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgesite")
def main() -> None:
    """A whole Kubernetes cluster with KubeEdge's edge on this machine."""


@main.command()
@_data
@click.option("--name", help="The node's name.  [default: edge]")
@click.option("--port", type=click.IntRange(1, 65535), help="The API server's port.  [default: 6443]")
@click.option(
    "--kubelet-port", type=click.IntRange(1, 65535), help="The node's own port on 127.0.0.1.  [default: 10350]"
)
@click.option("--containerd", help="Socket of a containerd to use instead of a private one.")
@click.option("--bridge", help="Name of the pods' network bridge.  [default: edgehive0]")
@click.option("--pod-subnet", help="Addresses of pods.  [default: 10.89.0.0/24]")
@click.option("--node/--no-node", default=None, help="Whether this machine is a node too.  [default: node]")
@click.option("--detach", is_flag=True, help="Return when the node is Ready; the site goes on by itself.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
def up(data: Path, detach: bool, log_level: str, **options: Any) -> None:
    """Start the site; what it was started with before is remembered."""
    layout = Layout(data.absolute())
    running = process.running(layout.data) if layout.data.exists() else None
    if running is not None:
        _wait_for_detached(layout, running, None) if detach else _fail(f"the site in {data} runs already: {running}")
        return
    try:
        site = _configure(layout, options)
        _preflight(site)
        _prepare_folder(layout, site)
    except ConfigError as error:
        _fail(str(error))
    if detach:
        (layout.data / progress.STATE_FILE).unlink(missing_ok=True)
        child = process.detach(["up", "--data", str(layout.data), "--log-level", log_level], layout.log)
        _wait_for_detached(layout, child.pid, child)
        return
    _run(site, layout, log_level)


def _configure(layout: Layout, options: dict[str, Any]) -> EdgeSite:
    """What was remembered, changed by the options that were given; raises ConfigError."""
    names = {"name": "node_name"}
    given = {names.get(key, key): value for key, value in options.items() if value is not None}
    remembered = layout.read_config()
    try:
        changed = msgspec.structs.replace(remembered, **given)
        return msgspec.convert(msgspec.to_builtins(changed), EdgeSite)
    except ValueError as error:  # also what the Struct's own checks raise
        raise ConfigError(f"these options do not make a site: {error}") from None


def _prepare_folder(layout: Layout, site: EdgeSite) -> None:
    try:
        layout.data.mkdir(parents=True, exist_ok=True)
        layout.data.chmod(0o711)
        layout.write_config(site)
    except OSError as error:
        raise ConfigError(
            f"the site cannot keep its data in {layout.data} ({error.strerror}): name another folder with --data"
        ) from None


def _preflight(site: EdgeSite) -> None:
    from edgehive.edgesite import preflight

    try:
        preflight.check(site.port, site.kubelet_port, site.containerd, node=site.node)
    except preflight.NotPossible as error:
        _fail(str(error))


def _run(site: EdgeSite, layout: Layout, log_level: str) -> None:
    """The site itself, in this process."""
    from edgehive.beehive.hive import ModuleFailed
    from edgehive.edgecore.edged.rpc import RuntimeRefused
    from edgehive.edgesite.containerd import ContainerdUnavailable
    from edgehive.edgesite.images import ImageSourceMissing
    from edgehive.edgesite.site import PartEnded
    from edgehive.kit import log
    from edgehive.kit.http import PortInUse
    from edgehive.kit.sqlite import DatabaseError

    log.setup(log_level)
    teller = progress.Progress(layout.data, os.getpid())
    known = (
        ModuleFailed,
        RuntimeRefused,
        ContainerdUnavailable,
        ImageSourceMissing,
        PartEnded,
        PortInUse,
        DatabaseError,
        ConfigError,
        OSError,
    )
    try:
        with process.hold(layout.data):
            try:
                _serve(site, layout)
                teller.stopped()
            except known as error:
                teller.failed(str(error))
                _fail(str(error))
    except process.AlreadyRunning as error:
        _fail(str(error))


def _serve(site: EdgeSite, layout: Layout) -> None:
    import uvloop

    from edgehive.edgesite.site import run_site
    from edgehive.kit.clock import SystemClock

    async def life() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run_site(site, layout, SystemClock(), stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life())


def _wait_for_detached(layout: Layout, pid: int, child: "subprocess.Popen[bytes] | None") -> None:
    """Show what the starting site says until it is ready; fail with its own sentence when it is not."""
    with _spinner() as say:
        for _ in range(int(UP_PATIENCE / 0.05)):
            state = progress.read(layout.data)
            if state is not None and state.phase == "ready" and state.pid == pid:
                break
            ended = child.poll() is not None if child is not None else process.running(layout.data) is None
            if ended:
                failed = state is not None and state.phase == "failed"
                _fail(state.text if failed and state else f"the site ended at its start; see {layout.log}")
            say(state.text if state is not None else "starting")
            time.sleep(0.05)
        else:
            _fail(f"the node is not Ready after {UP_PATIENCE:.0f} s; the site goes on trying, see {layout.log}")
    took = f" after {state.seconds:.1f} s" if child is not None else " already"
    click.echo(f"The site is up{took}: export KUBECONFIG={layout.kubeconfig}")


class _spinner:
    """Progress on a terminal, one line per step elsewhere."""

    def __enter__(self) -> Callable[[str], None]:
        self._last = ""
        self._status: Any = None
        if sys.stdout.isatty():
            from rich.console import Console

            self._status = Console().status("starting")
            self._status.start()
        return self._say

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def _say(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        if self._status is not None:
            self._status.update(text)
        else:
            click.echo(f"  {text}")


@main.command()
@_data
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(data: Path, output: str) -> None:
    """Tell whether the site runs, and how. Exit code 0: ready, 3: not running, 4: running but not ready."""
    layout = Layout(data.absolute())
    pid = process.running(layout.data) if layout.data.exists() else None
    state = progress.read(layout.data)
    ready = pid is not None and state is not None and state.phase == "ready"
    site = _remembered(layout)
    report = {
        "running": pid is not None,
        "ready": ready,
        "pid": pid,
        "phase": state.phase if state is not None and pid is not None else "stopped",
        "message": state.text if state is not None else "",
        "node": site.node_name if site.node else None,
        "port": site.port,
        "data": str(layout.data),
        "kubeconfig": str(layout.kubeconfig) if layout.kubeconfig.exists() else None,
        "memoryBytes": _resident(pid) if pid is not None else None,
        "mappers": site.mappers,
    }
    click.echo(json.dumps(report, indent=2) if output == "json" else _sentence(report))
    sys.exit(0 if ready else 4 if pid is not None else 3)


def _remembered(layout: Layout) -> EdgeSite:
    """What the site was started with; a file nobody can read ends the command before it touches anything."""
    try:
        return layout.read_config()
    except ConfigError as error:
        _fail(str(error))


def _sentence(report: dict[str, Any]) -> str:
    if not report["running"]:
        return f"the site in {report['data']} is not running" + (
            f"; it last said: {report['message']}" if report["message"] else ""
        )
    rows = {
        "state": report["phase"],
        "process": report["pid"],
        "node": report["node"] or "none on this machine",
        "memory": f"{(report['memoryBytes'] or 0) / 2**20:.0f} MiB",
        "API": f"https://127.0.0.1:{report['port']}",
        "kubeconfig": report["kubeconfig"],
        "mappers": ", ".join(report["mappers"]) or "none",
    }
    return "\n".join(f"{name:<11} {value}" for name, value in rows.items())


def _resident(pid: int) -> int | None:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@main.command()
@_data
@click.option("--keep-pods", is_flag=True, help="Stop the process only; containers go on and are adopted later.")
@click.option("--purge", is_flag=True, help="Remove the data, and everything the site made on this machine.")
def down(data: Path, keep_pods: bool, purge: bool) -> None:
    """Stop the site."""
    layout = Layout(data.absolute())
    if keep_pods and purge:
        raise click.UsageError("--keep-pods and --purge exclude each other")
    if not layout.config.exists():
        # Only a folder that `up` made is ever stopped or purged.
        click.echo(f"there is no site in {layout.data}")
        return
    site = _remembered(layout)
    pid = process.running(layout.data)
    if pid is not None:
        with _spinner() as say:
            say("stopping the site")
            if not process.stop(layout.data, pid, DOWN_PATIENCE, lambda: None):
                _fail(f"process {pid} does not end; look into {layout.log}, then kill it")
    if not keep_pods:
        asyncio.run(_stop_containerd(layout, site, purge))
    if purge:
        _purge(layout)
    click.echo("The site is down." if not keep_pods else "The site is down; its pods go on.")


@main.group()
def mapper() -> None:
    """Mappers that run beside the site's node, also after its next start."""


@mapper.command()
@_data
@click.argument("driver", type=click.Path(path_type=Path))
def add(data: Path, driver: Path) -> None:
    """Run DRIVER (a Python file, or modbus, virtual...), instead of the one its protocol has had so far."""
    from edgehive.mapper.inspection import NotADriver, load

    layout = Layout(data.absolute())
    site = _remembered(layout)
    if not site.node:
        _fail(f"the site in {layout.data} has no node, and a mapper runs beside one")
    try:
        protocol = load(driver).protocol
        kept = str(driver.absolute() if driver.suffix == ".py" else driver)
        if site.mappers.get(protocol) != kept:
            _prepare_folder(layout, msgspec.structs.replace(site, mappers=site.mappers | {protocol: kept}))
    except (NotADriver, ConfigError) as error:
        _fail(str(error))
    when = "" if process.running(layout.data) is not None else ", once it is up"
    click.echo(f"The site runs {driver.name} for devices that speak {protocol!r}{when}.")


@mapper.command()
@_data
@click.argument("protocol")
def remove(data: Path, protocol: str) -> None:
    """End the mapper for devices that speak PROTOCOL."""
    layout = Layout(data.absolute())
    site = _remembered(layout)
    if protocol not in site.mappers:
        _fail(f"the site in {layout.data} has no mapper for {protocol!r}; it has {', '.join(site.mappers) or 'none'}")
    rest = {name: driver for name, driver in site.mappers.items() if name != protocol}
    _prepare_folder(layout, msgspec.structs.replace(site, mappers=rest))
    click.echo(f"The site keeps no mapper for {protocol!r} running any more.")


async def _stop_containerd(layout: Layout, site: EdgeSite, purge: bool) -> None:
    """End the private containerd with its pods; one that was there before us is left alone."""
    from edgehive.edgesite.containerd import PrivateContainerd

    if site.containerd or not layout.containerd.exists():
        return
    private = PrivateContainerd(layout.containerd, bridge=site.bridge, subnet=site.pod_subnet)
    await private.stop(purge=purge)


def _purge(layout: Layout) -> None:
    """Remove the data folder, after the mounts that pods' volumes left in it; a disk mounted there stays, empty."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((item for item in points if item.startswith(f"{layout.data}/")), key=len, reverse=True):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)  # noqa: S603, S607
    for entry in layout.data.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not layout.data.is_mount():
        layout.data.rmdir()


def _fail(text: str) -> NoReturn:
    click.echo(f"edgesite: {text}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
