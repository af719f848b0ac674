"""Which of several cloudcores a node belongs to: the annotation on its Node that says so, read and written. Pure.

A claim names a replica and counts up: whoever claims a node has seen the claim before his, so of two claims the one
with the higher epoch was made by whoever knew the other. No clock is compared.
"""

import msgspec

from edgehive.api.document import Document

#: Go's: the address of the cloudcore that holds the node.
ADDRESS_ANNOTATION = "cloudcore"
#: Ours: the claim.
ANNOTATION = "edgehive.io/hub-session"


class Claim(msgspec.Struct, frozen=True):
    """Held by `replica` ("" for nobody's) since the `epoch`-th change of hands."""

    replica: str = ""
    epoch: int = 0

    def taken_by(self, replica: str) -> "Claim":
        """The claim that follows this one."""
        return Claim(replica, self.epoch + 1)


UNCLAIMED = Claim()

_decoder = msgspec.json.Decoder(Claim)


def claim_on(node: Document | None) -> Claim:
    """What the Node says; nobody's claim when it says nothing that can be read."""
    if node is None:
        return UNCLAIMED
    text = (node.meta.annotations or {}).get(ANNOTATION)
    try:
        return _decoder.decode(text) if text else UNCLAIMED
    except msgspec.DecodeError:
        return UNCLAIMED


def annotations(claim: Claim, address: str) -> dict[str, str]:
    """What stands on a Node that is held so; without a name only Go's."""
    found = {ADDRESS_ANNOTATION: address} if address else {}
    return found | ({ANNOTATION: msgspec.json.encode(claim).decode()} if claim.replica else {})
