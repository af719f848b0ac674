"""The configurations of the cloud half and the edge half of a site, derived from the site's own. Pure."""

import platform

from edgehive.api.config import cloudcore, edgecore
from edgehive.api.config.edgesite import EdgeSite
from edgehive.edgesite.images import PAUSE
from edgehive.edgesite.layout import Layout

#: A site shares its disk with whatever else a machine is for; 10% of a large disk is no emergency.
_EVICTION = {
    "memory.available": "100Mi",
    "nodefs.available": "5%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "5%",
    "imagefs.inodesFree": "5%",
}


def cloud(site: EdgeSite) -> cloudcore.CloudCore:  # noqa: ARG001 - the same seam as `edge`
    """cloudcore without doors: its one link comes from memory."""
    return cloudcore.CloudCore()


def edge(site: EdgeSite, layout: Layout, node_ip: str, endpoint: str) -> edgecore.EdgeCore:
    """edgecore with everything below the site's data folder; MQTT is no part of a site, devices speak DMI."""
    folder = layout.edge
    kubelet = edgecore.TailoredKubeletConfig(
        read_only_port=site.kubelet_port,
        static_pod_path=str(folder / "manifests"),
        container_runtime_endpoint=endpoint,
        image_service_endpoint=endpoint,
        node_status_max_images=50,
        eviction_hard=dict(_EVICTION),
    )
    edged = edgecore.Edged(
        report_event=True,
        hostname_override=site.node_name,
        node_ip=node_ip,
        pod_sandbox_image=PAUSE,
        root_directory=str(folder / "kubelet"),
        node_labels={"kubernetes.io/arch": _architecture()},
        tailored_kubelet_config=kubelet,
    )
    modules = edgecore.Modules(
        edged=edged,
        # The link is a queue in this process: a pace made for radio links would only delay pods.
        edge_hub=edgecore.EdgeHub(message_qps=2000, message_burst=4000),
        event_bus=edgecore.EventBus(enable=False),
        device_twin=edgecore.DeviceTwin(dmi_sock_path=str(folder)),
    )
    database = edgecore.Database(data_source=str(folder / "edgecore.db"))
    return edgecore.EdgeCore(database=database, modules=modules)


def _architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
