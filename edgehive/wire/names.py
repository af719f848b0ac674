"""Every word the wire is made of, spelt exactly as Go spells it: modules, groups, sources, operations, types.

Both sides import it; no other file writes one of these strings. Members are plain strings, so they go
straight into a message's route. `recognise_module` tells who sent a message as far as its route says.

Go: common/constants, cloud/pkg/common/modules, edge/pkg/common/modules, beehive core/model
"""

from enum import StrEnum


class CloudModule(StrEnum):
    """Module names inside cloudcore; each module's group has the same name."""

    CLOUD_HUB = "cloudhub"
    EDGE_CONTROLLER = "edgecontroller"
    DEVICE_CONTROLLER = "devicecontroller"
    SYNC_CONTROLLER = "synccontroller"
    DYNAMIC_CONTROLLER = "dynamiccontroller"
    CLOUD_STREAM = "cloudStream"
    ROUTER = "router"
    POLICY_CONTROLLER = "policycontroller"
    TASK_MANAGER = "taskmanager"
    #: Ours to name: Go's is no module of its bus.
    IPTABLES_MANAGER = "iptablesManager"


class EdgeModule(StrEnum):
    """Module names inside edgecore."""

    EDGE_HUB = "websocket"
    META_MANAGER = "metamanager"
    EDGED = "edged"
    DEVICE_TWIN = "twin"
    EVENT_BUS = "eventbus"
    SERVICE_BUS = "servicebus"
    EDGE_STREAM = "edgestream"
    TASK_MANAGER = "taskmanager"


class Group(StrEnum):
    """Groups: the first seven are those of edge modules, the rest address a kind of receiver across the link."""

    HUB = "hub"
    META = "meta"
    EDGED = "edged"
    TWIN = "twin"
    BUS = "bus"
    EDGE_STREAM = "edgestream"
    TASK_MANAGER = "taskmanager"
    RESOURCE = "resource"
    FUNCTION = "func"
    USER = "user"
    DYNAMIC_CONTROLLER = "dynamiccontroller"
    NODE_UPGRADE_JOB_CONTROLLER = "nodeupgradejobcontroller"


class Source(StrEnum):
    """Who a route says it comes from."""

    CLOUD_HUB = "cloudhub"
    EDGE_CONTROLLER = "edgecontroller"
    DEVICE_CONTROLLER = "devicecontroller"
    SYNC_CONTROLLER = "synccontroller"
    DYNAMIC_CONTROLLER = "dynamiccontroller"
    POLICY_CONTROLLER = "policycontroller"
    CLOUD_STREAM = "cloudStream"
    ROUTER_EVENT_BUS = "router_eventbus"
    ROUTER_SERVICE_BUS = "router_servicebus"
    TASK_MANAGER = "taskmanager"
    NODE_UPGRADE_JOB_CONTROLLER = "nodeupgradejobcontroller"
    EDGED = "edged"
    META_MANAGER = "metamanager"
    META_SERVER = "metaserver"
    TWIN = "twin"
    BUS = "bus"
    EVENT_BUS = "eventbus"
    SERVICE_BUS = "servicebus"
    WEBSOCKET = "websocket"
    EDGE_HUB = "edgehub"
    META = "meta"


class Operation(StrEnum):
    """What a message does to its resource; HTTP verbs in upper case are operations too (service bus)."""

    INSERT = "insert"
    DELETE = "delete"
    QUERY = "query"
    UPDATE = "update"
    PATCH = "patch"
    UPLOAD = "upload"
    RESPONSE = "response"
    ERROR = "error"
    KEEPALIVE = "keepalive"
    APPLICATION_RESPONSE = "applicationResponse"
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    START = "start"
    STOP = "stop"
    GET = "get"
    CREATE_VOLUME = "createvolume"
    DELETE_VOLUME = "deletevolume"
    CONTROLLER_PUBLISH_VOLUME = "controllerpublishvolume"
    CONTROLLER_UNPUBLISH_VOLUME = "controllerunpublishvolume"
    UPDATE_NODE_ACTION_STATUS = "UpdateNodeActionStatus"
    NULL = "null"
    #: Edge-internal: the link came or went.
    CONNECT = "connect"
    UNHOLD_UPGRADE = "unhold-upgrade"
    #: Answered inside the link and never delivered.
    PING = "ping"
    PONG = "pong"
    CONFIG = "config"


CONTROL_OPERATIONS = frozenset({Operation.PING, Operation.PONG, Operation.CONFIG})
VOLUME_OPERATIONS = frozenset(
    {
        Operation.CREATE_VOLUME,
        Operation.DELETE_VOLUME,
        Operation.CONTROLLER_PUBLISH_VOLUME,
        Operation.CONTROLLER_UNPUBLISH_VOLUME,
    }
)


class NodeJobAction(StrEnum):
    """Operations of node jobs: the actions of v1alpha2, then the task types of v1alpha1."""

    CHECK = "Check"
    WAITING_CONFIRMATION = "WaitingConfirmation"
    BACK_UP = "BackUp"
    UPGRADE = "Upgrade"
    ROLL_BACK = "RollBack"
    PULL = "Pull"
    UPDATE = "Update"
    LEGACY_UPGRADE = "upgrade"
    LEGACY_ROLLBACK = "rollback"
    LEGACY_BACKUP = "backup"
    LEGACY_PREPULL = "prepull"


HTTP_VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OPERATIONS = frozenset(Operation) | frozenset(NodeJobAction) | HTTP_VERBS


class ResourceType(StrEnum):
    """The type segment of a resource path (any other lower-case kind may stand there too)."""

    POD = "pod"
    POD_LIST = "podlist"
    POD_STATUS = "podstatus"
    POD_PATCH = "podpatch"
    NODE = "node"
    NODE_STATUS = "nodestatus"
    NODE_PATCH = "nodepatch"
    EVENT = "event"
    CONFIG_MAP = "configmap"
    SECRET = "secret"  # noqa: S105
    SERVICE_ACCOUNT_TOKEN = "serviceaccounttoken"  # noqa: S105
    SERVICE_ACCOUNT_ACCESS = "serviceaccountaccess"
    LEASE = "lease"
    CERTIFICATE_SIGNING_REQUEST = "certificatesigningrequest"
    PERSISTENT_VOLUME = "persistentvolume"
    PERSISTENT_VOLUME_CLAIM = "persistentvolumeclaim"
    VOLUME_ATTACHMENT = "volumeattachment"
    VOLUME = "volume"
    RULE = "rule"
    RULE_ENDPOINT = "ruleendpoint"
    RULE_STATUS = "rulestatus"
    DEVICE = "device"
    DEVICE_MODEL = "devicemodel"
    DEVICE_MAPPER = "devicemapper"
    APPLICATION = "Application"
    INVENTORY = "inventory"


class Path(StrEnum):
    """Resources that are not `<namespace>/<type>/...`."""

    KEEPALIVE = "node"
    CONNECTION = "node/connection"
    KUBERNETES_CA = "k8s/ca.crt"
    MEMBERSHIP = "membership"
    MEMBERSHIP_DETAIL = "membership/detail"
    TWIN = "twin"
    TWIN_CLOUD_UPDATED = "twin/cloud_updated"
    APPLICATION_REQUEST = "null"
    APPLICATION_ANSWER = "ignore/Application/ignore"
    WATCH_SYNC = "watchapp/sync"
    #: Ours; see inventory.py.
    INVENTORY = "null/inventory"
    #: Inside an edge: which desired values were set here?
    DESIRED = "null/device"


#: Content of notices and acknowledgements.
OK = "OK"
ACK = "ack"
KEEPALIVE_CONTENT = "ping"
CLOUD_CONNECTED = "cloud_connected"
CLOUD_DISCONNECTED = "cloud_disconnected"

#: Sources the cloud keeps for itself: from the edge they are only allowed in acknowledgements.
CLOUD_ONLY_SOURCES = frozenset(
    {
        Source.CLOUD_HUB,
        Source.CLOUD_STREAM,
        Source.DEVICE_CONTROLLER,
        Source.EDGE_CONTROLLER,
        Source.SYNC_CONTROLLER,
    }
)
#: Groups an edge accepts from the cloud; anything else is discarded.
DOWNSTREAM_GROUPS = frozenset({Group.RESOURCE, Group.FUNCTION, Group.TWIN, Group.USER, Group.TASK_MANAGER})

#: Every pair of source and group that travels, and the module that speaks by it.
_MODULE_OF: dict[tuple[str, str], CloudModule | EdgeModule] = {
    (Source.EDGE_CONTROLLER, Group.RESOURCE): CloudModule.EDGE_CONTROLLER,
    (Source.SYNC_CONTROLLER, Group.RESOURCE): CloudModule.SYNC_CONTROLLER,
    (Source.DEVICE_CONTROLLER, Group.RESOURCE): CloudModule.DEVICE_CONTROLLER,
    (Source.DEVICE_CONTROLLER, Group.TWIN): CloudModule.DEVICE_CONTROLLER,
    (Source.DYNAMIC_CONTROLLER, Group.RESOURCE): CloudModule.DYNAMIC_CONTROLLER,
    (Source.POLICY_CONTROLLER, Group.RESOURCE): CloudModule.POLICY_CONTROLLER,
    (Source.CLOUD_HUB, Group.RESOURCE): CloudModule.CLOUD_HUB,
    (Source.ROUTER_EVENT_BUS, Group.USER): CloudModule.ROUTER,
    (Source.ROUTER_SERVICE_BUS, Group.USER): CloudModule.ROUTER,
    (Source.TASK_MANAGER, Group.TASK_MANAGER): CloudModule.TASK_MANAGER,
    (Source.NODE_UPGRADE_JOB_CONTROLLER, Group.NODE_UPGRADE_JOB_CONTROLLER): CloudModule.TASK_MANAGER,
    (Source.EDGED, Group.META): EdgeModule.EDGED,
    (Source.EDGED, Group.RESOURCE): EdgeModule.EDGED,
    (Source.META_MANAGER, Group.META): EdgeModule.META_MANAGER,
    (Source.META_MANAGER, Group.RESOURCE): EdgeModule.META_MANAGER,
    (Source.META_SERVER, Group.DYNAMIC_CONTROLLER): EdgeModule.META_MANAGER,
    (Source.TWIN, Group.RESOURCE): EdgeModule.DEVICE_TWIN,
    (Source.META, Group.TWIN): EdgeModule.DEVICE_TWIN,
    (Source.BUS, Group.USER): EdgeModule.EVENT_BUS,
    (Source.EVENT_BUS, Group.USER): EdgeModule.EVENT_BUS,
    (Source.SERVICE_BUS, Group.USER): EdgeModule.SERVICE_BUS,
    (Source.WEBSOCKET, Group.RESOURCE): EdgeModule.EDGE_HUB,
    (Source.WEBSOCKET, Group.HUB): EdgeModule.EDGE_HUB,
    (Source.EDGE_HUB, Group.RESOURCE): EdgeModule.EDGE_HUB,
}


def recognise_module(source: str, group: str) -> CloudModule | EdgeModule | None:
    """The module that speaks with this source and group; None for an unknown pair."""
    return _MODULE_OF.get((source, group))


def is_operation(operation: str) -> bool:
    """Whether the protocol knows this operation."""
    return operation in OPERATIONS
