"""Being one of several cloudcores: keeps this one's entry in the register and stands for election, beside the modules.

`cloudcore.app` enters it; a cloudcore that cannot have others (edgesite's) does not.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edgehive.cloudcore.replicas.election import Election
from edgehive.cloudcore.replicas.presence import Presence
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.clock import Clock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client


@asynccontextmanager
async def member(client: Client, clock: Clock, standing: Standing) -> AsyncIterator[Presence]:
    """Be a replica until left; whoever is inside is cancelled, and NameTaken raised, when the name is another's."""
    presence = Presence(client, clock, standing, secrets.token_hex(4))
    election = spawn(Election(client, clock, standing).run(), name="election")
    try:
        async with asyncio.TaskGroup() as group:
            entry = group.create_task(presence.run(), name="register of cloudcores")
            yield presence
            entry.cancel()
    except ExceptionGroup as errors:
        # Whoever is inside, and whoever waits for it, wants the error itself.
        raise errors.exceptions[0] from None
    finally:
        await cancel_and_join(election)
