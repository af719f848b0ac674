"""Opens metrics.k8s.io at the stream port and keeps it registered, as long as the cluster's front proxy can be known.

It looks at the cluster in rounds: what it publishes about its front proxy, and who serves metrics.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from edgehive.api.registry import CONFIG_MAPS
from edgehive.cloudcore.cloudstream.front_proxy import Trust
from edgehive.cloudcore.cloudstream.metrics_face import MetricsFace
from edgehive.cloudcore.cloudstream.metrics_registration import NotAggregating, Registration
from edgehive.kit.keypair import KeyPair
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, NotFound

log = logging.getLogger("edgehive.cloudstream")

#: Between two rounds, and while the API server has not found its way yet.
ROUND_SECONDS, SOON_SECONDS = 15.0, 5.0
WITHDRAW_SECONDS = 3.0
#: Where a cluster publishes whom to believe.
AUTHENTICATION = ("extension-apiserver-authentication", "kube-system")


class Serving(NamedTuple):
    """A server's certificate and the CA (PEM) that issued it."""

    certificate: KeyPair
    ca_pem: bytes


#: A certificate for one name.
Issue = Callable[[str], Awaitable[Serving]]


class MetricsDoor:
    """`middleware` goes before the stream port's own routes."""

    def __init__(self, client: Client, face: MetricsFace, registration: Registration) -> None:
        self._client = client
        self._face = face
        self._registration = registration
        self._told = ""

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """The front proxy's connections lead here and nowhere else."""
        if self._face.front.owns(request):
            return await self._face.answer(request)
        return await handler(request)

    def stand_at(self, context: ssl.SSLContext) -> None:
        """Take the connections of the stream port that are the front proxy's."""
        self._face.front.stand_at(context)

    async def keep(self) -> None:
        """Until cancelled; then nothing of it is left that others do not need."""
        try:
            while True:
                await self._round()
                await asyncio.sleep(SOON_SECONDS if self._registration.unsettled else ROUND_SECONDS)
        finally:
            if self._registration.begun:
                with contextlib.suppress(ApiError, NotAggregating, TimeoutError):
                    async with asyncio.timeout(WITHDRAW_SECONDS):
                        await self._registration.withdraw()

    async def _round(self) -> None:
        try:
            trust = await self._trust()
            self._face.front.follow(trust)
            if trust is not None:
                await self._registration.check()
                self._say("")
            else:
                self._say("kube-apiserver was started without --requestheader-client-ca-file")
                if self._registration.begun:
                    await self._registration.withdraw()
        except (ApiError, NotAggregating, ssl.SSLError) as error:
            self._say(str(error))

    async def _trust(self) -> Trust | None:
        name, namespace = AUTHENTICATION
        try:
            published = await self._client.get(CONFIG_MAPS, name, namespace)
        except NotFound:
            return None
        return Trust.published(published.to_dict().get("data") or {})

    def _say(self, why: str) -> None:
        if why and why != self._told:
            log.info("metrics.k8s.io is not served to this cluster: %s", why)
        self._told = why
