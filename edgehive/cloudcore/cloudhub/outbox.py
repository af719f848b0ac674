"""What one node is still to receive, and in which order. Pure state: it is told the time and sends nothing.

A session asks `next(now)` what to write and tells it of acknowledgements; dispatch fills it. Three lines:

    notices   need no acknowledgement; oldest first
    replies   answers that carry an object: each is sent, none replaces another (B1)
    pushes    objects, newest version per uid; one at a time is unacknowledged

A deletion is never replaced by an older update, and goes before its successor of the same name. Versions are
compared as integers. Every line is bounded.

Go: cloud/pkg/common/messagelayer, cloud/pkg/cloudhub/session/node_session.go
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from edgehive.beehive.message import Message
from edgehive.wire.names import ResourceType, Source

#: Seconds until an unacknowledged message is written again, and how often before others get their turn.
RETRY_AFTER = 5.0
ATTEMPTS = 5
#: Replies on their way at once: a Go edge drops the oldest of more than a hundred unread messages.
REPLY_WINDOW = 32
#: Acknowledged messages that are remembered, to tell a repeated acknowledgement from one of something never sent.
REMEMBERED = 4


@dataclass(slots=True)
class Parcel:
    """One message that is to be acknowledged. `released` says that its delivery record stands."""

    message: Message
    path: str
    uid: str
    version: int
    deletion: bool = False
    released: bool = False
    sent: int = 0
    due: float = 0.0


class Verdict(Enum):
    """What became of a push."""

    QUEUED = "queued"
    REPLACED = "replaced"
    STALE = "stale"
    FULL = "full"


class Outbox:
    """The three lines of one node."""

    def __init__(self, *, pushes: int = 4096, replies: int = 1024, notices: int = 1024) -> None:
        self.overflowed = False
        #: Taken off the front since somebody last looked; objects never are.
        self.dropped = 0
        #: Messages that waited at once, at most.
        self.most = 0
        #: The path of an object that was sent often enough in vain, until somebody looks.
        self.given_up = ""
        self._limit = pushes
        self._replies_limit = replies
        self._notices_limit = notices
        self._notices: deque[Message] = deque()
        self._replies: deque[Parcel] = deque()
        self._pushes: OrderedDict[str, Parcel] = OrderedDict()
        self._deletions: dict[str, str] = {}
        self._outstanding: Parcel | None = None
        self._window: OrderedDict[str, Parcel] = OrderedDict()
        #: By message id: the keys of pushes that were sent in vain and wait for their next turn.
        self._late: dict[str, str] = {}
        #: Ids of the messages acknowledged last, newest first.
        self._acknowledged: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self._notices) + len(self._replies) + len(self._pushes) + (self._outstanding is not None)

    # Filling

    def notice(self, message: Message) -> None:
        """Queue a message that needs no acknowledgement; the oldest goes when there are too many."""
        if len(self._notices) >= self._notices_limit:
            self._notices.popleft()
            self.dropped += 1
        self._notices.append(message)
        self._note_length()

    def reply(self, parcel: Parcel) -> None:
        """Queue an answer. A waiting deletion of the same name goes first, or it would undo the answer."""
        if parcel.path in self._deletions:
            self._enqueue(f"reply {parcel.message.id}", parcel)
            return
        if len(self._replies) >= self._replies_limit:
            self._replies.popleft()
            self.dropped += 1
        self._replies.append(parcel)
        self._note_length()

    def push(self, parcel: Parcel) -> Verdict:
        """Queue an object or its deletion unless something newer of the same uid is on its way."""
        outstanding = self._outstanding
        if outstanding is not None and outstanding.uid == parcel.uid and _covers(outstanding, parcel):
            return Verdict.STALE
        queued = self._pushes.get(parcel.uid)
        if queued is not None:
            if _covers(queued, parcel):
                return Verdict.STALE
            parcel.released = parcel.released or queued.released
            self._enqueue(parcel.uid, parcel)
            return Verdict.REPLACED
        if len(self._pushes) >= self._limit:
            self.overflowed = True
            return Verdict.FULL
        self._enqueue(parcel.uid, parcel)
        return Verdict.QUEUED

    def release(self, uid: str) -> None:
        """The delivery record of this object stands: it may be sent."""
        for parcel in self._waiting(uid):
            parcel.released = True

    def adopt(self, other: "Outbox") -> None:
        """Take over what the node's previous session had not delivered, in its order."""
        sent = other._outstanding
        for parcel in [*([sent] if sent and sent.uid not in other._pushes else []), *other._pushes.values()]:
            self._again(parcel)
        for parcel in [*other._window.values(), *other._replies]:
            parcel.sent = 0
            self.reply(parcel)
        for message in other._notices:
            self.notice(message)
        self.overflowed = self.overflowed or other.overflowed

    # Draining

    def next(self, now: float) -> Message | None:
        """The message to write now; None when there is nothing to do before `wake_at`."""
        if self._notices:
            return self._notices.popleft()
        return self._repeat(now) or self._next_reply(now) or self._next_push(now)

    @property
    def wake_at(self) -> float | None:
        """When to ask again although nothing was filled in or acknowledged."""
        times = [self._outstanding.due] if self._outstanding is not None else []
        if self._replies and len(self._window) >= REPLY_WINDOW:
            times.append(next(iter(self._window.values())).due)
        return min(times, default=None)

    def acknowledge(self, message_id: str) -> Parcel | None:
        """The parcel this acknowledges; a late one counts for a parcel that waits for its next turn."""
        parcel = self._window.pop(message_id, None) or self._take_outstanding(message_id) or self._take_late(message_id)
        if parcel is not None and not parcel.deletion:
            queued = self._pushes.get(parcel.uid)
            if queued is not None and not queued.deletion and queued.version <= parcel.version:
                self._discard(parcel.uid)
        if parcel is not None:
            self._acknowledged = (message_id, *self._acknowledged[: REMEMBERED - 1])
        return parcel

    def was_acknowledged(self, message_id: str) -> bool:
        """Whether it was among the last."""
        return message_id in self._acknowledged

    # Inside

    def _repeat(self, now: float) -> Message | None:
        parcel = self._outstanding
        if parcel is None or now < parcel.due:
            return None
        if parcel.uid not in self._pushes and parcel.sent < ATTEMPTS:
            return self._mark_sent(parcel, now)
        # Something newer waits, or it was tried often enough: others get their turn.
        self._outstanding = None
        if parcel.uid not in self._pushes:
            self.given_up = parcel.path
            self._again(parcel)
        return None

    def _next_reply(self, now: float) -> Message | None:
        while self._window and next(iter(self._window.values())).due <= now:
            self._window.popitem(last=False)
        if not self._replies or not self._replies[0].released or len(self._window) >= REPLY_WINDOW:
            return None
        parcel = self._replies.popleft()
        self._window[parcel.message.id] = parcel
        return self._mark_sent(parcel, now)

    def _next_push(self, now: float) -> Message | None:
        if self._outstanding is not None:
            return None
        key = self._first_released()
        if key is None:
            return None
        key = self._deletions.get(self._pushes[key].path, key)
        self._outstanding = self._discard(key)
        return self._mark_sent(self._outstanding, now)

    def _first_released(self) -> str | None:
        """The first that may go. None passes what it needs to be there: a device its model, a pod what it reads."""
        held: set[_Line] = set()
        for key, parcel in self._pushes.items():
            if parcel.released and (not held or _BEHIND.get(_line_of(parcel)) not in held):
                return key
            if not parcel.released:
                held.add(_line_of(parcel))
        return None

    @staticmethod
    def _mark_sent(parcel: Parcel, now: float) -> Message:
        parcel.sent += 1
        parcel.due = now + RETRY_AFTER
        return parcel.message

    def _again(self, parcel: Parcel) -> None:
        """Put a parcel that was sent in vain behind the others."""
        parcel.sent = 0
        self._enqueue(parcel.uid, parcel)
        self._late[parcel.message.id] = parcel.uid

    def _enqueue(self, key: str, parcel: Parcel) -> None:
        if key in self._pushes:
            self._late.pop(self._pushes[key].message.id, None)
            if self._deletions.get(self._pushes[key].path) == key:
                del self._deletions[self._pushes[key].path]
        self._pushes[key] = parcel
        if parcel.deletion:
            parcel.released = True
            self._deletions[parcel.path] = key
        self._note_length()

    def _note_length(self) -> None:
        self.most = max(self.most, len(self))

    def _discard(self, key: str) -> Parcel:
        parcel = self._pushes.pop(key)
        self._late.pop(parcel.message.id, None)
        if self._deletions.get(parcel.path) == key:
            del self._deletions[parcel.path]
        return parcel

    def _take_outstanding(self, message_id: str) -> Parcel | None:
        parcel = self._outstanding
        if parcel is None or parcel.message.id != message_id:
            return None
        self._outstanding = None
        return parcel

    def _take_late(self, message_id: str) -> Parcel | None:
        key = self._late.get(message_id)
        return self._discard(key) if key is not None else None

    def _waiting(self, uid: str) -> Iterator[Parcel]:
        yield from (parcel for parcel in self._pushes.values() if parcel.uid == uid)
        yield from (parcel for parcel in self._replies if parcel.uid == uid)


class _Line(Enum):
    """Objects that may have to wait for one another."""

    DEVICES = "devices and their models"
    READ = "what pods read"
    PODS = "pods"
    OTHERS = "what waits for nothing"


#: Which line must not be passed by another.
_BEHIND = {_Line.DEVICES: _Line.DEVICES, _Line.PODS: _Line.READ}
_LINES: dict[str, _Line] = {
    ResourceType.CONFIG_MAP: _Line.READ,
    ResourceType.SECRET: _Line.READ,
    ResourceType.POD: _Line.PODS,
}


def _line_of(parcel: Parcel) -> _Line:
    if parcel.message.route.source == Source.DEVICE_CONTROLLER:
        return _Line.DEVICES
    if parcel.deletion:
        return _Line.OTHERS
    _, _, rest = parcel.path.partition("/")
    return _LINES.get(rest.partition("/")[0], _Line.OTHERS)


def _covers(known: Parcel, given: Parcel) -> bool:
    """Whether `known` makes `given` superfluous."""
    if known.deletion:
        return True
    return not given.deletion and known.version >= given.version
