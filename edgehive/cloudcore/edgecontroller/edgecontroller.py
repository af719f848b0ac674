"""Module `edgecontroller`: Kubernetes objects down to edge nodes, their requests up to the API.

It only names its flow files; `cloudcore.flows` runs them and cloudhub carries what they say.

Go: cloud/pkg/edgecontroller/edgecontroller.go
"""

from edgehive.beehive.module import Ready
from edgehive.cloudcore.deps import CloudDeps
from edgehive.cloudcore.edgecontroller import configs, events, nodes, pods, signing_requests, tokens, volumes
from edgehive.cloudcore.edgecontroller.context import EdgeContext
from edgehive.cloudcore.flows import FlowEngine, flows_of
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.wire.names import CloudModule

#: Nodes first, then pods: they tell where everything after them goes.
FLOW_FILES = (nodes, pods, configs, volumes, tokens, signing_requests, events)
#: More requests at a time than this would only wait inside the API client.
AT_ONCE = 256


class EdgeController:
    """See the file's head."""

    name: str = CloudModule.EDGE_CONTROLLER
    group: str = CloudModule.EDGE_CONTROLLER
    needs: tuple[str, ...] = (CloudModule.CLOUD_HUB,)

    def __init__(self, deps: CloudDeps, records: DeliveryRecords) -> None:
        self._deps = deps
        self._records = records
        self._mailbox = deps.bus.register(self.name, self.group, size=4096)
        # Asking for them here lets their first lists start with the process.
        self._context = EdgeContext.of(deps, records)

    async def run(self, ready: Ready) -> None:
        engine = FlowEngine(
            self.name,
            bus=self._deps.bus,
            informers=self._deps.informers,
            records=self._records,
            clock=self._deps.clock,
            context=self._context,
            flows=flows_of(*FLOW_FILES),
            at_once=AT_ONCE,
            owns=self._deps.standing.owns,
            registry=self._deps.registry,
        )
        await engine.run(self._mailbox, ready)
