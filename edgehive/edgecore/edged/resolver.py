"""A pod's name resolution: dnsPolicy, dnsConfig and the node's resolv.conf -> CRI's DNSConfig. Pure.

For `podspec.py`. The caller reads the node's file and hands in its text through `parse_resolv_conf`.
Go: pkg/kubelet/network/dns/dns.go
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgehive.api.core import Pod
from edgehive.protos import cri_pb2 as cri

_MAX_SERVERS = 3
_MAX_SEARCHES = 32


@dataclass(frozen=True, slots=True)
class Resolver:
    """What a resolv.conf says."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> Resolver:
    """Read resolv.conf(5): later `search` lines replace earlier ones, comments are skipped."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.partition("#")[0].partition(";")[0].split()
        match words:
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search" | "domain", *names]:
                searches = [name.removesuffix(".") or "." for name in names]
            case ["options", *names]:
                options = names
    return Resolver(tuple(servers), tuple(searches), tuple(options))


def dns_config(pod: Pod, cluster_dns: Sequence[str], cluster_domain: str, node: Resolver) -> cri.DNSConfig | None:
    """The sandbox's resolv.conf; None leaves the runtime's default, a copy of the node's."""
    base = _by_policy(pod, cluster_dns, cluster_domain, node)
    added = pod.spec.dns_config
    if added is not None:
        base = Resolver(
            servers=_unique([*base.servers, *(added.nameservers or ())]),
            searches=_unique([*base.searches, *(added.searches or ())]),
            options=_merge_options(base.options, [_option(o.name, o.value) for o in added.options or ()]),
        )
    if base == Resolver():
        return None
    return cri.DNSConfig(
        servers=base.servers[:_MAX_SERVERS], searches=base.searches[:_MAX_SEARCHES], options=base.options
    )


def _by_policy(pod: Pod, cluster_dns: Sequence[str], cluster_domain: str, node: Resolver) -> Resolver:
    policy = pod.spec.dns_policy
    if policy == "None":
        return Resolver()
    wants_cluster = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.spec.host_network)
    if not wants_cluster or not cluster_dns:
        return node
    own = []
    if cluster_domain:
        service = f"svc.{cluster_domain}"
        own = [f"{pod.metadata.namespace}.{service}", service, cluster_domain]
    return Resolver(tuple(cluster_dns), _unique([*own, *node.searches]), ("ndots:5",))


def _option(name: str, value: str | None) -> str:
    return f"{name}:{value}" if value else name


def _merge_options(base: Iterable[str], added: Iterable[str]) -> tuple[str, ...]:
    """One entry per option name; the pod's own win."""
    return tuple({text.partition(":")[0]: text for text in (*base, *added)}.values())


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
