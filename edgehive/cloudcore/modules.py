"""THE list of cloud modules, in start order. A module stands after those it needs."""

from collections.abc import Mapping

from edgehive.api.config.cloudcore import CloudCore
from edgehive.beehive.hive import Factory
from edgehive.cloudcore.cloudhub.cloudhub import CloudHub, HubMetrics
from edgehive.cloudcore.deps import CloudDeps
from edgehive.cloudcore.edgecontroller.edgecontroller import EdgeController
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.cloudcore.synccontroller import SyncController


def factories(deps: CloudDeps) -> Mapping[str, Factory]:
    """All modules this cloudcore has; `enabled` says which of them run."""
    records = DeliveryRecords(deps.client, deps.informers)
    metrics = HubMetrics(deps.registry)
    return {
        CloudHub.name: lambda: CloudHub(deps, records, metrics),
        SyncController.name: lambda: SyncController(deps, records),
        EdgeController.name: lambda: EdgeController(deps, records),
    }


def enabled(config: CloudCore) -> list[str]:
    """The modules the configuration switches on."""
    modules = config.modules
    switches = {
        CloudHub.name: modules.cloud_hub.enable,
        SyncController.name: modules.sync_controller.enable,
        EdgeController.name: modules.edge_controller.enable,
    }
    return [name for name, on in switches.items() if on]
