"""cloudcore: reads the configuration, reaches the API, runs the cloud modules. `main` is the command.

edgesite calls `run_cloudcore` instead, with a client of its own and acceptors in memory; then no port is
opened and no certificate is needed.

Go: cloud/cmd/cloudcore
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
from prometheus_client import CollectorRegistry

from edgehive import __version__
from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.registry import NODES
from edgehive.beehive.bus import Bus
from edgehive.beehive.enabling import follow_file
from edgehive.beehive.health import routes
from edgehive.beehive.hive import Hive, ModuleFailed, UnknownModule, run_until_signal
from edgehive.cloudcore.crds import ensure_kinds
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR, CloudDeps
from edgehive.cloudcore.modules import enabled, factories
from edgehive.cloudcore.replicas.membership import member
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.cloudcore.workers import Workers, announce, command
from edgehive.kit import config as configuration
from edgehive.kit import log as logs
from edgehive.kit.clock import Clock, SystemClock
from edgehive.kit.config import ConfigError
from edgehive.kit.door import share_ports
from edgehive.kit.fatal import Fatal
from edgehive.kit.http import serve
from edgehive.kit.memory import release_when_settled
from edgehive.kit.parent import end_with_parent
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client
from edgehive.kube.http_client import HttpClient
from edgehive.kube.informer import Informers
from edgehive.kube.kubeconfig import ClusterAccess, KubeconfigError, load
from edgehive.wire.acceptor import Acceptor

log = logging.getLogger("edgehive.cloudcore")

DEFAULT_CONFIG = "/etc/kubeedge/config/cloudcore.yaml"


async def run_cloudcore(
    config: CloudCore,
    client: Client,
    *,
    acceptors: Sequence[Acceptor] | None = None,
    clock: Clock | None = None,
    stop: asyncio.Event | None = None,
    registry: CollectorRegistry | None = None,
    api_ca: str = "",
    config_file: Path | None = None,
    replica: str = "",
    on_monitored: Callable[[int], None] | None = None,
) -> None:
    """Run until `stop` is set (or, when it is None, a signal arrives). Raises ModuleFailed or PortInUse.

    `replica` is its name among several on one API; "" where there can be no other. `on_monitored` is told the port of
    health and metrics.
    """
    registry = registry or CollectorRegistry()
    config = with_address(config)
    await ensure_kinds(client)
    clock = clock or SystemClock()
    async with Informers(client) as informers, contextlib.AsyncExitStack() as membership:
        standing, presence = Standing(), None
        if replica:
            standing = Standing(informers.of(NODES, label_selector=EDGE_NODE_SELECTOR), replica)
            presence = await membership.enter_async_context(member(client, clock, standing))
        deps = CloudDeps(
            config=config,
            bus=Bus(registry=registry),
            client=client,
            informers=informers,
            clock=clock,
            registry=registry,
            acceptors=acceptors,
            address=config.modules.cloud_hub.advertise_address[0],
            api_ca=api_ca,
            config_file=config_file,
            standing=standing,
            presence=presence,
        )
        hive = Hive(
            "cloudcore",
            factories(deps),
            enabled=enabled(config, doors=acceptors is None),
            bus=deps.bus,
            registry=registry,
        )
        async with contextlib.AsyncExitStack() as doors:
            if acceptors is None:
                _, port = await doors.enter_async_context(_monitor(hive, config, registry))
                if on_monitored is not None:
                    on_monitored(port)
                doors.callback(release_when_settled().cancel)
            if config_file is not None:
                follower = spawn(follow_file(hive, config_file, _enabled_in), name="configuration follower")
                doors.push_async_callback(cancel_and_join, follower)
            await (hive.run(stop) if stop is not None else run_until_signal(hive))


def _enabled_in(config_file: Path) -> list[str]:
    """The modules a changed configuration switches on; raises ConfigError."""
    return enabled(configuration.load(config_file, CloudCore))


def _monitor(
    hive: Hive, config: CloudCore, registry: CollectorRegistry
) -> contextlib.AbstractAsyncContextManager[tuple[str, int]]:
    """Health and metrics of the process."""
    from aiohttp import web

    host, port = config.common_config.monitor_server.listen
    app = web.Application()
    app.router.add_routes(routes(hive, registry))
    return serve(app, host=host, port=port)


def with_address(config: CloudCore) -> CloudCore:
    """The configuration with this machine's address where none is advertised."""
    hub = config.modules.cloud_hub
    if any(hub.advertise_address):
        return config
    hub = msgspec.structs.replace(hub, advertise_address=[own_address()])
    return msgspec.structs.replace(config, modules=msgspec.structs.replace(config.modules, cloud_hub=hub))


def with_replica(config: CloudCore, worker: int | None = None) -> CloudCore:
    """The configuration with this process's own name, address and port among the replicas; workers count up."""
    common, port = config.common_config, config.common_config.replica.port
    name = common.replica.name or f"{socket.gethostname()}:{config.modules.cloud_hub.websocket.port}"
    replica = msgspec.structs.replace(
        common.replica,
        name=name if worker is None else f"{name}/{worker}",
        address=common.replica.address or own_address(),
        port=port + (worker or 0) if port else 0,
    )
    return msgspec.structs.replace(config, common_config=msgspec.structs.replace(common, replica=replica))


def own_address() -> str:
    """The address this machine would speak from to others; no packet is sent."""
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as prober, contextlib.suppress(OSError):
            prober.connect((probe, 9))
            return str(prober.getsockname()[0])
    return "127.0.0.1"


def api_access(config: CloudCore) -> ClusterAccess:
    """How the configuration says to reach the API; raises KubeconfigError."""
    api = config.kube_api_config
    if api.master and not api.kube_config:
        return ClusterAccess(server=api.master)
    access = load(api.kube_config)
    return replace(access, server=api.master) if api.master else access


def minimal_config() -> CloudCore:
    """What most clusters change, with this machine's address and the usual kubeconfig."""
    config = with_address(CloudCore())
    hub = msgspec.structs.replace(config.modules.cloud_hub, node_limit=1000)
    api = msgspec.structs.replace(config.kube_api_config, kube_config="/root/.kube/config")
    modules = msgspec.structs.replace(config.modules, cloud_hub=hub)
    return msgspec.structs.replace(config, kube_api_config=api, modules=modules)


#: The keys of `--minconfig`.
_MINIMAL: dict[str, object] = {
    "apiVersion": None,
    "kind": None,
    "kubeAPIConfig": {"kubeConfig": None},
    "modules": {
        "cloudHub": {
            "advertiseAddress": None,
            "nodeLimit": None,
            "tlsCAFile": None,
            "tlsCAKeyFile": None,
            "tlsCertFile": None,
            "tlsPrivateKeyFile": None,
            "websocket": None,
            "https": None,
        },
        "cloudStream": {"enable": None, "tunnelPort": None, "streamPort": None},
    },
}


def _pick(data: dict[str, object], keys: dict[str, object]) -> dict[str, object]:
    picked: dict[str, object] = {}
    for key, below in keys.items():
        value = data[key]
        picked[key] = _pick(value, below) if isinstance(below, dict) and isinstance(value, dict) else value
    return picked


def _print_minimal() -> None:
    import yaml

    data = msgspec.to_builtins(minimal_config())
    click.echo(yaml.safe_dump(_pick(data, _MINIMAL), sort_keys=False, default_flow_style=False), nl=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "path", default=DEFAULT_CONFIG, show_default=True, help="The configuration file.")
@click.option("--defaultconfig", is_flag=True, help="Print a configuration with every key at its default, and exit.")
@click.option("--minconfig", is_flag=True, help="Print a configuration with the keys most change, and exit.")
@click.option("--log-level", default="info", show_default=True, help="debug, info, warning or error.")
@click.option("--worker", type=int, hidden=True, help="Which worker of its parent this process is.")
@click.version_option(__version__, prog_name="cloudcore")
def main(path: str, defaultconfig: bool, minconfig: bool, log_level: str, worker: int | None) -> None:
    """The cloud half: serves edge nodes and speaks to the Kubernetes API for them."""
    if defaultconfig:
        click.echo(configuration.dump(CloudCore()), nl=False)
        return
    if minconfig:
        _print_minimal()
        return
    if log_level.lower() not in ("debug", "info", "warning", "error"):
        raise click.BadParameter("use debug, info, warning or error", param_hint="--log-level")
    logs.setup(log_level)
    try:
        config = configuration.load(Path(path), CloudCore)
        if config.common_config.workers > 1 and worker is None:
            _run(Workers(config, command(Path(path), log_level)).run())
        else:
            _run(_serve(config, api_access(config), Path(path), worker))
    except (ConfigError, KubeconfigError, ModuleFailed, UnknownModule, Fatal) as error:
        click.echo(f"cloudcore: {error}", err=True)
        sys.exit(1)


def _run(process: Coroutine[Any, Any, None]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process)


async def _serve(config: CloudCore, access: ClusterAccess, config_file: Path, worker: int | None) -> None:
    config = with_replica(config, worker)
    if worker is not None:
        config = _as_worker(config)
        share_ports()
        end_with_parent()
    async with HttpClient(access) as client:
        log.info("cloudcore %s serves edge nodes for %s", __version__, access.server)
        await run_cloudcore(
            config,
            client,
            api_ca=access.certificate_authority.decode(),
            config_file=config_file,
            replica=config.common_config.replica.name,
            on_monitored=announce if worker is not None else None,
        )


def _as_worker(config: CloudCore) -> CloudCore:
    """Its health is the parent's to tell, who asks for it on this machine."""
    monitor = msgspec.structs.replace(config.common_config.monitor_server, bind_address="127.0.0.1:0")
    common = msgspec.structs.replace(config.common_config, monitor_server=monitor)
    return msgspec.structs.replace(config, common_config=common)


if __name__ == "__main__":
    main()
