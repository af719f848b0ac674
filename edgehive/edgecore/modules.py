"""THE list of edge modules, in start order; a module is added here and nowhere else.

metamanager comes first, so that rows are served before anyone asks; the hub is ready before there is a link.
Modules are imported when they are made: a disabled one costs no memory.

Go: edge/cmd/edgecore/app/server.go (registerModules)
"""

from functools import partial
from typing import TYPE_CHECKING

from edgehive.api.config.edgecore import EdgeCore
from edgehive.beehive.hive import Factory
from edgehive.beehive.module import Module, RestartPolicy
from edgehive.edgecore.deps import EdgeDeps
from edgehive.kit.backoff import Backoff
from edgehive.wire.names import EdgeModule

if TYPE_CHECKING:
    from edgehive.edgecore.metamanager.metamanager import LocalApi

#: A module that keeps failing is started again for ever: the node's containers run on meanwhile.
PATIENT = RestartPolicy(backoff=Backoff(first=1.0, factor=2.0, limit=30.0, jitter=0.2), limit=0)
POLICIES: dict[str, RestartPolicy] = dict.fromkeys(
    (
        EdgeModule.META_MANAGER,
        EdgeModule.EDGE_HUB,
        EdgeModule.DEVICE_TWIN,
        EdgeModule.EVENT_BUS,
        EdgeModule.EDGED,
        EdgeModule.EDGE_STREAM,
    ),
    PATIENT,
)


def factories(deps: EdgeDeps) -> dict[str, Factory]:
    """Every module this process could run, by the name Go gives it."""
    return {
        EdgeModule.META_MANAGER: partial(_metamanager, deps),
        EdgeModule.EDGE_HUB: partial(_edgehub, deps),
        EdgeModule.DEVICE_TWIN: partial(_devicetwin, deps),
        EdgeModule.EVENT_BUS: partial(_eventbus, deps),
        EdgeModule.EDGED: partial(_edged, deps),
        EdgeModule.EDGE_STREAM: partial(_edgestream, deps),
    }


def enabled(config: EdgeCore, *, doors: bool = True) -> list[str]:
    """Those the configuration switches on. An edgecore whose link is somebody else's affair has no tunnel either."""
    modules = config.modules
    switches = {
        EdgeModule.META_MANAGER: modules.meta_manager.enable,
        EdgeModule.EDGE_HUB: modules.edge_hub.enable,
        EdgeModule.DEVICE_TWIN: modules.device_twin.enable,
        EdgeModule.EVENT_BUS: modules.event_bus.enable,
        EdgeModule.EDGED: modules.edged.enable,
        EdgeModule.EDGE_STREAM: modules.edge_stream.enable and doors,
    }
    return [name for name, on in switches.items() if on]


def local_api_of(config: EdgeCore) -> "LocalApi":
    """Where MetaServer is to listen; raises metaserver.NotServed."""
    from edgehive.edgecore.metamanager.metamanager import LocalApi
    from edgehive.edgecore.metamanager.metaserver import address

    authorized = config.feature_gates.get("requireAuthorization", False)
    host, port = address(config.modules.meta_manager.meta_server.server, authorized=authorized)
    edged_host, edged_port = _kubelet_api(config)
    kubelet = f"http://{edged_host}:{edged_port}" if config.modules.edged.enable and edged_port else ""
    return LocalApi(host, port, kubelet)


def _kubelet_api(config: EdgeCore) -> tuple[str, int]:
    """Where edged serves the kubelet API to this machine."""
    door = config.modules.edged.tailored_kubelet_config
    everywhere = door.address in ("", "0.0.0.0", "::")  # noqa: S104
    return "127.0.0.1" if everywhere else door.address, door.read_only_port


def _metamanager(deps: EdgeDeps) -> Module:
    from edgehive.edgecore.metamanager.metamanager import MetaManager

    section = deps.config.modules.meta_manager
    local_api = None
    if section.meta_server.enable:
        local_api = local_api_of(deps.config)
    return MetaManager(
        deps.bus,
        deps.database,
        deps.clock,
        deps.node_name,
        hub=section.context_send_module,
        timeout=section.remote_query_timeout,
        registry=deps.registry,
        client=deps.client,
        local_api=local_api,
    )


def _edgehub(deps: EdgeDeps) -> Module:
    from edgehive.edgecore.edgehub.edgehub import EdgeHub

    section = deps.config.modules.edge_hub
    return EdgeHub(
        deps.bus,
        deps.database,
        deps.clock,
        deps.dial,
        renewed=deps.renewed,
        heartbeat=section.heartbeat,
        rate=section.message_qps,
        burst=section.message_burst,
        registry=deps.registry,
    )


def _devicetwin(deps: EdgeDeps) -> Module:
    from edgehive.edgecore.devicetwin.devicetwin import DeviceTwin

    return DeviceTwin(
        deps.bus,
        deps.database,
        deps.clock,
        deps.node_name,
        client=deps.client,
        dmi_folder=deps.config.modules.device_twin.dmi_sock_path,
        local_api=deps.config.modules.meta_manager.meta_server.enable,
        registry=deps.registry,
    )


def _eventbus(deps: EdgeDeps) -> Module:
    from edgehive.edgecore.eventbus.eventbus import EventBus

    section = deps.config.modules.event_bus
    return EventBus(deps.bus, deps.database, deps.clock, deps.node_name, section, registry=deps.registry)


def _edged(deps: EdgeDeps) -> Module:
    from edgehive.edgecore.edged.edged import Edged

    return Edged(
        bus=deps.bus,
        client=deps.client,
        config=deps.config.modules.edged,
        clock=deps.clock,
        registry=deps.registry,
        node_name=deps.node_name,
    )


def _edgestream(deps: EdgeDeps) -> Module:
    from edgehive.edgecore.edgestream.edgestream import EdgeStream, TunnelFiles

    modules = deps.config.modules
    section, hub, edged = modules.edge_stream, modules.edge_hub, modules.edged
    files = TunnelFiles.of(
        section.tls_tunnel_ca_file, section.tls_tunnel_cert_file, section.tls_tunnel_private_key_file
    )
    return EdgeStream(
        server=section.server or f"{hub.websocket.server.rpartition(':')[0]}:10004",
        node_name=deps.node_name,
        node_ip=edged.node_ip,
        # Those of the hub where the tunnel has none of its own.
        files=(files, TunnelFiles.of(hub.tls_ca_file, hub.tls_cert_file, hub.tls_private_key_file)),
        kubelet=_kubelet_api(deps.config),
        handshake_timeout=section.handshake_timeout,
        registry=deps.registry,
    )
