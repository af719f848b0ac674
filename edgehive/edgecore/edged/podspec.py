"""A pod's object and what was resolved for it -> the CRI configuration of its sandbox and containers. Pure.

For `runtime.py`, which sends it. Nothing is read, waited for or remembered here; what cannot be done is a
ContainerConfigError with the reason and words users know. Environment: `environment.py`; numbers: `cgroups.py`.
Go: pkg/kubelet/kuberuntime/kuberuntime_{sandbox,container}.go, pkg/kubelet/network/dns/dns.go
"""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgehive.api.core import Container, Pod, VolumeMount
from edgehive.edgecore.edged import cgroups, security
from edgehive.edgecore.edged.environment import (
    ContainerConfigError,
    PodFacts,
    References,
    environment,
    expand,
    expand_all,
    references,
)
from edgehive.edgecore.edged.plan import every_container, spec_hash
from edgehive.edgecore.edged.resolver import Resolver, dns_config
from edgehive.protos import cri_pb2 as cri

__all__ = [
    "ContainerConfigError", "ContainerFacts", "Node", "PodFacts", "References", "container_config", "labels",
    "log_directory", "log_path", "references", "sandbox_config", "sub_paths",
]  # fmt: skip

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
CONTAINER_HASH = "io.kubernetes.container.hash"
RESTART_COUNT = "io.kubernetes.container.restartCount"
GRACE_PERIOD = "io.kubernetes.pod.terminationGracePeriod"
TERMINATION_PATH = "io.kubernetes.container.terminationMessagePath"
TERMINATION_POLICY = "io.kubernetes.container.terminationMessagePolicy"

_PROPAGATION = {
    "None": cri.PROPAGATION_PRIVATE,
    "HostToContainer": cri.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": cri.PROPAGATION_BIDIRECTIONAL,
}
_PROTOCOLS = {"TCP": cri.TCP, "UDP": cri.UDP, "SCTP": cri.SCTP}


@dataclass(frozen=True, slots=True)
class Node:
    """What is the same for every pod of this node."""

    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    resolver: Resolver = field(default_factory=Resolver)
    memory_capacity: int = 0
    cgroup_root: str = ""
    cpu_quota: bool = True
    pod_logs: str = "/var/log/pods"
    seccomp_root: str = "/var/lib/kubelet/seccomp"
    #: The profile of containers that name none: Unconfined, as the Go kubelet without seccompDefault.
    default_seccomp: str = "Unconfined"


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What was prepared for one container: image, attempt, host paths of volumes and files."""

    image: str
    attempt: int = 0
    #: volume name -> folder (or file) on the node
    volumes: Mapping[str, str] = field(default_factory=dict)
    #: (volume name, expanded subPath) -> its checked place on the node, for every one of `sub_paths`
    sub_paths: Mapping[tuple[str, str], str] = field(default_factory=dict)
    hosts_file: str = ""
    termination_log: str = ""
    image_uid: int | None = None
    image_user: str = ""
    #: id of the container whose processes it shall see
    pid_target: str = ""


def labels(pod: Pod) -> dict[str, str]:
    """How a pod's sandbox and containers are found again."""
    meta = pod.metadata
    return {POD_NAME: meta.name, POD_NAMESPACE: meta.namespace, POD_UID: meta.uid}


def log_directory(pod: Pod, root: str = "/var/log/pods") -> str:
    meta = pod.metadata
    return f"{root}/{meta.namespace}_{meta.name}_{meta.uid}"


def log_path(container_name: str, attempt: int) -> str:
    """Below the pod's log directory."""
    return f"{container_name}/{attempt}.log"


# --- sandbox ----------------------------------------------------------------------------------------------


def sandbox_config(pod: Pod, node: Node, *, attempt: int = 0) -> cri.PodSandboxConfig:
    """Everything RunPodSandbox needs."""
    meta = pod.metadata
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=meta.name, uid=meta.uid, namespace=meta.namespace, attempt=attempt),
        hostname=hostname(pod, node.cluster_domain),
        log_directory=log_directory(pod, node.pod_logs),
        dns_config=dns_config(pod, node.cluster_dns, node.cluster_domain, node.resolver),
        port_mappings=_port_mappings(pod),
        labels=dict(meta.labels or {}) | labels(pod),
        annotations=dict(meta.annotations or {}),
        linux=cri.LinuxPodSandboxConfig(
            cgroup_parent=cgroups.pod_cgroup(node.cgroup_root, pod),
            security_context=security.sandbox_security(pod),
            sysctls=security.sysctls(pod),
        ),
    )


def hostname(pod: Pod, cluster_domain: str) -> str:
    """The name the pod sees as its own; "" on the host's network."""
    if pod.spec.host_network:
        return ""
    short = (pod.spec.hostname or pod.metadata.name)[:63].rstrip("-.")
    if pod.spec.subdomain and pod.spec.set_hostname_as_fqdn:
        full = f"{short}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"
        if len(full) > 64:
            raise ContainerConfigError(
                f'failed to construct FQDN from pod hostname and cluster domain, FQDN "{full}" is too long '
                f"(64 characters is the max, {len(full)} characters requested)",
                reason="FailedCreatePodSandBox",
            )
        return full
    return short


def _port_mappings(pod: Pod) -> Iterator[cri.PortMapping]:
    if pod.spec.host_network:
        return
    for container in every_container(pod):
        for port in container.ports or ():
            if port.host_port:
                yield cri.PortMapping(
                    protocol=_PROTOCOLS.get(port.protocol or "TCP", cri.TCP),
                    container_port=port.container_port,
                    host_port=port.host_port,
                    host_ip=port.host_ip,
                )


# --- containers -------------------------------------------------------------------------------------------


def container_config(
    pod: Pod, container: Container, node: Node, facts: PodFacts, made: ContainerFacts
) -> cri.ContainerConfig:
    """Everything CreateContainer needs; raises ContainerConfigError."""
    variables = environment(pod, container, facts)
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=container.name, attempt=made.attempt),
        image=cri.ImageSpec(image=made.image, user_specified_image=container.image),
        command=expand_all(container.command or (), variables),
        args=expand_all(container.args or (), variables),
        working_dir=container.working_dir,
        envs=_key_values(variables),
        mounts=_mounts(container, variables, made),
        labels=labels(pod) | {CONTAINER_NAME: container.name},
        annotations=_annotations(pod, container, made.attempt),
        log_path=log_path(container.name, made.attempt),
        stdin=bool(container.stdin),
        stdin_once=bool(container.stdin_once),
        tty=bool(container.tty),
        linux=cri.LinuxContainerConfig(
            resources=_resources(pod, container, node),
            security_context=security.container_security(
                pod,
                container,
                image=security.ImageUser(made.image_uid, made.image_user),
                default_seccomp=node.default_seccomp,
                seccomp_root=node.seccomp_root,
                pid_target=made.pid_target,
            ),
        ),
    )


def _key_values(variables: Mapping[str, str]) -> Iterator[cri.KeyValue]:
    return (cri.KeyValue(key=name, value=value.encode("utf-8", "surrogateescape")) for name, value in variables.items())


def _annotations(pod: Pod, container: Container, attempt: int) -> dict[str, str]:
    found = {
        CONTAINER_HASH: spec_hash(container),
        RESTART_COUNT: str(attempt),
        TERMINATION_PATH: container.termination_message_path,
        TERMINATION_POLICY: container.termination_message_policy,
    }
    if pod.spec.termination_grace_period_seconds is not None:
        found[GRACE_PERIOD] = str(pod.spec.termination_grace_period_seconds)
    return found


def _resources(pod: Pod, container: Container, node: Node) -> cri.LinuxContainerResources:
    quota, period = cgroups.cpu_quota(container) if node.cpu_quota else (0, 0)
    return cri.LinuxContainerResources(
        cpu_shares=cgroups.cpu_shares(container),
        cpu_quota=quota,
        cpu_period=period,
        memory_limit_in_bytes=cgroups.memory_bytes(container.resources.limits) or 0,
        oom_score_adj=cgroups.oom_score_adj(pod, container, node.memory_capacity),
    )


# --- mounts -----------------------------------------------------------------------------------------------


def sub_paths(pod: Pod, container: Container, facts: PodFacts) -> list[tuple[str, str]]:
    """(volume name, expanded subPath) of every mount that has one; the caller creates and checks each place."""
    variables = environment(pod, container, facts)
    pairs = ((mount.name, _sub_path(mount, variables)) for mount in container.volume_mounts or ())
    return [(name, inside) for name, inside in pairs if inside]


def _mounts(container: Container, variables: Mapping[str, str], made: ContainerFacts) -> Iterator[cri.Mount]:
    targets = {posixpath.normpath(mount.mount_path) for mount in container.volume_mounts or ()}
    for mount in container.volume_mounts or ():
        yield _volume_mount(container, mount, variables, made)
    if made.hosts_file and "/etc/hosts" not in targets:
        yield cri.Mount(
            container_path="/etc/hosts", host_path=made.hosts_file, readonly=security.readonly_root(container)
        )
    if made.termination_log and container.termination_message_path not in targets:
        yield cri.Mount(container_path=container.termination_message_path, host_path=made.termination_log)


def _volume_mount(
    container: Container, mount: VolumeMount, variables: Mapping[str, str], made: ContainerFacts
) -> cri.Mount:
    inside = _sub_path(mount, variables)
    source = made.sub_paths.get((mount.name, inside)) if inside else made.volumes.get(mount.name)
    if source is None:
        raise ContainerConfigError(f'cannot find volume "{mount.name}" to mount into container "{container.name}"')
    target = mount.mount_path if mount.mount_path.startswith("/") else f"/{mount.mount_path}"
    return cri.Mount(
        container_path=target,
        host_path=source,
        readonly=bool(mount.read_only),
        propagation=_propagation(container, mount),
    )


def _propagation(container: Container, mount: VolumeMount) -> cri.MountPropagation:
    wanted = mount.mount_propagation or "None"
    if wanted not in _PROPAGATION:
        raise ContainerConfigError(f'invalid MountPropagation mode: "{wanted}"')
    if wanted == "Bidirectional" and not security.privileged(container):
        raise ContainerConfigError("Bidirectional mount propagation is available only to privileged containers")
    return _PROPAGATION[wanted]


def _sub_path(mount: VolumeMount, variables: Mapping[str, str]) -> str:
    """The folder or file inside the volume that is mounted, "" for the whole of it."""
    inside = mount.sub_path
    if mount.sub_path_expr:
        inside = expand(mount.sub_path_expr, variables.get)
        if "$(" in inside:
            missing = inside[inside.index("$(") + 2 :].partition(")")[0]
            raise ContainerConfigError(f'missing value for "{missing}"')
    if inside.startswith("/"):
        raise ContainerConfigError(f"error SubPath `{inside}` must not be an absolute path")
    if ".." in inside.split("/"):
        raise ContainerConfigError(f"unable to provision SubPath `{inside}`: must not contain '..'")
    return inside
