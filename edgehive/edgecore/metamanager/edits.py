"""What becomes of an object that was written at the edge until the cloud has it: decision record 0023. Pure.

A `Pending` never changes: every function gives a new one, or None when nothing is left to be told. `edge_writes.py`
keeps them in rows and sends them; whoever reads the object gets `view`.
"""

import msgspec

from edgehive.wire import device_edits
from edgehive.wire.device_edits import Edit, Json, Lost, Merged

#: The version of an object that no cloud has seen: whatever the cloud says of it is newer.
UNSEEN = "0"
LOST_LIMIT = 50


class Pending(msgspec.Struct, frozen=True, omit_defaults=True):
    """One object. `base` is what the cloud had when it was written here, `cloud` what the cloud said last."""

    uid: str
    number: int
    base: Json | None = None
    cloud: Json | None = None
    #: None: deleted here.
    local: Json | None = None
    #: On its way: it is said again word by word until the cloud has answered.
    sent: Edit | None = None
    #: What lost here and is told with the next edit.
    lost: tuple[Lost, ...] = ()
    #: Why the cloud does not take it.
    refused: str = ""

    @property
    def created(self) -> bool:
        """No cloud has it, as far as is known here."""
        return self.cloud is None


def written(pending: Pending | None, row: Json | None, wanted: Json | None, uid: str) -> Pending:
    """Somebody at the edge writes: `row` is what they saw (None: nothing), `wanted` what they want (None: nothing)."""
    if pending is None:
        return Pending(uid, device_edits.number_of(row) + 1, row, row, wanted)
    number = max(pending.number, device_edits.number_of(pending.cloud)) + 1
    base, lost = pending.base, pending.lost
    if pending.cloud is not None and view(pending) is not None:
        # They have seen what the cloud said since; what lost against that is no more, and is told.
        base = pending.cloud
        if pending.sent is None and pending.local is not None:
            lost = (*lost, *_view(pending).lost)[-LOST_LIMIT:]
    return msgspec.structs.replace(pending, number=number, base=base, local=wanted, lost=lost, refused="")


def is_void(pending: Pending) -> bool:
    """Made and deleted at the edge before anybody else heard of it."""
    return pending.created and pending.local is None and pending.sent is None


def view(pending: Pending) -> Json | None:
    """The object as the edge goes by it; None when it is deleted."""
    cloud, local = pending.cloud, pending.local
    if local is None:
        return None if cloud is None or device_edits.untouched(pending.base, cloud) else cloud
    return local if cloud is None else _view(pending).object


def _view(pending: Pending) -> Merged:
    assert pending.local is not None
    assert pending.cloud is not None
    return device_edits.merged(pending.base, pending.local, pending.cloud)


def version_of(obj: Json | None) -> int:
    text = str(((obj or {}).get("metadata") or {}).get("resourceVersion") or "")
    return int(text) if text.isdecimal() else 0


def uid_of(obj: Json | None) -> str:
    return str(((obj or {}).get("metadata") or {}).get("uid") or "")


def heard(pending: Pending, cloud: Json) -> Pending | None:
    """The cloud shows the object as it has it; None when that settles everything."""
    if pending.sent is not None and device_edits.number_of(cloud) >= pending.sent.number:
        return confirmed(pending, cloud)
    return msgspec.structs.replace(pending, cloud=cloud)


def sending(pending: Pending) -> Pending:
    """From the moment on that it goes to the cloud; one that is on its way stays what it is."""
    if pending.sent is not None:
        return pending
    edit = Edit(pending.uid, pending.number, pending.base, pending.local, pending.lost)
    return msgspec.structs.replace(pending, sent=edit)


def confirmed(pending: Pending, now: Json | None) -> Pending | None:
    """The cloud has what was sent, and this is what it made of it (None: there is no such object any more)."""
    sent = pending.sent
    if sent is None:
        return pending
    lost = pending.lost[len(sent.lost) :]
    if sent.number == pending.number:
        return None
    if now is None:
        if pending.local is None or sent.local is not None:
            return None  # gone on both sides, or deleted in the cloud: the deletion stands
        return Pending(uid_of(pending.local), pending.number, local=pending.local)
    if pending.local is None:
        # What was seen when it was deleted: what had been sent, or what the cloud had said by then.
        return Pending(uid_of(now), pending.number, base=sent.local or pending.base, cloud=now, lost=lost)
    # What was written here since, on top of what the cloud has now.
    after = device_edits.merged(sent.local, pending.local, now)
    return Pending(uid_of(now), pending.number, now, now, after.object, lost=(*lost, *after.lost)[-LOST_LIMIT:])


def refused(pending: Pending, why: str) -> Pending:
    """The cloud does not take it, and would not the next time."""
    return msgspec.structs.replace(pending, sent=None, refused=why)
