"""The hub's doors to the network and their upkeep: join tokens, and a server certificate that fits the configuration.

cloudhub opens them when it is not given acceptors. An edited configuration file (or replaced certificate file) has
its addresses in the served certificate within seconds, while sessions go on.

Go: cloud/pkg/cloudhub/cloudhub.go, cloud/pkg/cloudhub/servers
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.cloudcore.cloudhub.authority import Authority, AuthorityError
from edgehive.cloudcore.cloudhub.join import join_door, node_exists
from edgehive.cloudcore.cloudhub.servers import websocket_acceptor
from edgehive.cloudcore.cloudhub.signer import Signer, SignerUnavailable
from edgehive.cloudcore.deps import CloudDeps
from edgehive.kit import config as configuration
from edgehive.kit.config import ConfigError
from edgehive.kube.errors import ApiError
from edgehive.kube.recorder import Recorder
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.link_metrics import LinkMetrics

log = logging.getLogger("edgehive.cloudhub")

#: How often files are looked at.
LOOK_SECONDS = 2.0


@asynccontextmanager
async def open_doors(deps: CloudDeps, tasks: asyncio.TaskGroup, links: LinkMetrics) -> AsyncIterator[list[Acceptor]]:
    """Serve joining and connected nodes until left; gives the acceptors, not yet entered."""
    config = deps.config.modules.cloud_hub
    async with Signer() as signer, AsyncExitStack() as doors:
        authority = await Authority.load(deps.client, deps.clock, config, signer)
        await authority.keep_token()
        tasks.create_task(_renew_tokens(authority, config.token_refresh_duration * 3600), name="join tokens")
        tasks.create_task(_follow_files(authority, config, deps.config_file), name="server certificate")
        if config.https.enable:
            recorder = await doors.enter_async_context(
                Recorder(deps.client, "cloudhub", config.advertise_address[0], deps.clock)
            )
            find_node = partial(node_exists, deps.client)
            door = join_door(config, authority, find_node, recorder=recorder, registry=deps.registry)
            await doors.enter_async_context(door)
        acceptors: list[Acceptor] = []
        if config.websocket.enable:
            acceptor, _ = await doors.enter_async_context(
                websocket_acceptor(config, authority, deps.clock, links, deps.registry)
            )
            acceptors.append(acceptor)
        yield acceptors


async def _renew_tokens(authority: Authority, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            await authority.check_shared()
            await authority.keep_token()
        except ApiError as error:
            # The present token is good for as long again.
            log.warning("cannot renew the join token: %s", error)


async def _follow_files(authority: Authority, config: HubConfig, config_file: Path | None) -> None:
    """Keep the served certificate fitting to the configuration file and the certificate files."""
    seen = _modified(config_file)
    said = ""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            modified = _modified(config_file)
            if config_file is not None and modified not in (seen, 0.0):
                config, seen = _with_names_of(config, config_file), modified
            if await authority.refresh_server(config):
                log.info("new connections are shown a new server certificate")
            said = ""
        except (ConfigError, AuthorityError, ApiError, SignerUnavailable) as error:
            if str(error) != said:
                log.warning("the server certificate stays as it is: %s", error)
            said = str(error)


def _with_names_of(config: HubConfig, config_file: Path) -> HubConfig:
    """The configuration with the names and addresses that the file has now; nothing else of it is followed."""
    hub = configuration.load(config_file, CloudCore).modules.cloud_hub
    addresses = hub.advertise_address if any(hub.advertise_address) else config.advertise_address
    return msgspec.structs.replace(config, advertise_address=addresses, dns_names=hub.dns_names)


def _modified(file: Path | None) -> float:
    try:
        return os.stat(file).st_mtime if file is not None else 0.0
    except OSError:
        return 0.0
