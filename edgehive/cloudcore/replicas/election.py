"""Which of several cloudcores does what is to be done once: the leader, by a Lease and the rules of client-go.

A leader that could not renew for ten seconds stops leading before anybody else may begin after fifteen. It only sets
`Standing.leads`; what leads means is up to those who ask.

Go: k8s.io/client-go/tools/leaderelection/leaderelection.go
"""

import asyncio
import logging

from edgehive.cloudcore.replicas.leases import Held, LeaseFile
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.clock import Clock
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists, ApiError, Conflict, Forbidden

log = logging.getLogger("edgehive.cloudcore")

NAME = "cloudcore-leader"
LEASE_SECONDS = 15
#: A leader that has not renewed for so long leads no more.
RENEW_DEADLINE = 10.0
#: How often a candidate looks, and how often a leader renews: half its deadline, since at rest it should cost nothing.
RETRY_SECONDS, RENEW_SECONDS = 2.0, 5.0


class Election:
    """`run` it beside the modules; leaving it gives the office up."""

    def __init__(self, client: Client, clock: Clock, standing: Standing) -> None:
        self._file = LeaseFile(client, clock, NAME, LEASE_SECONDS, {}, {})
        self._standing = standing
        self._seen: Held | None = None
        #: When the Lease was last seen to change, or renewed by us.
        self._since = 0.0

    async def run(self) -> None:
        """Stand for election and lead, until cancelled."""
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        try:
            while True:
                failed = await self._step()
                if self._standing.leads and loop.time() - self._since > RENEW_DEADLINE:
                    self._lead(False)
                renewing = self._standing.leads and not failed
                await asyncio.sleep(RENEW_SECONDS if renewing else RETRY_SECONDS)
        finally:
            await self._resign()

    async def _step(self) -> bool:
        """Renew, or take an office that is free; True when the API did not let us."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._patience(began)):
                if self._standing.leads and self._seen is not None:
                    self._seen = await self._file.write(self._standing.name, self._seen)
                elif not await self._vacant():
                    return False
                else:
                    self._seen = await self._file.write(self._standing.name, self._seen)
        except (Conflict, AlreadyExists):
            # Somebody else is quicker: what he wrote is looked at next.
            self._lead(False)
            return True
        except Forbidden as error:
            self._lead_unasked(error)
            return False
        except (ApiError, TimeoutError) as error:
            log.log(logging.INFO if self._standing.leads else logging.DEBUG, "the leader's Lease: %s", error or "late")
            return True
        self._since = began
        self._lead(True)
        return False

    def _patience(self, now: float) -> float:
        """A leader's request ends before its office does."""
        left = self._since + RENEW_DEADLINE - now if self._standing.leads else RENEW_DEADLINE
        return max(left, 0.1)

    async def _vacant(self) -> bool:
        """Look at the Lease: whether there is none, it was let go, is ours, or was not renewed for its duration."""
        now = asyncio.get_running_loop().time()
        found = await self._file.read()
        if found is None or self._seen is None or found.version != self._seen.version:
            self._since = now
        self._seen = found
        if found is None or found.holder in ("", self._standing.name):
            return True
        return now - self._since >= (found.seconds or LEASE_SECONDS)

    def _lead(self, leads: bool) -> None:
        if leads != self._standing.leads:
            log.info("cloudcore %s %s", self._standing.name, "leads" if leads else "leads no more")
        self._standing.leads = leads

    def _lead_unasked(self, error: ApiError) -> None:
        if not self._standing.leads:
            log.warning("this cloudcore acts as if it were the only one, since it may keep no Lease: %s", error)
        self._since = asyncio.get_running_loop().time()
        self._standing.leads = True

    async def _resign(self) -> None:
        """Let the next one begin at once."""
        if not self._standing.leads or self._seen is None:
            return
        self._standing.leads = False
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                await self._file.write("", self._seen, seconds=1)
        except (ApiError, TimeoutError) as error:
            log.debug("the leader's Lease is left to expire: %s", error or "no answer in time")
