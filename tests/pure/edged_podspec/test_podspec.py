"""What CRI is told for a pod: names, logs, network, mounts, resources, confinement."""

from typing import Any

import msgspec
import pytest

from edgehive.api.core import Pod
from edgehive.edgecore.edged import cgroups
from edgehive.edgecore.edged.podspec import (
    ContainerConfigError,
    ContainerFacts,
    Node,
    PodFacts,
    container_config,
    sandbox_config,
    sub_paths,
)
from edgehive.edgecore.edged.resolver import Resolver, parse_resolv_conf
from edgehive.protos import cri_pb2 as cri

NODE = Node(
    cluster_dns=("10.96.0.10",),
    resolver=Resolver(("1.1.1.1",), ("corp",), ("timeout:2",)),
    memory_capacity=2**30,
    cgroup_root="/edgehive",
)


def pod(*containers: dict[str, Any], **spec: Any) -> Pod:
    made = [{"name": "c", "image": "i", **container} for container in containers or ({},)]
    body = {
        "metadata": {
            "name": "web-1", "namespace": "ns", "uid": "u1", "labels": {"app": "web"}, "annotations": {"note": "n"},
        },
        "spec": {"containers": made, **spec},
    }  # fmt: skip
    return msgspec.convert(body, Pod)


def container(made: Pod, node: Node = NODE, **facts: Any) -> cri.ContainerConfig:
    return container_config(made, made.spec.containers[0], node, PodFacts(), ContainerFacts(image="sha256:1", **facts))


def security(own: dict[str, Any], **spec: Any) -> cri.LinuxContainerSecurityContext:
    return container(pod({"securityContext": own}, **spec)).linux.security_context


# --- sandbox ---


def test_sandbox_is_named_and_labelled_for_finding_it_again() -> None:
    made = sandbox_config(pod(), NODE, attempt=3)
    assert (made.metadata.name, made.metadata.namespace, made.metadata.uid, made.metadata.attempt) == (
        "web-1", "ns", "u1", 3,
    )  # fmt: skip
    assert dict(made.labels) == {
        "app": "web", "io.kubernetes.pod.name": "web-1", "io.kubernetes.pod.namespace": "ns",
        "io.kubernetes.pod.uid": "u1",
    }  # fmt: skip
    assert dict(made.annotations) == {"note": "n"}
    assert made.log_directory == "/var/log/pods/ns_web-1_u1"
    assert made.linux.cgroup_parent == "/edgehive/besteffort/podu1"


@pytest.mark.parametrize(("spec", "name"), [
    ({}, "web-1"), ({"hostname": "own"}, "own"), ({"hostNetwork": True}, ""), ({"hostname": "a" * 62 + "-b"}, "a" * 62),
    ({"subdomain": "sub", "setHostnameAsFQDN": True}, "web-1.sub.ns.svc.cluster.local"),
])  # fmt: skip
def test_hostname(spec: dict[str, Any], name: str) -> None:
    assert sandbox_config(pod(**spec), NODE).hostname == name


def test_host_ports_of_all_containers_are_mapped_unless_the_network_is_the_hosts() -> None:
    ports = [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}]
    made = sandbox_config(pod({"ports": ports}, {"ports": [{"containerPort": 1}]}), NODE)
    assert [(p.protocol, p.container_port, p.host_port) for p in made.port_mappings] == [
        (cri.TCP, 80, 8080), (cri.UDP, 53, 53),
    ]  # fmt: skip
    assert not sandbox_config(pod({"ports": ports}, hostNetwork=True), NODE).port_mappings


@pytest.mark.parametrize(("spec", "servers", "searches", "options"), [
    ({}, ["10.96.0.10"], ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp"], ["ndots:5"]),
    ({"hostNetwork": True}, ["1.1.1.1"], ["corp"], ["timeout:2"]),
    ({"dnsPolicy": "Default"}, ["1.1.1.1"], ["corp"], ["timeout:2"]),
    (
        {"dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "e"}],
        }},
        ["9.9.9.9"], ["x"], ["ndots:2", "e"],
    ),
    (
        {"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True,
         "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}},
        ["10.96.0.10"], ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp"], ["ndots:1"],
    ),
])  # fmt: skip
def test_dns(spec: dict[str, Any], servers: list[str], searches: list[str], options: list[str]) -> None:
    dns = sandbox_config(pod(**spec), NODE).dns_config
    assert (list(dns.servers), list(dns.searches), list(dns.options)) == (servers, searches, options)


def test_without_cluster_dns_pods_use_the_nodes() -> None:
    dns = sandbox_config(pod(), Node(resolver=parse_resolv_conf("nameserver 8.8.8.8 # x\nsearch a. b\n"))).dns_config
    assert (list(dns.servers), list(dns.searches)) == (["8.8.8.8"], ["a", "b"])
    assert not sandbox_config(pod(), Node()).HasField("dns_config")


@pytest.mark.parametrize(("spec", "namespaces"), [
    ({}, (cri.POD, cri.CONTAINER, cri.POD)),
    ({"hostNetwork": True, "hostPID": True, "hostIPC": True}, (cri.NODE, cri.NODE, cri.NODE)),
    ({"shareProcessNamespace": True}, (cri.POD, cri.POD, cri.POD)),
])  # fmt: skip
def test_namespaces_are_the_same_for_sandbox_and_containers(spec: dict[str, Any], namespaces: tuple[int, ...]) -> None:
    made = pod(**spec)
    sandbox = sandbox_config(made, NODE).linux.security_context.namespace_options
    assert (sandbox.network, sandbox.pid, sandbox.ipc) == namespaces
    assert container(made).linux.security_context.namespace_options == sandbox


# --- container ---


def test_container_is_named_labelled_and_logged() -> None:
    made = container(pod({"workingDir": "/w"}, terminationGracePeriodSeconds=7), attempt=2)
    assert (made.metadata.name, made.metadata.attempt, made.image.image) == ("c", 2, "sha256:1")
    assert made.log_path == "c/2.log"
    assert made.working_dir == "/w"
    assert made.labels["io.kubernetes.container.name"] == "c"
    assert "app" not in made.labels
    assert made.annotations["io.kubernetes.container.restartCount"] == "2"
    assert made.annotations["io.kubernetes.pod.terminationGracePeriod"] == "7"
    assert made.annotations["io.kubernetes.container.hash"]


def test_command_and_arguments_are_expanded() -> None:
    made = container(pod({"command": ["$(A)"], "args": ["-x", "$(B)"], "env": [{"name": "A", "value": "run"}]}))
    assert (list(made.command), list(made.args)) == (["run"], ["-x", "$(B)"])
    assert [(item.key, item.value) for item in made.envs] == [("A", b"run")]


def test_volumes_files_and_sub_paths_are_mounted() -> None:
    mounts = [
        {"name": "v", "mountPath": "/data", "readOnly": True},
        {"name": "v", "mountPath": "/sub", "subPathExpr": "$(A)/x", "mountPropagation": "HostToContainer"},
    ]
    made = pod({"volumeMounts": mounts, "env": [{"name": "A", "value": "a"}]})
    assert sub_paths(made, made.spec.containers[0], PodFacts()) == [("v", "a/x")]
    config = container(
        made, volumes={"v": "/vol"}, sub_paths={("v", "a/x"): "/vol/a/x"}, hosts_file="/etc-hosts",
        termination_log="/tlog",
    )  # fmt: skip
    assert [(m.container_path, m.host_path, m.readonly, m.propagation) for m in config.mounts] == [
        ("/data", "/vol", True, cri.PROPAGATION_PRIVATE),
        ("/sub", "/vol/a/x", False, cri.PROPAGATION_HOST_TO_CONTAINER),
        ("/etc/hosts", "/etc-hosts", False, cri.PROPAGATION_PRIVATE),
        ("/dev/termination-log", "/tlog", False, cri.PROPAGATION_PRIVATE),
    ]


def test_a_volume_over_etc_hosts_wins() -> None:
    config = container(
        pod({"volumeMounts": [{"name": "v", "mountPath": "/etc/hosts/"}]}), volumes={"v": "/mine"}, hosts_file="/x"
    )
    assert [mount.host_path for mount in config.mounts] == ["/mine"]


@pytest.mark.parametrize(("mount", "message"), [
    ({"name": "v", "mountPath": "/x"}, 'cannot find volume "v" to mount into container "c"'),
    ({"name": "v", "mountPath": "/x", "subPath": "a/../../b"}, "must not contain '..'"),
    ({"name": "v", "mountPath": "/x", "subPath": "/a"}, "must not be an absolute path"),
    ({"name": "v", "mountPath": "/x", "subPathExpr": "$(NONE)"}, 'missing value for "NONE"'),
])  # fmt: skip
def test_mounts_that_cannot_be(mount: dict[str, Any], message: str) -> None:
    with pytest.raises(ContainerConfigError) as refused:
        container(pod({"volumeMounts": [mount]}))
    assert message in str(refused.value)
    assert refused.value.reason == "CreateContainerConfigError"


def test_bidirectional_propagation_needs_privilege() -> None:
    mount = {"name": "v", "mountPath": "/x", "mountPropagation": "Bidirectional"}
    with pytest.raises(ContainerConfigError, match="available only to privileged"):
        container(pod({"volumeMounts": [mount]}), volumes={"v": "/v"})
    made = container(pod({"volumeMounts": [mount], "securityContext": {"privileged": True}}), volumes={"v": "/v"})
    assert made.mounts[0].propagation == cri.PROPAGATION_BIDIRECTIONAL


@pytest.mark.parametrize(("resources", "shares", "quota", "memory", "oom", "qos"), [
    ({}, 2, 0, 0, 1000, "BestEffort"),
    ({"requests": {"cpu": "250m", "memory": "512Mi"}}, 256, 0, 0, 500, "Burstable"),
    ({"limits": {"cpu": "500m", "memory": "64Mi"}}, 512, 50000, 2**26, -997, "Guaranteed"),
    ({"limits": {"cpu": "1m"}, "requests": {"cpu": "1m"}}, 2, 1000, 0, 999, "Burstable"),
    ({"limits": {"cpu": 2, "memory": 1e6}, "requests": {"cpu": 1}}, 1024, 200000, 1000000, 999, "Burstable"),
])  # fmt: skip
def test_resources(resources: dict[str, Any], shares: int, quota: int, memory: int, oom: int, qos: str) -> None:
    made = pod({"resources": resources})
    linux = container(made).linux.resources
    assert (linux.cpu_shares, linux.cpu_quota, linux.memory_limit_in_bytes) == (shares, quota, memory)
    assert linux.oom_score_adj == pytest.approx(oom, abs=1)
    assert cgroups.qos_class(made).value == qos


def test_critical_pods_die_last() -> None:
    assert container(pod(priority=2_000_001_000)).linux.resources.oom_score_adj == -997


def test_emptied_pod_cgroups_are_removed(tmp_path: Any) -> None:
    for controller in ("cpu", "memory"):
        (tmp_path / controller / "edgehive" / "burstable" / "podu1").mkdir(parents=True)
    (tmp_path / "memory" / "edgehive" / "podu2").mkdir()
    cgroups.remove_pod_cgroup("/edgehive", "u1", mount=tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("pod*")) == ["podu2"]


# --- confinement ---


def test_users_groups_and_capabilities() -> None:
    own = {"runAsUser": 5, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "allowPrivilegeEscalation": False}
    shared = {"runAsUser": 9, "runAsGroup": 6, "fsGroup": 7, "supplementalGroups": [8]}
    made = security(own, securityContext=shared)
    assert (made.run_as_user.value, made.run_as_group.value) == (5, 6)
    assert list(made.supplemental_groups) == [7, 8]
    assert list(made.capabilities.add_capabilities) == ["NET_ADMIN"]
    assert list(made.capabilities.drop_capabilities) == ["ALL"]
    assert made.no_new_privs


def test_nobody_is_said_where_the_image_decides() -> None:
    made = security({})
    assert not made.HasField("run_as_user")
    assert not made.no_new_privs
    assert "/proc/kcore" in made.masked_paths
    assert "/proc/sys" in made.readonly_paths


def test_privileged_containers_see_everything() -> None:
    made = security({"privileged": True})
    assert made.privileged
    assert not made.masked_paths


@pytest.mark.parametrize(("own", "shared", "profile"), [
    (None, None, cri.SecurityProfile.Unconfined),
    ("RuntimeDefault", None, cri.SecurityProfile.RuntimeDefault),
    (None, "RuntimeDefault", cri.SecurityProfile.RuntimeDefault),
    ("Unconfined", "RuntimeDefault", cri.SecurityProfile.Unconfined),
])  # fmt: skip
def test_seccomp(own: str | None, shared: str | None, profile: int) -> None:
    made = security(
        {"seccompProfile": {"type": own}} if own else {},
        securityContext={"seccompProfile": {"type": shared}} if shared else {},
    )
    assert made.seccomp.profile_type == profile


def test_local_seccomp_profiles_lie_below_the_nodes_folder() -> None:
    made = security({"seccompProfile": {"type": "Localhost", "localhostProfile": "my.json"}})
    assert made.seccomp.localhost_ref == "/var/lib/kubelet/seccomp/my.json"


@pytest.mark.parametrize(("own", "facts", "message"), [
    ({}, {}, "image will run as root"),
    ({}, {"image_uid": 0}, "image will run as root"),
    ({}, {"image_user": "app"}, "non-numeric user (app)"),
    ({"runAsUser": 0}, {}, "breaks non-root policy"),
])  # fmt: skip
def test_run_as_non_root_is_verified(own: dict[str, Any], facts: dict[str, Any], message: str) -> None:
    made = pod({"securityContext": {"runAsNonRoot": True, **own}})
    with pytest.raises(ContainerConfigError) as refused:
        container(made, **facts)
    assert message in str(refused.value)


def test_run_as_non_root_is_content_with_another_user() -> None:
    assert container(pod({"securityContext": {"runAsNonRoot": True}}), image_uid=1000)
    assert container(pod({"securityContext": {"runAsNonRoot": True, "runAsUser": 1}}))


def test_sandbox_runs_as_the_pods_user_and_privileged_with_its_containers() -> None:
    made = sandbox_config(
        pod({"securityContext": {"privileged": True}}, securityContext={"runAsUser": 5, "runAsGroup": 6}), NODE
    ).linux.security_context
    assert (made.privileged, made.run_as_user.value, made.run_as_group.value) == (True, 5, 6)
    alone = sandbox_config(pod(securityContext={"runAsGroup": 6}), NODE).linux.security_context
    assert not alone.HasField("run_as_group")


def test_sysctls_are_written_with_dots() -> None:
    made = sandbox_config(pod(securityContext={"sysctls": [{"name": "net/ipv4/x", "value": "1"}]}), NODE)
    assert dict(made.linux.sysctls) == {"net.ipv4.x": "1"}
