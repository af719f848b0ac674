"""What this machine is: its address, size, system and free resources, read from the kernel.

For `node.py` and `edged.py`. Linux only; nothing is cached here.
"""

import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

from edgehive.edgecore.edged.eviction import Amount

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64"}


@dataclass(frozen=True, slots=True)
class System:
    """The parts of nodeInfo the kernel and /etc know."""

    machine_id: str
    boot_id: str
    kernel: str
    os_image: str
    architecture: str


def system() -> System:
    return System(
        machine_id=_text("/etc/machine-id") or _text("/var/lib/dbus/machine-id"),
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        kernel=platform.release(),
        os_image=_os_image(),
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
    )


def amounts(root: Path, images: Path | None = None) -> dict[str, Amount]:
    """Eviction signals: memory, the disk under `root`, and the one under `images` if that is another."""
    memory = _meminfo()
    place = _nearest(root)
    found = {"memory.available": Amount(memory.get("MemTotal", 0), memory.get("MemAvailable", 0))}
    found |= _disk("nodefs", place)
    if images is not None and images.exists() and images.stat().st_dev != place.stat().st_dev:
        found |= _disk("imagefs", images)
    return found


def _disk(name: str, place: Path) -> dict[str, Amount]:
    disk = os.statvfs(place)
    found = {f"{name}.available": Amount(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)}
    if disk.f_files:
        found[f"{name}.inodesFree"] = Amount(disk.f_files, disk.f_favail)
    return found


def cpus() -> int:
    """As many as this process may use."""
    return len(os.sched_getaffinity(0)) or 1


def address(interface: str = "") -> str:
    """The IPv4 address of this interface, else the one the default route starts from, else 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            if interface:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            # Connecting a datagram socket sends nothing; it makes the kernel choose a route.
            probe.connect(("192.0.2.1", 9))
            found = str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
    return found if found != "0.0.0.0" else "127.0.0.1"  # noqa: S104


def _meminfo() -> dict[str, int]:
    rows = (line.split() for line in _text("/proc/meminfo").splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 2 and row[2] == "kB"}


def _os_image() -> str:
    for line in _text("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "Linux"


def _nearest(path: Path) -> Path:
    """The path or the closest parent that exists."""
    return next((item for item in (path, *path.parents) if item.exists()), Path("/"))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
