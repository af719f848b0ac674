"""How to reach an API server and who to be there: kubeconfig files, and the credentials a pod is given.

cloudcore and the tools call `load`; `HttpClient` takes what it returns. Client certificates, tokens and token
files are understood; plug-in programs are not run, and a server whose certificate is not to be verified is
refused. Nothing is written.

Go: k8s.io/client-go/tools/clientcmd, k8s.io/client-go/rest
"""

import base64
import binascii
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from edgehive.kit.config import parse_yaml
from edgehive.kit.ssl_contexts import load_pem

MAX_SIZE = 4 * 1024 * 1024
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

T = TypeVar("T")


class KubeconfigError(Exception):
    """No usable access; the text says which entry is wrong and how to mend it."""


class NothingConfigured(KubeconfigError):
    """Nobody has said where a Kubernetes API is."""


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """One server, how to verify it, and one identity. PEM contents; files somebody replaces are read again."""

    server: str
    certificate_authority: bytes = b""
    tls_server_name: str = ""
    client_certificate: bytes = b""
    client_key: bytes = b""
    #: Where those two were read, for who reads them again.
    client_files: tuple[Path, Path] | None = None
    token: str = ""
    token_file: Path | None = None
    impersonate_user: str = ""
    impersonate_groups: tuple[str, ...] = ()
    namespace: str = "default"

    def impersonating(self, user: str, groups: Sequence[str] = ()) -> "ClusterAccess":
        """The same access, acting as somebody else."""
        return replace(self, impersonate_user=user, impersonate_groups=tuple(groups))

    def ssl_context(self) -> ssl.SSLContext | None:
        """A context that always verifies the server; None for plain http."""
        if not self.server.startswith("https://"):
            return None
        # The machine's own authorities cost memory: they are loaded only where they are what is trusted.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if not self.certificate_authority:
                context.load_default_certs()
            else:
                context.load_verify_locations(cadata=self.certificate_authority.decode())
            if self.client_certificate:
                load_pem(context, self.client_certificate + b"\n" + self.client_key)
        except (ssl.SSLError, ValueError) as error:
            raise KubeconfigError(
                f"the certificates for {self.server} cannot be used: {error}; they are to be PEM, and the key is to "
                "belong to the client certificate"
            ) from error
        return context


# The file format


class _Cluster(msgspec.Struct, rename="kebab", frozen=True):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _User(msgspec.Struct, rename="kebab", frozen=True):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    impersonate: str = msgspec.field(default="", name="as")
    impersonate_groups: list[str] = msgspec.field(default_factory=list, name="as-groups")
    exec: dict[str, Any] | None = None
    auth_provider: dict[str, Any] | None = None


class _Context(msgspec.Struct, rename="kebab", frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: _User


class _NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: _Context


class _File(msgspec.Struct, rename="kebab", frozen=True):
    current_context: str = ""
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry and the folder its relative paths start from."""

    value: Any
    folder: Path


@dataclass(slots=True)
class _Merged:
    """Several files as kubectl merges them: of two entries with one name the first counts."""

    origin: str
    current_context: str
    clusters: dict[str, _Entry]
    users: dict[str, _Entry]
    contexts: dict[str, _Entry]


def load(
    path: str | Path = "",
    *,
    context: str = "",
    environment: Mapping[str, str] = os.environ,
    service_account: Path = SERVICE_ACCOUNT,
) -> ClusterAccess:
    """The file given, else those in KUBECONFIG, else ~/.kube/config, else a pod's own credentials."""
    if path:
        return _from_files([Path(path)], context, must_exist=True)
    listed = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    if listed:
        return _from_files(listed, context, must_exist=False)
    usual = Path(environment.get("HOME", "/root")) / ".kube" / "config"
    if usual.exists():
        return _from_files([usual], context, must_exist=True)
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(environment, service_account)
    raise NothingConfigured(
        "no Kubernetes API is configured: name a kubeconfig file, set KUBECONFIG, or place one at ~/.kube/config"
    )


def in_cluster(environment: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT) -> ClusterAccess:
    """The credentials Kubernetes mounts into every pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeconfigError("this is no pod: KUBERNETES_SERVICE_HOST is not set; use a kubeconfig file")
    token_file = service_account / "token"
    if not token_file.exists():
        raise KubeconfigError(
            f"{token_file} is absent: let the pod mount its service account token (automountServiceAccountToken)"
        )
    namespace = service_account / "namespace"
    return ClusterAccess(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        certificate_authority=_read(service_account / "ca.crt"),
        token_file=token_file,
        namespace=_read(namespace).decode().strip() if namespace.exists() else "default",
    )


def _from_files(paths: Sequence[Path], context: str, *, must_exist: bool) -> ClusterAccess:
    present = [path for path in paths if must_exist or path.exists()]
    if not present:
        raise KubeconfigError(f"none of the files in KUBECONFIG exists: {', '.join(map(str, paths))}")
    merged = _Merged(", ".join(map(str, present)), "", {}, {}, {})
    for path in present:
        _merge(merged, _parse(path), path.resolve().parent)
    return _select(merged, context or merged.current_context)


def _merge(merged: _Merged, file: _File, folder: Path) -> None:
    merged.current_context = merged.current_context or file.current_context
    for cluster in file.clusters or ():
        merged.clusters.setdefault(cluster.name, _Entry(cluster.cluster, folder))
    for user in file.users or ():
        merged.users.setdefault(user.name, _Entry(user.user, folder))
    for context in file.contexts or ():
        merged.contexts.setdefault(context.name, _Entry(context.context, folder))


def _parse(path: Path) -> _File:
    text = _read(path)
    try:
        data = parse_yaml(text)
        return msgspec.convert(_without_nulls(data), _File)
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except msgspec.ValidationError as error:
        raise KubeconfigError(f"{path} is not a kubeconfig file: {error}") from error


def _without_nulls(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items() if value is not None}
    if isinstance(data, list):
        return [_without_nulls(value) for value in data]
    return data


def _select(merged: _Merged, name: str) -> ClusterAccess:
    if not name:
        raise KubeconfigError(f"{merged.origin} names no current-context: set one with kubectl config use-context")
    context: _Context = _find(merged.contexts, "context", name, merged.origin).value
    cluster_entry = _find(merged.clusters, "cluster", context.cluster, merged.origin)
    user_entry = _find(merged.users, "user", context.user, merged.origin) if context.user else _Entry(_User(), Path())
    cluster: _Cluster = cluster_entry.value
    user: _User = user_entry.value
    _refuse_unsupported(cluster, context.cluster, user, context.user)
    return ClusterAccess(
        server=cluster.server.rstrip("/"),
        certificate_authority=_content(
            cluster.certificate_authority_data, cluster.certificate_authority, cluster_entry.folder, context.cluster
        ),
        tls_server_name=cluster.tls_server_name,
        client_certificate=_content(
            user.client_certificate_data, user.client_certificate, user_entry.folder, context.user
        ),
        client_key=_content(user.client_key_data, user.client_key, user_entry.folder, context.user),
        client_files=_client_files(user, user_entry.folder),
        token=user.token,
        token_file=user_entry.folder / user.token_file if user.token_file and not user.token else None,
        impersonate_user=user.impersonate,
        impersonate_groups=tuple(user.impersonate_groups),
        namespace=context.namespace or "default",
    )


def _find(entries: Mapping[str, _Entry], what: str, name: str, origin: str) -> _Entry:
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise KubeconfigError(f"{origin} has no {what} named {name!r} (it has: {known})")
    return entries[name]


def _refuse_unsupported(cluster: _Cluster, cluster_name: str, user: _User, user_name: str) -> None:
    url = urlsplit(cluster.server)
    if url.scheme not in ("https", "http") or not url.hostname:
        raise KubeconfigError(
            f"cluster {cluster_name!r}: server {cluster.server!r} is to be a URL such as https://host:6443"
        )
    if cluster.insecure_skip_tls_verify:
        raise KubeconfigError(
            f"cluster {cluster_name!r} sets insecure-skip-tls-verify, which would let anybody answer in its place: "
            "remove it and give certificate-authority-data"
        )
    if cluster.proxy_url:
        raise KubeconfigError(f"cluster {cluster_name!r} sets proxy-url, which is not supported: reach it directly")
    if user.exec or user.auth_provider or user.username:
        raise KubeconfigError(
            f"user {user_name!r} logs in by a plug-in or a password, which is not supported: use a client "
            "certificate, a token or a tokenFile (kubectl create token makes one)"
        )
    if bool(user.client_certificate or user.client_certificate_data) != bool(user.client_key or user.client_key_data):
        raise KubeconfigError(f"user {user_name!r} has only one of client certificate and client key: give both")


def _client_files(user: _User, folder: Path) -> tuple[Path, Path] | None:
    inline = user.client_certificate_data or user.client_key_data
    if inline or not user.client_certificate:
        return None
    return folder / user.client_certificate, folder / user.client_key


def _content(data: str, path: str, folder: Path, entry: str) -> bytes:
    """Inline data counts before a file, as in kubectl."""
    if not data:
        return _read(folder / path) if path else b""
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise KubeconfigError(f"the data of {entry!r} is not base64: {error}") from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_SIZE:
            raise KubeconfigError(f"{path} is larger than {MAX_SIZE} bytes and so no kubeconfig or certificate file")
        return path.read_bytes()
    except OSError as error:
        raise KubeconfigError(f"cannot read {path}: {error.strerror}") from error
