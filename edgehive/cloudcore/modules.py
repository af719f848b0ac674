"""THE list of cloud modules, in start order. A module stands after those it needs."""

from collections.abc import Mapping
from functools import partial

from edgehive.api.config.cloudcore import CloudCore, Modules
from edgehive.beehive.hive import Factory
from edgehive.beehive.module import Module
from edgehive.cloudcore.cloudhub.cloudhub import CloudHub, HubMetrics
from edgehive.cloudcore.deps import CloudDeps
from edgehive.cloudcore.devicecontroller.devicecontroller import DeviceController
from edgehive.cloudcore.edgecontroller.edgecontroller import EdgeController
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.cloudcore.synccontroller import SyncController
from edgehive.wire.names import CloudModule


def factories(deps: CloudDeps) -> Mapping[str, Factory]:
    """All modules this cloudcore has; `enabled` says which of them run."""
    records = DeliveryRecords(deps.client, deps.informers, deps.standing)
    metrics = HubMetrics(deps.registry)
    return {
        CloudHub.name: lambda: CloudHub(deps, records, metrics),
        SyncController.name: lambda: SyncController(deps, records),
        EdgeController.name: lambda: EdgeController(deps, records),
        DeviceController.name: lambda: DeviceController(deps, records),
        CloudModule.CLOUD_STREAM: partial(_cloudstream, deps),
        CloudModule.IPTABLES_MANAGER: partial(_iptables_manager, deps),
    }


def enabled(config: CloudCore, *, doors: bool = True) -> list[str]:
    """The modules the configuration switches on. A cloudcore without doors of its own has none for streams either."""
    modules = config.modules
    switches = {
        CloudHub.name: modules.cloud_hub.enable,
        SyncController.name: modules.sync_controller.enable,
        EdgeController.name: modules.edge_controller.enable,
        DeviceController.name: modules.device_controller.enable,
        CloudModule.CLOUD_STREAM: modules.cloud_stream.enable and doors,
        CloudModule.IPTABLES_MANAGER: modules.cloud_stream.enable and doors and _leads_ports(modules),
    }
    return [name for name, on in switches.items() if on]


def _leads_ports(modules: Modules) -> bool:
    """Nodes that advertise the cloud need no rules; where somebody else writes them, it is not for cloudcore to do."""
    manager = modules.iptables_manager
    return modules.cloud_stream.kubelet_endpoint == "iptables" and manager.enable and manager.mode == "internal"


def _cloudstream(deps: CloudDeps) -> Module:
    """Imported when it is made: switched off it costs no memory."""
    from edgehive.cloudcore.cloudhub.authority import LIFETIME, Authority
    from edgehive.cloudcore.cloudhub.questions import NewServer
    from edgehive.cloudcore.cloudhub.signer import Signer
    from edgehive.cloudcore.cloudstream.cloudstream import CloudStream
    from edgehive.cloudcore.cloudstream.metrics_door import Serving
    from edgehive.cloudcore.cloudstream.peers import PEER_NAME, PeerCertificate
    from edgehive.kit.keypair import certificate_pem

    async def load(signer: Signer) -> Authority:
        return await Authority.load(deps.client, deps.clock, deps.config.modules.cloud_hub, signer)

    async def identity() -> Authority:
        async with Signer() as signer:
            return await load(signer)

    async def issue(name: str, *, client_too: bool = False) -> Serving:
        async with Signer() as signer:
            ca = (await load(signer)).ca
            question = NewServer(ca, name, [name], deps.clock.now(), LIFETIME, client_too=client_too)
            answer = await signer.ask(question)
        return Serving(answer.pair, certificate_pem(ca.certificate))

    async def introduce() -> PeerCertificate:
        return PeerCertificate(*await issue(PEER_NAME, client_too=True))

    return CloudStream(deps, identity, issue, introduce)


def _iptables_manager(deps: CloudDeps) -> Module:
    from edgehive.cloudcore.iptables.iptablesmanager import IptablesManager

    return IptablesManager(deps.client, deps.config.modules.cloud_stream.stream_port)
