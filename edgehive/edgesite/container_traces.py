"""What containers leave on a machine: processes, mounts, routes, firewall chains, cgroups; finding and removing it.

For `containerd.py`. Only what names our own folder, bridge or chains is touched; what was there before stays.
"""

import ipaddress
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_HOSTPORT_CHAINS = ("CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ")
_POD_CHAIN = re.compile(r"CNI-(DN-|SN-)?[0-9a-f]{20,24}")
#: Where the runtime and edged put containers, inner folders first.
_CGROUPS = ("kubepods/burstable", "kubepods/besteffort", "kubepods", "k8s.io")


def runs(entry: Path, config: Path) -> bool:
    """The process of this /proc entry is a living containerd with our configuration."""
    try:
        words = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.path.basename(words[0]) == b"containerd" and os.fsencode(config) in words


def shims(root: Path) -> Iterable[int]:
    """Shims left over by a containerd that could not end its pods: they name our socket."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.path.basename(words[0]).startswith(b"containerd-shim") and os.fsencode(root / "cd.sock") in words:
            yield int(entry.name)


def children(pid: int) -> Iterable[int]:
    """A shim's containers: the first process of each is its child."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold blanks; after it come state and parent.
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(entry.name)


def existing_cgroups() -> list[str]:
    """The containers' cgroup trees that are there already, in any hierarchy."""
    return [name for name in _CGROUPS if any(path.exists() for path in _cgroup_folders(name))]


def _cgroup_folders(name: str) -> list[Path]:
    """A cgroup's folder in the one hierarchy of cgroup v2, or in each of v1."""
    mount = Path("/sys/fs/cgroup")
    return [mount / name, *(base / name for base in mount.iterdir() if base.is_dir())]


def remove_cgroups(kept: Iterable[str]) -> None:
    """Remove the trees we made, where nothing lives in them."""
    for name in _CGROUPS:
        for folder in _cgroup_folders(name) if name.partition("/")[0] not in set(kept) else ():
            with suppress(OSError):
                folder.rmdir()


def mounts_below(root: Path) -> list[str]:
    """Mount points inside the folder, innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return sorted((point for point in points if point.startswith(f"{root}/")), key=len, reverse=True)


def filesystem(path: Path) -> str:
    """The type of the file system a folder lies on."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4]
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind


def link(name: str) -> bool:
    """Asked of the kernel: /sys may show another network namespace's interfaces."""
    return any(name == known for _, known in socket.if_nameindex())


def route_into(subnet: str, *, but: str) -> str:
    """Another interface with a route into the subnet; "" when there is none."""
    wanted = ipaddress.ip_network(subnet)
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        name, destination, _, _, _, _, _, mask, *_ = line.split()
        # The kernel writes both in the machine's byte order.
        address = int(destination, 16).to_bytes(4, sys.byteorder)
        length = int(mask, 16).bit_count()
        if name != but and length and ipaddress.ip_network((address, length)).overlaps(wanted):
            return name
    return ""


def existing_chains() -> list[str]:
    """Chains of CNI plugins, whoever made them."""
    listing = run("iptables", "-w", "-t", "nat", "-S").splitlines()
    chains = [line.removeprefix("-N ") for line in listing if line.startswith("-N ")]
    return [chain for chain in chains if chain in _HOSTPORT_CHAINS or _POD_CHAIN.fullmatch(chain)]


def remove_chains(kept: Iterable[str]) -> None:
    """Take portmap's chains away, unless they were there before us or somebody's ports are still in them."""
    listing = run("iptables", "-w", "-t", "nat", "-S").splitlines()
    chains = [chain for chain in _HOSTPORT_CHAINS if f"-N {chain}" in listing and chain not in set(kept)]
    if any(line.startswith("-A CNI-HOSTPORT-DNAT ") for line in listing):
        return
    for line in listing:
        words = line.split()
        if words[0] == "-A" and words[-1] in chains:
            run("iptables", "-w", "-t", "nat", "-D", *_unquoted(line)[1:])
    for chain in chains:
        run("iptables", "-w", "-t", "nat", "-F", chain)
    for chain in chains:
        run("iptables", "-w", "-t", "nat", "-X", chain)


def remove_masquerading(network: str) -> None:
    """Take away the chains of pods whose network nobody undid, since their namespace went first."""
    listing = run("iptables", "-w", "-t", "nat", "-S").splitlines()
    rules = [words for line in listing if (words := _unquoted(line))[0] == "-A"]
    ours = {words[1] for words in rules if words[1].startswith("CNI-") and _names(words, network)}
    for words in rules:
        if words[-1] in ours:
            run("iptables", "-w", "-t", "nat", "-D", *words[1:])
    for chain in sorted(ours):
        run("iptables", "-w", "-t", "nat", "-F", chain)
        run("iptables", "-w", "-t", "nat", "-X", chain)


def remove_empty_chains(kept: Iterable[str]) -> None:
    """Take away what a plugin leaves that was killed between two of its steps: a pod's chain without rules or use.

    Such a chain names nobody; it was not there before us, and it does nothing.
    """
    listing = run("iptables", "-w", "-t", "nat", "-S").splitlines()
    used = {word for line in listing if line.startswith("-A ") for word in line.split()}
    for chain in (line.removeprefix("-N ") for line in listing if line.startswith("-N ")):
        if _POD_CHAIN.fullmatch(chain) and chain not in used and chain not in set(kept):
            run("iptables", "-w", "-t", "nat", "-X", chain)


def _names(rule: list[str], network: str) -> bool:
    return any(word.startswith(f'name: "{network}" id: ') for word in rule)


def _unquoted(rule: str) -> list[str]:
    """A rule of `iptables -S` as arguments; comments are quoted there."""
    return shlex.split(rule)


def run(*command: str) -> str:
    """A system program's output; "" when it fails, since clean-up goes on."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
