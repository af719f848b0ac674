"""The rules that lead the port of edge nodes to cloudcore's stream port, as arguments of `iptables`. Pure.

They stand in a chain of their own in table nat, to which OUTPUT and PREROUTING jump: connections of this machine and
of pods on it. Go's manager does the same in its chain TUNNEL-PORT; both may stand side by side.

Go: cloud/pkg/cloudstream/iptables/iptables.go
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple

CHAIN = "EDGEHIVE-TUNNEL-PORT"
SOURCES = ("OUTPUT", "PREROUTING")
JUMP = ("-m", "comment", "--comment", "edgehive tunnel port", "-j", CHAIN)

#: By IP version.
PROGRAMS: Mapping[int, str] = {4: "iptables", 6: "ip6tables"}


class Redirect(NamedTuple):
    """Connections to `port`, at whatever address, go to `destination`, an address and a port."""

    port: int
    destination: str

    @property
    def rule(self) -> tuple[str, ...]:
        return ("-p", "tcp", "-m", "tcp", "--dport", str(self.port), "-j", "DNAT", "--to-destination", self.destination)


def redirects(by_address: Mapping[str, int], stream_port: int) -> dict[int, list[Redirect]]:
    """What the record of tunnel ports wants, by IP version; entries that are no addresses want nothing."""
    wanted: dict[int, list[Redirect]] = {version: [] for version in PROGRAMS}
    for address, port in sorted(by_address.items()):
        try:
            version = ipaddress.ip_address(address).version
        except ValueError:
            continue
        host = f"[{address}]" if version == 6 else address
        wanted[version].append(Redirect(port, f"{host}:{stream_port}"))
    return wanted


def unusable(by_address: Iterable[str]) -> list[str]:
    """Entries a rule cannot lead to."""
    return [address for address in by_address if not _is_address(address)]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def listed(printed: str) -> dict[tuple[str, ...], Redirect | None]:
    """The rules of the chain as `iptables -S CHAIN` prints them, and what each redirects; None for a foreign one."""
    found: dict[tuple[str, ...], Redirect | None] = {}
    for line in printed.splitlines():
        words = tuple(line.split())
        if words[:2] == ("-A", CHAIN):
            found[words[2:]] = _redirect(words[2:])
    return found


def _redirect(rule: tuple[str, ...]) -> Redirect | None:
    values = dict(zip(rule[::2], rule[1::2], strict=False))
    port, destination = values.get("--dport", ""), values.get("--to-destination", "")
    return Redirect(int(port), destination) if port.isdecimal() and destination else None
