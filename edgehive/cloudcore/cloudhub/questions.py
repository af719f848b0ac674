"""What cloudhub asks of the process that computes with keys, and what it gets back: the frames between the two."""

from datetime import datetime, timedelta
from typing import TypeAlias

import msgspec

from edgehive.kit.keypair import KeyPair


class _Question(msgspec.Struct, frozen=True, tag=True):
    """Everything an answer needs: the process keeps no state."""


class NewAuthority(_Question, frozen=True):
    """A CA of our own."""

    common_name: str
    serial: int
    now: datetime
    lifetime: timedelta


class NewServer(_Question, frozen=True):
    """A server's certificate and key; `client_too` for one that is shown when dialling as well."""

    authority: KeyPair
    common_name: str
    names: list[str]
    now: datetime
    lifetime: timedelta
    client_too: bool = False


class ReadPem(_Question, frozen=True):
    """Certificate and key out of PEM files; a fault when they cannot be read or do not belong together."""

    certificate: bytes
    key: bytes


class ReadPair(_Question, frozen=True):
    """The pair with its key as SEC1; a fault when it cannot be read or does not belong together."""

    pair: KeyPair


class JudgeServer(_Question, frozen=True):
    """A fault when the pair is no good server certificate of this CA for these names."""

    authority: KeyPair
    server: KeyPair
    names: list[str]
    now: datetime


class SignRequest(_Question, frozen=True):
    """A node's certificate; refused when the request is for anyone else."""

    authority: KeyPair
    request: bytes
    node: str
    usages: list[int]
    now: datetime
    lifetime: timedelta


class JudgeProof(_Question, frozen=True):
    """Refused unless the certificate is the node's, by this CA, expired for `grace` at most, and its key signed."""

    authority: KeyPair
    certificate: bytes
    node: str
    signed: bytes
    signature: bytes
    now: datetime
    grace: timedelta


Question: TypeAlias = NewAuthority | NewServer | ReadPem | ReadPair | JudgeServer | SignRequest | JudgeProof


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pair, a certificate alone, or a fault; `refused` says that the fault is a matter of rights."""

    certificate: bytes = b""
    key: bytes = b""
    fault: str = ""
    refused: bool = False

    @property
    def pair(self) -> KeyPair:
        return KeyPair(self.certificate, self.key)


#: Frames are MessagePack behind their length in four bytes.
LENGTH_BYTES = 4
#: No question or answer is larger: a request of 64 KiB and a few keys.
MAX_FRAME = 256 * 1024


def frame(body: Question | Answer) -> bytes:
    encoded = msgspec.msgpack.encode(body)
    return len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded
