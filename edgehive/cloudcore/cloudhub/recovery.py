"""The way back for a node whose certificate has expired: a new one against proof that it holds the old key.

TLS refuses the expired certificate, so the proof goes over the join door: the cloud makes a challenge, the old key
signs it together with the request for the new one. A proof is good for one node, one new key, five minutes and one
use. Only nodes the cluster still has come back, and only within the configured days.
"""

import asyncio
import base64
import binascii
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from edgehive.cloudcore.cloudhub import questions
from edgehive.cloudcore.cloudhub.signer import Signer
from edgehive.kit.clock import Clock
from edgehive.kit.keypair import KeyPair
from edgehive.wire import join
from edgehive.wire.link import JoinRefused

#: Challenges answered within their lifetime that are remembered; more are not let in.
REMEMBERED = 10_000


class Recovery:
    """Makes challenges and judges proofs."""

    def __init__(
        self,
        ca: KeyPair,
        signer: Signer,
        clock: Clock,
        find_node: Callable[[str], Awaitable[bool]],
        *,
        grace: timedelta,
    ) -> None:
        self._ca = ca
        self._signer = signer
        self._clock = clock
        self._find_node = find_node
        self._grace = grace
        #: Used challenges and when each can be forgotten, in time that passes: dates are set forth and back.
        self._used: OrderedDict[str, float] = OrderedDict()

    def challenge(self, node: str) -> str:
        """A challenge for this node; raises JoinRefused where the policy allows none."""
        self._demand_allowed()
        if not node:
            raise JoinRefused(f"header {join.NODE_NAME_HEADER} is missing: it names the node that comes back")
        return join.make_challenge(node, secrets.token_hex(16), self._ca.key, self._clock.now())

    def demand_challenge(self, headers: Mapping[str, str], node: str) -> str:
        """The challenge that is answered; raises JoinRefused when it is none of ours. Cheap: nothing is parsed."""
        self._demand_allowed()
        challenge = headers.get(join.CHALLENGE_HEADER, "")
        join.verify_challenge(challenge, node, self._ca.key, self._clock.now())
        self._demand_unused(challenge)
        return challenge

    async def verify(self, headers: Mapping[str, str], node: str, request: bytes) -> None:
        """Raise JoinRefused unless the headers prove that whoever asks holds the node's expired certificate."""
        challenge = self.demand_challenge(headers, node)
        await self._signer.ask(
            questions.JudgeProof(
                authority=self._ca,
                certificate=_decoded(headers, join.EXPIRED_CERTIFICATE_HEADER),
                node=node,
                signed=join.proof_text(node, challenge, request),
                signature=_decoded(headers, join.PROOF_HEADER),
                now=self._clock.now(),
                grace=self._grace,
            )
        )
        if not await self._find_node(node):
            raise JoinRefused(f"the cluster has no node {node!r}; join with a new token")
        # Noted after the judgement, and looked up again: two that came together must not both pass.
        self._demand_unused(challenge)
        self._used[challenge] = asyncio.get_running_loop().time() + 2 * join.CHALLENGE_LIFETIME.total_seconds()

    def _demand_allowed(self) -> None:
        if not self._grace:
            raise JoinRefused(
                "this cloud takes no expired certificates back (cloudHub.expiredCertificateGracePeriod is 0); "
                "join with a new token"
            )

    def _demand_unused(self, challenge: str) -> None:
        now = asyncio.get_running_loop().time()
        while self._used and next(iter(self._used.values())) <= now:
            self._used.popitem(last=False)
        if challenge in self._used:
            raise JoinRefused(f"the challenge has been answered already; ask for another at {join.CHALLENGE_PATH}")
        if len(self._used) >= REMEMBERED:
            raise JoinRefused("too many nodes come back at once; try again in some minutes")


def _decoded(headers: Mapping[str, str], name: str) -> bytes:
    try:
        return base64.b64decode(headers.get(name, ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise JoinRefused(f"header {name} is not base64: {error}") from error
