"""A containerd of the site's own: private folders, socket, bridge and subnet; no other on the machine is touched.

For `app.py` and tests with real containers. It runs in its own session and outlives whoever started it, so pods
survive the agent; a later start adopts it. What a machine lacks is one sentence naming the Debian package.
"""

import asyncio
import ipaddress
import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.edgesite.container_traces import (
    children,
    existing_cgroups,
    existing_chains,
    filesystem,
    link,
    mounts_below,
    remove_cgroups,
    remove_chains,
    remove_empty_chains,
    remove_masquerading,
    route_into,
    run,
    runs,
    shims,
)
from edgehive.edgesite.images import PAUSE

log = logging.getLogger("edgehive.edgesite")

_PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_PLUGINS = ("loopback", "bridge", "host-local", "portmap")
#: The kernel's limit of a unix socket's path, less the closing zero.
_MAX_SOCKET_PATH = 107
_POLL_SECONDS = 0.05
#: How often a running containerd is looked at, and how long one that does not start is left alone.
_WATCH_SECONDS, _RETRY_SECONDS = 1.0, 10.0
_AT_ONCE = 4


class ContainerdUnavailable(Exception):
    """containerd cannot run here; the message says why and what to do."""


class PrivateContainerd:
    """`start()` runs or adopts it, `stop()` ends it with all pods; `async with` does both and leaves no trace."""

    def __init__(
        self,
        root: Path,
        *,
        bridge: str = "edgehive0",
        subnet: str = "10.89.0.0/24",
        ready_timeout: float = 30.0,
    ) -> None:
        self.root = root
        self.bridge = bridge
        self.subnet = str(ipaddress.ip_network(subnet))
        self.socket = root / "cd.sock"
        self.endpoint = f"unix://{self.socket}"
        self._config = root / "config.toml"
        self._log = root / "containerd.log"
        self._before = root / "host-before.json"
        self._ready_timeout = ready_timeout
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> "PrivateContainerd":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(purge=True)

    @property
    def pid(self) -> int | None:
        """The running process that uses our configuration, whoever started it."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and runs(entry, self._config):
                return int(entry.name)
        return None

    async def start(self) -> None:
        """Return when pods can be run; raises ContainerdUnavailable."""
        if await self._answers():
            await self._wait_ready()
            return
        plugins = preflight()
        if len(str(self.socket)) > _MAX_SOCKET_PATH:
            raise ContainerdUnavailable(f"{self.socket} is too long for a socket: choose a shorter data folder")
        other = route_into(self.subnet, but=self.bridge)
        if other:
            raise ContainerdUnavailable(f"subnet {self.subnet} is in use by interface {other}: choose another for pods")
        await asyncio.to_thread(self._prepare, plugins)
        self._process = await asyncio.to_thread(self._spawn)
        await self._wait_ready()

    async def stop(self, *, purge: bool = False) -> None:
        """Remove all pods, end the process, take its bridge and chains away; with `purge` its folder too."""
        if not await self._answers() and any(shims(self.root)):
            # Pods outlived their containerd: it comes back once more to take them down in order.
            with suppress(ContainerdUnavailable):
                await self.start()
        if await self._answers():
            await self._remove_pods()
        await self._end_process()
        await asyncio.to_thread(self._clean_host)
        if purge:
            await asyncio.to_thread(shutil.rmtree, self.root, ignore_errors=True)

    async def keep(self) -> None:
        """Start it again whenever it ends: pods have gone on meanwhile and are found again. Never returns."""
        while True:
            pid = self.pid
            while pid is not None and self._lives(pid):  # noqa: ASYNC110 - it may not be our child
                await asyncio.sleep(_WATCH_SECONDS)
            log.warning("containerd ended although nobody asked it to; starting it again (its log: %s)", self._log)
            try:
                await self.start()
            except ContainerdUnavailable as error:
                log.error("%s; trying again in %.0f s", error, _RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)

    async def kill(self) -> None:
        """End the process as a crash would: pods go on."""
        await self._end_process(signal.SIGKILL)

    # --- starting ---

    def _prepare(self, plugins: Path) -> None:
        for folder in (self.root, self.root / "cni" / "net.d", self.root / "opt"):
            folder.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        if not self._before.exists():
            before = {"chains": existing_chains(), "bridge": link(self.bridge), "cgroups": existing_cgroups()}
            self._before.write_text(json.dumps(before))
        # In place and before the start: containerd 1.6 misses a file that is renamed into the folder.
        (self.root / "cni" / "net.d" / "10-edgehive.conflist").write_text(
            json.dumps(network_config(self.root, self.bridge, self.subnet), indent=2)
        )
        self._config.write_text(containerd_config(self.root, plugins))

    def _spawn(self) -> "subprocess.Popen[bytes]":
        binary = shutil.which("containerd") or "containerd"
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - a fixed program, no shell
                [binary, "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )

    async def _wait_ready(self) -> None:
        """Until the runtime and its network say ready; a process that ends meanwhile is reported with its log."""
        try:
            async with asyncio.timeout(self._ready_timeout):
                while (trouble := await self._trouble()) is not None:
                    if self._process is not None and self._process.poll() is not None:
                        raise ContainerdUnavailable(f"containerd ended at its start: {self._last_words()}")
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            trouble = await self._trouble()
            raise ContainerdUnavailable(
                f"containerd is not ready after {self._ready_timeout:.0f} s ({trouble}); see {self._log}"
            ) from None

    async def _trouble(self) -> str | None:
        async with CriClient(self.endpoint) as client:
            try:
                status = await client.status()
            except RuntimeRefused as error:
                return str(error)
        wrong = [item for item in status.status.conditions if not item.status]
        return "; ".join(f"{item.type}: {item.message or item.reason}" for item in wrong) or None

    async def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        async with CriClient(self.endpoint) as client:
            try:
                await client.version()
            except RuntimeRefused:
                return False
        return True

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-3:] if self._log.exists() else []
        return " / ".join(lines) or f"nothing in {self._log}"

    # --- stopping ---

    async def _remove_pods(self) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        async with CriClient(self.endpoint) as client, asyncio.TaskGroup() as group:

            async def remove(sandbox_id: str) -> None:
                async with slots:
                    try:
                        await client.stop_pod_sandbox(sandbox_id)
                        await client.remove_pod_sandbox(sandbox_id)
                    except RuntimeRefused:
                        # Its processes and mounts are dealt with below, together with containerd's.
                        return

            for sandbox in await client.list_pod_sandboxes():
                group.create_task(remove(sandbox.id))

    async def _end_process(self, how: signal.Signals = signal.SIGTERM, patience: float = 10.0) -> None:
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, how)
        try:
            async with asyncio.timeout(patience):
                await self._gone(pid)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            await self._gone(pid)

    async def _gone(self, pid: int) -> None:
        while self._lives(pid):  # noqa: ASYNC110 - a process that is not our child tells nobody of its end
            await asyncio.sleep(_POLL_SECONDS)

    def _lives(self, pid: int) -> bool:
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is None
        return runs(Path(f"/proc/{pid}"), self._config)

    def _clean_host(self) -> None:
        for shim in shims(self.root):
            for process in (*children(shim), shim):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        for mount in mounts_below(self.root):
            run("umount", "-l", mount)
        if not self._before.exists():
            return
        before: dict[str, Any] = json.loads(self._before.read_text())
        if not before["bridge"] and link(self.bridge):
            run("ip", "link", "delete", self.bridge)
        remove_masquerading(self.bridge)
        remove_chains(kept=before["chains"])
        remove_empty_chains(kept=before["chains"])
        remove_cgroups(kept=before.get("cgroups", ()))
        self._before.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)


# --- what the machine has ---------------------------------------------------------------------------------


def preflight() -> Path:
    """The CNI plugins' folder; raises ContainerdUnavailable naming everything that is missing."""
    packages = {"containerd": "containerd", "runc": "runc", "iptables": "iptables", "ip": "iproute2"}
    missing = [package for program, package in packages.items() if shutil.which(program) is None]
    plugins = next((path for path in _PLUGIN_FOLDERS if all((path / name).exists() for name in _PLUGINS)), None)
    if plugins is None:
        missing.append("containernetworking-plugins")
    if missing:
        raise ContainerdUnavailable(
            f"cannot run containers here: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    if os.geteuid() != 0:
        raise ContainerdUnavailable("cannot run containers here: containerd needs root; run this as root")
    return plugins or _PLUGIN_FOLDERS[0]


# --- configuration ----------------------------------------------------------------------------------------


def network_config(root: Path, bridge: str, subnet: str) -> Mapping[str, object]:
    """The CNI network: one bridge, addresses from the subnet, host ports; `loopback` is containerd's own affair."""
    ipam = {
        "type": "host-local", "dataDir": str(root / "cni" / "data"),
        "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}],
    }  # fmt: skip
    return {
        "cniVersion": "0.4.0",
        "name": bridge,
        "plugins": [
            {"type": "bridge", "bridge": bridge, "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def containerd_config(root: Path, plugins: Path) -> str:
    """config.toml: everything below `root`, as little as possible of the machine's."""
    # An overlay on an overlay is refused by the kernel: inside another container files are copied instead.
    snapshotter = "native" if filesystem(root.resolve()) in ("overlay", "aufs") else "overlayfs"
    apparmor = Path("/sys/module/apparmor/parameters/enabled")
    with_apparmor = apparmor.exists() and apparmor.read_text().startswith("Y") and shutil.which("apparmor_parser")
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{root}/root"
state = "{root}/state"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.restart", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{root}/cd.sock"
[ttrpc]
  address = "{root}/cd.ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[{cri}]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE no process may be given a lower score than its parent's.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_apparmor = {"false" if with_apparmor else "true"}
  enable_selinux = false
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [{cri}.cni]
    bin_dir = "{plugins}"
    conf_dir = "{root}/cni/net.d"
    max_conf_num = 1
  [{cri}.containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{cri}.containerd.runtimes.runc.options]
        BinaryName = "{shutil.which("runc") or "runc"}"
        Root = "{root}/runcroot"
        SystemdCgroup = false
"""
