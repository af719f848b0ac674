"""Requests as the core of the API server sees them: the call, and the options of each verb. Data only."""

from dataclasses import dataclass, field

from edgehive.kube.client import EventType
from edgehive.kube.server.catalog import Served
from edgehive.kube.server.identity import User
from edgehive.kube.store import Stored


@dataclass(slots=True)
class Call:
    """One request on one resource; `warnings` gathers what the caller should be told."""

    user: User
    served: Served
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    dry_run: bool = False
    field_manager: str = ""
    #: Ignore, Warn or Strict; empty for callers in this process, whose objects are taken as they are.
    field_validation: str = ""
    #: What the decoder saw twice.
    duplicate_fields: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    grace_period_seconds: int | None = None
    #: Orphan, Background, Foreground, or empty for the kind's default.
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class ListOptions:
    label_selector: str = ""
    field_selector: str = ""
    resource_version: str = ""
    resource_version_match: str = ""
    limit: int = 0
    continue_token: str = ""
    send_initial_events: bool | None = None
    bookmarks: bool = False
    timeout_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A list answer before it is encoded."""

    items: list[Stored]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A watch event that passed a selector."""

    type: EventType
    stored: Stored
