"""Image names and the credentials for their registry. Pure.

For `images.py`. Names are normalised as Docker does: `busybox` is `docker.io/library/busybox:latest`, while
`localhost/...` and everything with a dot or a port before the first slash names its own registry.
Go: vendor/github.com/distribution/reference, pkg/credentialprovider/keyring.go
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from edgehive.api.core import Secret
from edgehive.protos import cri_pb2 as cri

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])"
)
_REFERENCE = re.compile(
    rf"(?:(?P<domain>{_DOMAIN}(?::[0-9]+)?)/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)


class InvalidImageName(ValueError):
    """Not a reference a registry could know."""


def image_reference(name: str) -> str:
    """The full reference: registry, path, and a tag or digest."""
    domain, rest = _split_domain(name)
    match = _REFERENCE.fullmatch(f"{domain}/{rest}") if len(name) <= 1024 else None
    if match is None:
        if rest != rest.lower() and _REFERENCE.fullmatch(f"{domain}/{rest.lower()}"):
            raise InvalidImageName("invalid reference format: repository name must be lowercase")
        raise InvalidImageName("invalid reference format")
    tag = f":{match['tag']}" if match["tag"] else ""
    digest = f"@{match['digest']}" if match["digest"] else ""
    return f"{match['domain']}/{match['path']}{tag if tag or digest else ':latest'}{digest}"


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & set(".:") or first == "localhost" or first != first.lower()):
        return "docker.io", name if slash else f"library/{name}"
    if first == "index.docker.io":
        first = "docker.io"
    if first == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def credentials(reference: str, secrets: Sequence[Secret]) -> list[cri.AuthConfig]:
    """What the secrets hold for this image's registry, the most specific entry first."""
    repository = reference.partition("@")[0]
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    found = [
        (len(_location(server)), auth)
        for secret in secrets
        for server, auth in _entries(secret)
        if _matches(_location(server), repository)
    ]
    found.sort(key=lambda item: -item[0])
    return [auth for _, auth in found]


def _entries(secret: Secret) -> Iterator[tuple[str, cri.AuthConfig]]:
    for server, held in _servers(secret).items():
        if isinstance(held, Mapping):
            yield server, _auth(held)


def _servers(secret: Secret) -> Mapping[str, Any]:
    """Both secret types; one that does not parse holds nothing."""
    data = secret.data or {}
    try:
        if ".dockerconfigjson" in data:
            decoded = msgspec.json.decode(data[".dockerconfigjson"], type=dict[str, Any]).get("auths")
        else:
            decoded = msgspec.json.decode(data.get(".dockercfg", b"{}"), type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
    return decoded if isinstance(decoded, Mapping) else {}


def _auth(held: Mapping[str, Any]) -> cri.AuthConfig:
    """Without the server's address, as the kubelet sends it: containerd ignores what has one that is no URL."""
    user, password = str(held.get("username") or ""), str(held.get("password") or "")
    if held.get("auth"):
        with suppress(binascii.Error, UnicodeDecodeError):
            user, _, password = base64.b64decode(str(held["auth"])).decode().partition(":")
    return cri.AuthConfig(username=user, password=password, identity_token=str(held.get("identitytoken") or ""))


def _location(server: str) -> str:
    """A configured server as host[:port][/path]; Docker Hub's historic addresses are docker.io."""
    plain = server.removeprefix("https://").removeprefix("http://").rstrip("/")
    for version in ("/v1", "/v2"):
        plain = plain.removesuffix(version)
    return re.sub(r"^(index|registry-1)\.docker\.io(?=/|$)", "docker.io", plain)


def _matches(location: str, repository: str) -> bool:
    """Host patterns may hold * within one label; a path is a prefix at a slash."""
    host, _, path = location.partition("/")
    image_host, _, image_path = repository.partition("/")
    pattern, labels = host.split("."), image_host.split(".")
    if len(pattern) != len(labels) or not all(map(fnmatchcase, labels, pattern)):
        return False
    return not path or image_path == path or image_path.startswith(f"{path}/")
