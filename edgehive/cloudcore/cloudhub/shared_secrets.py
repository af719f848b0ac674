"""The Secrets in which all cloudcores of a cluster share CA, server certificate and join token.

A pair is one object, so nobody ever sees half of one. A new pair is created, never written over another: of
several cloudcores that start at once exactly one makes it and the others read it. A pair is replaced only in the
version its judge has read.

Go: cloud/pkg/cloudhub/servers/httpserver/secret.go
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgehive.api.core import Secret
from edgehive.api.registry import NAMESPACES, SECRETS
from edgehive.kit.fatal import Fatal
from edgehive.kit.keypair import KeyPair
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import AlreadyExists, Conflict, NotFound

NAMESPACE = "kubeedge"


class AuthorityError(Fatal):
    """The certificates at hand cannot be used; the text says which and what to do."""


class AuthorityChanged(Exception):
    """Another CA has taken the place of the one in use: the hub has to start anew."""


@dataclass(frozen=True, slots=True)
class PairSecret:
    """Name and keys of a Secret that holds a pair in DER."""

    name: str
    certificate_key: str
    private_key: str

    def data(self, pair: KeyPair) -> dict[str, bytes]:
        return {self.certificate_key: pair.certificate, self.private_key: pair.key}


@dataclass(frozen=True, slots=True)
class StoredPair:
    pair: KeyPair
    resource_version: str


CA = PairSecret("casecret", "cadata", "cakeydata")
SERVER = PairSecret("cloudcoresecret", "cloudcoredata", "cloudcorekeydata")
TOKEN_SECRET, TOKEN_KEY = "tokensecret", "tokendata"


async def read_pair(client: Client, secret: PairSecret) -> StoredPair | None:
    """The stored pair, None when there is no such Secret; raises AuthorityError for half a pair."""
    try:
        document = await client.get(SECRETS, secret.name, NAMESPACE)
    except NotFound:
        return None
    data = document.read(Secret).data or {}
    certificate, key = data.get(secret.certificate_key), data.get(secret.private_key)
    if not certificate or not key:
        raise AuthorityError(
            f"Secret {NAMESPACE}/{secret.name} lacks {secret.certificate_key} or {secret.private_key}: "
            "restore it, or delete it to have a new pair made"
        )
    return StoredPair(KeyPair(certificate, key), document.meta.resource_version)


async def create_pair(client: Client, secret: PairSecret, pair: KeyPair) -> bool:
    """Store a new pair; False when somebody else was quicker."""
    try:
        await _create(client, secret.name, secret.data(pair))
    except AlreadyExists:
        return False
    return True


async def replace_pair(client: Client, secret: PairSecret, pair: KeyPair, resource_version: str) -> bool:
    """Store a pair over the version that was judged; False when it is no longer that one."""
    patch = {"metadata": {"resourceVersion": resource_version}, "data": _encoded(secret.data(pair))}
    try:
        await client.patch(SECRETS, secret.name, patch, NAMESPACE, type=PatchType.MERGE)
    except (Conflict, NotFound):
        return False
    return True


async def read_token(client: Client) -> str:
    """The stored join token, "" when there is none."""
    try:
        secret = (await client.get(SECRETS, TOKEN_SECRET, NAMESPACE)).read(Secret)
    except NotFound:
        return ""
    return (secret.data or {}).get(TOKEN_KEY, b"").decode(errors="replace")


async def write(client: Client, name: str, data: Mapping[str, bytes]) -> None:
    """Store data whatever was there."""
    patch = {"data": _encoded(data)}
    try:
        await client.patch(SECRETS, name, patch, NAMESPACE, type=PatchType.MERGE)
    except NotFound:
        try:
            await _create(client, name, data)
        except AlreadyExists:
            await client.patch(SECRETS, name, patch, NAMESPACE, type=PatchType.MERGE)


async def _create(client: Client, name: str, data: Mapping[str, bytes]) -> None:
    secret: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": "Opaque",
        "data": _encoded(data),
    }
    try:
        await client.create(SECRETS, secret, NAMESPACE)
    except NotFound:
        await _ensure_namespace(client)
        await client.create(SECRETS, secret, NAMESPACE)


def _encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


async def _ensure_namespace(client: Client) -> None:
    try:
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    except AlreadyExists:
        return
