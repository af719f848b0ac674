"""`edgecore`: reads the configuration, opens the database, builds `EdgeDeps` and runs the Hive of edge modules.

`main` is the command, `run_edgecore` the door for edgesite and tests, which bring a `dial` of their own and then
need no certificate and get no port. Nothing here knows what a module does.

Go: edge/cmd/edgecore/app
"""

import asyncio
import logging
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import msgspec
from prometheus_client import CollectorRegistry

from edgehive import __version__
from edgehive.api.config.edgecore import EdgeCore
from edgehive.beehive.bus import Bus
from edgehive.beehive.enabling import follow_file
from edgehive.beehive.hive import Hive, ModuleFailed, UnknownModule, run_until_signal
from edgehive.edgecore import modules
from edgehive.edgecore.dbm.dbm import DatabaseUnusable, edge_database
from edgehive.edgecore.deps import Dial, EdgeDeps, Renewed
from edgehive.edgecore.metaclient import MetaClient
from edgehive.kit.clock import Clock, SystemClock
from edgehive.kit.memory import release_when_settled
from edgehive.kit.sqlite import DatabaseError
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.link import JoinRefused, LinkClosed

log = logging.getLogger("edgehive.edgecore")

DEFAULT_CONFIG = Path("/etc/kubeedge/config/edgecore.yaml")


class Refused(Exception):
    """edgecore does not start; the text is one sentence with the mend."""


def node_name(config: EdgeCore) -> str:
    """The configured name, else the machine's, as Kubernetes spells names."""
    return (config.modules.edged.hostname_override or socket.gethostname()).lower()


async def run_edgecore(
    config: EdgeCore,
    *,
    dial: Dial | None = None,
    clock: Clock | None = None,
    stop: asyncio.Event | None = None,
    registry: CollectorRegistry | None = None,
    config_file: Path | None = None,
) -> None:
    """Run until `stop` is set (without one: until a signal). With `dial`, the link is the caller's affair."""
    clock = clock or SystemClock()
    registry = registry or CollectorRegistry()
    name = node_name(config)
    _check_local_api(config)
    bus = Bus(registry=registry)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(edge_database(Path(config.database.data_source), clock))
        renewed: Renewed | None = None
        standalone = dial is None
        if dial is None:
            dial, renewed = await _identity(config, name, clock, registry, config_file)
        client = MetaClient(bus, clock, timeout=config.modules.meta_manager.remote_query_timeout)
        deps = EdgeDeps(config, bus, database, clock, name, dial, client, registry, renewed)
        hive = Hive(
            "edgecore",
            modules.factories(deps),
            bus=bus,
            enabled=modules.enabled(config, doors=standalone),
            registry=registry,
            policies=modules.POLICIES,
        )
        if standalone:
            await _serve_health(stack, config, hive, registry)
            stack.callback(release_when_settled().cancel)
        if config_file is not None:
            follower = spawn(follow_file(hive, config_file, _enabled_in), name="configuration follower")
            stack.push_async_callback(cancel_and_join, follower)
        log.info("edgecore %s starts as node %s", __version__, name)
        if stop is None:
            await run_until_signal(hive)
        else:
            await hive.run(stop)


def _check_local_api(config: EdgeCore) -> None:
    section = config.modules.meta_manager
    if section.enable and section.meta_server.enable:
        from edgehive.edgecore.metamanager.metaserver import NotServed

        try:
            modules.local_api_of(config)
        except NotServed as error:
            raise Refused(str(error)) from error


def _enabled_in(config_file: Path) -> list[str]:
    """The modules a changed configuration switches on; raises ConfigError."""
    from edgehive.kit import config as configuration

    return modules.enabled(configuration.load(config_file, EdgeCore))


async def _identity(
    config: EdgeCore, name: str, clock: Clock, registry: CollectorRegistry, config_file: Path | None
) -> tuple[Dial, Renewed]:
    from edgehive.edgecore.edgehub.identity import Identity

    section = config.modules.edge_hub
    if section.enable:
        _check_addresses(config)
    identity = Identity(section, name, clock, config_file=config_file, registry=registry)
    if section.enable:
        try:
            await identity.prepare()
        except LinkClosed as error:
            log.warning("%s; the node starts without the cloud and joins when it answers", error)
    return identity.dial, identity.renewed


def _check_addresses(config: EdgeCore) -> None:
    section = config.modules.edge_hub
    if not section.websocket.enable:
        raise Refused(
            "modules.edgeHub.websocket.enable is false and no other transport is built in; set it to true "
            "(the QUIC of the Go project is an obsolete draft)"
        )
    if not section.websocket.server:
        raise Refused("modules.edgeHub.websocket.server is empty; set it to the cloud's address, such as cloud:10000")


async def _serve_health(stack: AsyncExitStack, config: EdgeCore, hive: Hive, registry: CollectorRegistry) -> None:
    from aiohttp import web

    from edgehive.beehive.health import routes
    from edgehive.kit.http import serve

    address = config.common_config.monitor_server.bind_address
    if not address:
        return
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise Refused(f"commonConfig.monitorServer.bindAddress is {address!r}; write host:port, or nothing for none")
    app = web.Application()
    app.add_routes(routes(hive, registry))
    await stack.enter_async_context(serve(app, host=host.strip("[]"), port=int(port)))


# The command


def refuse_beside_kubelet(processes: Path = Path("/proc")) -> None:
    """Two agents on one node would fight over its pods; raises Refused."""
    for entry in processes.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue  # it ended meanwhile
        if name == "kubelet":
            raise Refused(
                f"a kubelet runs on this machine (process {entry.name}); edgecore takes its place: stop it first"
            )


def default_config(*, minimal: bool = False) -> dict[str, Any]:
    """The default configuration with this machine's name and addresses filled in, as plain YAML data."""
    name, address = socket.gethostname().lower(), _own_address()
    config: dict[str, Any] = msgspec.to_builtins(EdgeCore())
    parts = config["modules"]
    parts["edged"]["hostnameOverride"] = name
    parts["edgeHub"]["httpServer"] = f"https://{address}:10002"
    parts["edgeHub"]["websocket"]["server"] = f"{address}:10000"
    parts["edgeHub"]["quic"]["server"] = f"{address}:10001"
    parts["edgeStream"]["server"] = f"{address}:10004"
    if not minimal:
        return config
    hub, edged = parts["edgeHub"], parts["edged"]
    kubelet = ("cgroupDriver", "cgroupsPerQOS", "containerRuntimeEndpoint", "imageServiceEndpoint", "clusterDomain")
    return {
        "apiVersion": config["apiVersion"],
        "kind": config["kind"],
        "database": {"dataSource": config["database"]["dataSource"]},
        "modules": {
            "edged": {
                "hostnameOverride": name,
                "podSandboxImage": edged["podSandboxImage"],
                "rootDirectory": edged["rootDirectory"],
                "tailoredKubeletConfig": {key: edged["tailoredKubeletConfig"][key] for key in kubelet},
            },
            "edgeHub": {
                "heartbeat": hub["heartbeat"],
                "httpServer": hub["httpServer"],
                "token": "",
                "websocket": {"enable": True, "server": hub["websocket"]["server"]},
            },
            "eventBus": {key: parts["eventBus"][key] for key in ("mqttMode", "mqttServerExternal")},
            "edgeStream": {key: parts["edgeStream"][key] for key in ("enable", "server")},
        },
    }


def _own_address() -> str:
    """The address this machine would reach others from; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


def _print_config(minimal: bool) -> None:
    import yaml

    click.echo(yaml.safe_dump(default_config(minimal=minimal), sort_keys=False), nl=False)


def _run(config_file: Path) -> None:
    from edgehive.kit import config as configuration
    from edgehive.kit.http import PortInUse

    known = (
        configuration.ConfigError, Refused, DatabaseUnusable, DatabaseError, JoinRefused, PortInUse, ModuleFailed,
        UnknownModule,
    )  # fmt: skip
    try:
        config = configuration.load(config_file, EdgeCore)
        refuse_beside_kubelet()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run_edgecore(config, config_file=config_file))
    except known as error:
        click.echo(f"edgecore: {error}", err=True)
        sys.exit(1)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="Configuration file.",
)
@click.option("--defaultconfig", is_flag=True, help="Print the whole default configuration and exit.")
@click.option("--minconfig", is_flag=True, help="Print the settings most people change and exit.")
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]))
@click.version_option(__version__, prog_name="edgecore")
def main(config_file: Path, defaultconfig: bool, minconfig: bool, log_level: str) -> None:
    """Run the edge part of edgehive: containers on this node, steered from the cloud, alive without it."""
    from edgehive.kit import log as logs

    if defaultconfig or minconfig:
        _print_config(minimal=minconfig)
        return
    logs.setup(log_level)
    _run(config_file)


if __name__ == "__main__":
    main()
