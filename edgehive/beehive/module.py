"""What a module is: a name, a group, and one coroutine that is its whole life.

Modules get everything they use in their constructor (bus, deps, config) and do no I/O there. `run` opens
what it needs with `async with`, calls `ready()` once, works until it is cancelled and leaves its `with`
blocks. There is no start, no stop and no cleanup. An error that is `kit.fatal.Fatal` is not tried again.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from edgehive.kit.backoff import Backoff


class Ready(Protocol):
    """Given to `run`; calling it lets the next module start."""

    def __call__(self) -> None: ...


class Module(Protocol):
    """The protocol every module of cloudcore, edgecore and edgesite follows."""

    name: str
    group: str
    needs: tuple[str, ...]

    async def run(self, ready: Ready) -> None: ...


class Restart(Enum):
    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a module's `run` ends although nobody asked it to: how often and how soon it runs again.

    `limit` 0 means without limit. A module whose retries are used up fails the Hive,
    and so does one that raises a `kit.fatal.Fatal`, at once and whatever the policy.
    """

    restart: Restart = Restart.ON_FAILURE
    backoff: Backoff = field(default_factory=lambda: Backoff(first=1.0, factor=2.0, limit=30.0, jitter=0.2))
    limit: int = 5
