"""The register of cloudcores: one Lease for each, which says that it lives, where it takes forwarded streams,
and at which address, that others may share, it serves metrics.

Each replica keeps its own; whoever looks for the others lists them when he needs them, so at rest nobody watches. The
leader removes what nobody keeps any more. Two processes of one name are found by their writes of one Lease.
"""

import asyncio
import logging
import re
from dataclasses import dataclass
from datetime import timedelta

from edgehive.api.registry import LEASES
from edgehive.cloudcore.replicas.leases import NAMESPACE, Held, LeaseFile
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.clock import Clock, parse_rfc3339
from edgehive.kit.fatal import Fatal
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists, ApiError, Conflict, Forbidden, NotFound

log = logging.getLogger("edgehive.cloudcore")

LABEL = "edgehive.io/cloudcore-replica"
#: Where the replica takes streams for its nodes: host and port.
PEER_ANNOTATION = "edgehive.io/peer-address"
#: The address the cluster is told for metrics.
METRICS_ANNOTATION = "edgehive.io/metrics-address"
LEASE_SECONDS, RENEW_SECONDS = 30, 10.0
#: How old a list of the others may be, and how often the leader looks for dead ones.
FRESH_SECONDS, SWEEP_SECONDS = 5.0, 60.0
ASK_SECONDS = 5.0


class NameTaken(Fatal):
    """Two cloudcores call themselves the same; the text names it and the mend."""


@dataclass(frozen=True, slots=True)
class Replica:
    """Another cloudcore, as its Lease shows it."""

    name: str
    address: str


def lease_name(replica: str) -> str:
    """A name the API takes, for any replica's."""
    return "cloudcore-" + re.sub(r"[^a-z0-9.-]+", "-", replica.lower()).strip("-.")


class Presence:
    """This replica's entry, and the list of the others. `nonce` tells one life of a name from another."""

    def __init__(self, client: Client, clock: Clock, standing: Standing, nonce: str) -> None:
        self._client = client
        self._clock = clock
        self._standing = standing
        self._identity = f"{standing.name}_{nonce}"
        self._address = self._metrics_address = ""
        self._writing = asyncio.Lock()
        self._entry: Held | None = None
        #: The API refuses the entry for good, which was said.
        self._refused = False
        self._others: list[Replica] = []
        self._listed = -FRESH_SECONDS
        self._listing = asyncio.Lock()
        self._changed = asyncio.Event()
        #: Version of each Lease and when it was first seen.
        self._seen: dict[str, tuple[str, float]] = {}

    def serves_at(self, address: str) -> None:
        """Streams for nodes whose tunnel is here are taken at this address ("" for nowhere)."""
        self._address = address
        self._changed.set()

    # Addresses that several may share

    async def hold(self, address: str) -> None:
        """Say that metrics are served at this address, before the cluster is told of it."""
        if address != self._metrics_address:
            self._metrics_address = address
            await self._renew_once()

    async def let_go(self, address: str) -> bool:
        """Say that they are no more; whether another living replica serves them there. Raises ApiError.

        Said before the others are looked at: of two that let go at once, one at least finds that it was the last.
        """
        self._metrics_address = ""
        if self._entry is not None:
            await self._renew_once()
        try:
            listed = await self._list()
        except Forbidden:
            return False  # where no Leases may be kept there are no others
        return any(
            (held.document.meta.annotations or {}).get(METRICS_ANNOTATION) == address and self._seems_alive(held)
            for _, held in listed
        )

    async def _renew_once(self) -> None:
        try:
            await self._renew()
        except NameTaken:
            self._changed.set()  # `run` finds it too, and tells

    def _seems_alive(self, held: Held) -> bool:
        """By its own date, as there is no time to wait for a change: a wrong clock costs what siblings mend."""
        try:
            renewed = parse_rfc3339(held.renewed)
        except ValueError:
            return False
        return self._clock.now() - renewed < timedelta(seconds=2 * (held.seconds or LEASE_SECONDS))

    # The own entry

    async def run(self) -> None:
        """Keep the entry, and as the leader the register, until cancelled; raises NameTaken."""
        loop = asyncio.get_running_loop()
        swept = loop.time()
        try:
            while True:
                self._changed.clear()
                await self._renew()
                if self._standing.leads and loop.time() - swept >= SWEEP_SECONDS:
                    swept = loop.time()
                    await self._sweep()
                await self._wait()
        finally:
            await self._leave()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _renew(self) -> None:
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        file, first = self._file(), self._entry is None
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                self._entry = await file.write(self._identity, self._entry or await file.read())
        except (Conflict, AlreadyExists):
            await self._look_who_wrote(first)
        except NotFound:
            self._entry = None
            self._changed.set()
        except Forbidden as error:
            if not self._refused:
                log.warning("other cloudcores do not find this one: %s", error)
            self._refused = True
        except (ApiError, TimeoutError) as error:
            log.info("this cloudcore's Lease is not renewed: %s", error or "no answer in time")

    async def _look_who_wrote(self, first: bool) -> None:
        """An own write whose answer was lost is taken up again; another's means that the name is not ours alone."""
        try:
            found = await self._file().read()
        except ApiError:
            return
        if found is not None and not first and found.holder != self._identity:
            raise NameTaken(
                f"another cloudcore calls itself {self._standing.name} too: give each its own host name, or set "
                "commonConfig.replica.name"
            )
        self._entry = found

    async def _leave(self) -> None:
        if self._entry is None:
            return
        try:
            async with asyncio.timeout(2.0):
                await self._client.delete(LEASES, self._file().name, NAMESPACE, uid=self._entry.document.meta.uid)
        except (ApiError, TimeoutError) as error:
            log.debug("this cloudcore's Lease is left to the leader: %s", error or "no answer in time")

    def _file(self) -> LeaseFile:
        return LeaseFile(
            self._client,
            self._clock,
            lease_name(self._standing.name),
            LEASE_SECONDS,
            {LABEL: "true"},
            {PEER_ANNOTATION: self._address}
            | ({METRICS_ANNOTATION: self._metrics_address} if self._metrics_address else {}),
        )

    # The others

    async def others(self) -> list[Replica]:
        """The other replicas that take streams, living or lately dead; the last known ones while the API is away."""
        loop = asyncio.get_running_loop()
        async with self._listing:
            if loop.time() - self._listed >= FRESH_SECONDS:
                try:
                    async with asyncio.timeout(ASK_SECONDS):
                        self._others = [replica for replica, _ in await self._list() if replica.address]
                    self._listed = loop.time()
                except (ApiError, TimeoutError) as error:
                    log.warning("the other cloudcores cannot be listed: %s", error or "no answer in time")
        return self._others

    async def _list(self) -> list[tuple[Replica, Held]]:
        answer = await self._client.list(LEASES, NAMESPACE, label_selector=f"{LABEL}=true")
        found = [Held.of(document) for document in answer.items]
        return [(_replica(held), held) for held in found if held.holder != self._identity]

    async def _sweep(self) -> None:
        """Remove entries that have not changed for twice their duration."""
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                listed = await self._list()
                self._seen = {held.document.meta.name: self._first_seen(held, now) for _, held in listed}
                for replica, held in listed:
                    _, since = self._seen[held.document.meta.name]
                    if now - since >= 2 * (held.seconds or LEASE_SECONDS):
                        await self._remove(replica, held)
        except (ApiError, TimeoutError) as error:
            log.info("dead cloudcores are looked for later: %s", error or "no answer in time")

    def _first_seen(self, held: Held, now: float) -> tuple[str, float]:
        known = self._seen.get(held.document.meta.name)
        return known if known is not None and known[0] == held.version else (held.version, now)

    async def _remove(self, replica: Replica, held: Held) -> None:
        log.info("cloudcore %s keeps its Lease no more: removed", replica.name)
        try:
            await self._client.delete(LEASES, held.document.meta.name, NAMESPACE, uid=held.document.meta.uid)
        except NotFound:
            return


def _replica(held: Held) -> Replica:
    annotations = held.document.meta.annotations or {}
    return Replica(held.holder.rpartition("_")[0], annotations.get(PEER_ANNOTATION, ""))
