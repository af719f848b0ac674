"""Module `iptablesManager`: has this machine lead the port of edge nodes to the cloudcores, as Go's does.

For kube-apiservers on this machine where nodes do not advertise the cloud themselves (cloudStream.kubeletEndpoint:
iptables). The ports stand in a record that all cloudcores share. What it wrote goes with it when it stops.

Go: cloud/pkg/cloudstream/iptables/iptables.go
"""

import asyncio
import logging
from collections.abc import Mapping

from edgehive.api.registry import CONFIG_MAPS
from edgehive.beehive.module import Ready
from edgehive.cloudcore import tunnelport
from edgehive.cloudcore.iptables.iptables import Iptables, IptablesFailed, Missing
from edgehive.cloudcore.iptables.rules import PROGRAMS, Redirect, redirects, unusable
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, NotFound
from edgehive.wire.names import CloudModule

log = logging.getLogger("edgehive.iptables")

#: As often as Go's looks: others flush tables, and cloudcores come and go.
ROUND_SECONDS = 10.0
REMOVE_SECONDS = 5.0


class IptablesManager:
    """See the file's head. `programs` run iptables, by IP version."""

    name: str = CloudModule.IPTABLES_MANAGER
    group: str = CloudModule.IPTABLES_MANAGER
    needs: tuple[str, ...] = ()

    def __init__(self, client: Client, stream_port: int, programs: Mapping[int, Iptables] | None = None) -> None:
        self._client = client
        self._stream_port = stream_port
        self._programs = programs or {version: Iptables(program) for version, program in PROGRAMS.items()}
        self._used: set[int] = set()
        self._told = ""

    async def run(self, ready: Ready) -> None:
        ready()
        try:
            while True:
                await self._round()
                await asyncio.sleep(ROUND_SECONDS)
        finally:
            await self._remove()

    async def _round(self) -> None:
        try:
            record = await self._record()
            if record is None:
                self._say("")
                return
            wanted = redirects(record.by_address, self._stream_port)
            for version, items in wanted.items():
                await self._hold(version, items)
            strange = ", ".join(unusable(record.by_address))
            self._say(f"the tunnel ports of {strange} need an IP address as advertiseAddress" if strange else "")
        except Missing as error:
            self._say(f"{error}: install it, or let nodes advertise the cloud (cloudStream.kubeletEndpoint: advertise)")
        except IptablesFailed as error:
            self._say(f"{error}; changing rules needs root or the capability NET_ADMIN")
        except (ApiError, tunnelport.NoTunnelPort) as error:
            self._say(str(error))

    async def _record(self) -> tunnelport.Record | None:
        """None while no cloudcore has a port; then nothing is touched."""
        try:
            return tunnelport.record_of(await self._client.get(CONFIG_MAPS, tunnelport.NAME, tunnelport.NAMESPACE))
        except NotFound:
            return None

    async def _hold(self, version: int, wanted: list[Redirect]) -> None:
        # A machine without IPv6 need not have its program.
        if not wanted and version not in self._used:
            return
        self._used.add(version)
        if await self._programs[version].hold(wanted):
            log.info("connections to %s are led to cloudcore",
                     ", ".join(f"port {item.port}: {item.destination}" for item in wanted) or "no port")  # fmt: skip

    async def _remove(self) -> None:
        for version in self._used:
            try:
                async with asyncio.timeout(REMOVE_SECONDS):
                    await self._programs[version].remove()
            except (IptablesFailed, TimeoutError) as error:
                log.warning("rules are left behind in table nat: %s", error or "no answer in time")

    def _say(self, why: str) -> None:
        if why and why != self._told:
            log.warning("connections to edge nodes are not led to cloudcore: %s", why)
        self._told = why
