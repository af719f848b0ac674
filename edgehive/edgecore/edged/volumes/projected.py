"""configMap, secret, downwardAPI and projected volumes, service-account tokens included: files kept up to date.

For `runtime.py`. The files of a volume change together: they are written into a fresh folder and the link
`..data` is turned to it in one step, so a reader never sees half an update. A token that cannot be renewed is
left in place, however old: only a volume that never had its files fails.

Go: pkg/volume/{configmap,secret,downwardapi,projected}, pkg/volume/util/atomic_writer.go, pkg/kubelet/token
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from edgehive.api.core import (
    ConfigMap,
    DownwardAPIVolumeFile,
    KeyToPath,
    Pod,
    Secret,
    ServiceAccountTokenProjection,
    TokenRequest,
    Volume,
    VolumeProjection,
)
from edgehive.api.registry import CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS
from edgehive.edgecore.edged.environment import ContainerConfigError, PodFacts, field_value, resource_value
from edgehive.edgecore.edged.plan import every_container
from edgehive.edgecore.edged.volumes.local import VolumeError, volume_directory
from edgehive.kit.clock import Clock, parse_rfc3339
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, NotFound

DEFAULT_MODE = 0o644
_TOKEN_SECONDS = 3600
#: Renewed when this part of its life is over, and after a day in any case.
_TOKEN_SPENT = 0.8
_TOKEN_OLDEST = timedelta(hours=24)
#: After a renewal that failed.
_TOKEN_RETRY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume; `mode` None is the volume's default."""

    content: bytes
    mode: int | None = None


Payload = dict[str, File]


@dataclass(slots=True)
class _Token:
    text: str
    renew_at: datetime
    #: The same by the loop's time: a date that is set back must not keep an old token.
    due: float

    def left(self, now: datetime) -> timedelta:
        """Until it is to be renewed, by whichever clock says so first."""
        return min(self.renew_at - now, timedelta(seconds=self.due - asyncio.get_running_loop().time()))


@dataclass(slots=True)
class _Gathered:
    """What a volume's sources came to."""

    files: Payload = field(default_factory=dict)
    default_mode: int = DEFAULT_MODE


class ProjectedVolumes:
    """Volumes whose files come from the API."""

    def __init__(
        self, root: Path, client: Client, clock: Clock, facts: Callable[[Pod], PodFacts] = lambda _: PodFacts()
    ) -> None:
        self._root = root
        self._client = client
        self._clock = clock
        self._facts = facts
        self._tokens: dict[tuple[str, str, str, int], _Token] = {}

    def handles(self, volume: Volume) -> bool:
        return _plugin(volume) != ""

    async def prepare(self, pod: Pod, volume: Volume) -> Path:
        """Write (or bring up to date) the volume's files."""
        folder = volume_directory(self._root, pod.metadata.uid, _plugin(volume), volume.name)
        try:
            gathered = await self._gather(pod, volume)
            await asyncio.to_thread(write_atomically, folder, gathered.files, gathered.default_mode, _group(pod))
        except OSError as error:
            raise VolumeError(f"cannot write volume {volume.name}: {error.strerror}") from error
        except (ApiError, ContainerConfigError) as error:
            if isinstance(error, ApiError) and error.transient and (folder / "..data").exists():
                return folder
            raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error}') from error
        return folder

    def next_renewal(self, uid: str) -> datetime | None:
        """When a token of this pod wants to be renewed."""
        now = self._clock.now()
        return min((now + token.left(now) for key, token in self._tokens.items() if key[0] == uid), default=None)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        for key in [key for key in self._tokens if key[0] == uid]:
            del self._tokens[key]

    # sources

    async def _gather(self, pod: Pod, volume: Volume) -> _Gathered:
        if source := volume.config_map:
            files = await self._config_map(pod, source.name, source.items, bool(source.optional))
            return _Gathered(files, _mode(source.default_mode))
        if secret := volume.secret:
            files = await self._secret(pod, secret.secret_name, secret.items, bool(secret.optional))
            return _Gathered(files, _mode(secret.default_mode))
        if downward := volume.downward_api:
            return _Gathered(self._downward(pod, downward.items or ()), _mode(downward.default_mode))
        projected = volume.projected
        gathered = _Gathered(default_mode=_mode(projected.default_mode if projected else None))
        for item in (projected.sources if projected else None) or ():
            gathered.files |= await self._projection(pod, item)
        return gathered

    async def _projection(self, pod: Pod, item: VolumeProjection) -> Payload:
        if item.config_map:
            return await self._config_map(
                pod, item.config_map.name, item.config_map.items, bool(item.config_map.optional)
            )
        if item.secret:
            return await self._secret(pod, item.secret.name, item.secret.items, bool(item.secret.optional))
        if item.downward_api:
            return self._downward(pod, item.downward_api.items or ())
        if item.service_account_token:
            return await self._service_account_token(pod, item.service_account_token)
        return {}

    async def _config_map(self, pod: Pod, name: str, items: list[KeyToPath] | None, optional: bool) -> Payload:
        try:
            found = (await self._client.get(CONFIG_MAPS, name, pod.metadata.namespace)).read(ConfigMap)
        except NotFound:
            if optional:
                return {}
            raise VolumeError(f'configmap "{name}" not found') from None
        data = {key: value.encode() for key, value in (found.data or {}).items()} | (found.binary_data or {})
        return _select(f"configmap {pod.metadata.namespace}/{name}", data, items, optional)

    async def _secret(self, pod: Pod, name: str, items: list[KeyToPath] | None, optional: bool) -> Payload:
        try:
            found = (await self._client.get(SECRETS, name, pod.metadata.namespace)).read(Secret)
        except NotFound:
            if optional:
                return {}
            raise VolumeError(f'secret "{name}" not found') from None
        return _select(f"secret {pod.metadata.namespace}/{name}", found.data or {}, items, optional)

    def _downward(self, pod: Pod, items: Iterable[DownwardAPIVolumeFile]) -> Payload:
        facts, files = self._facts(pod), {}
        for item in items:
            text = ""
            if item.field_ref:
                text = field_value(pod, item.field_ref.field_path, facts)
            elif item.resource_field_ref:
                # A volume belongs to no container, so containerName is required and the first only a fallback.
                text = resource_value(pod, pod.spec.containers[0], item.resource_field_ref, facts.node_allocatable)
            files[item.path] = File(text.encode(), item.mode)
        return files

    # tokens

    async def _service_account_token(self, pod: Pod, source: ServiceAccountTokenProjection) -> Payload:
        token = await self._token(pod, source)
        mode = 0o600 if _only_root(pod) else None
        return {source.path: File(token.text.encode(), mode)}

    async def _token(self, pod: Pod, source: ServiceAccountTokenProjection) -> _Token:
        key = (pod.metadata.uid, source.path, source.audience, source.expiration_seconds or _TOKEN_SECONDS)
        held, now = self._tokens.get(key), self._clock.now()
        if held is not None and held.left(now) > timedelta(0):
            return held
        try:
            token = await self._request_token(pod, source)
        except ApiError:
            if held is None:
                raise
            self._tokens[key] = _token(held.text, now, now + _TOKEN_RETRY)
            return held
        self._tokens[key] = token
        return token

    async def _request_token(self, pod: Pod, source: ServiceAccountTokenProjection) -> _Token:
        """A token bound to this pod; what the client answers offline may have expired and is used all the same."""
        meta, now = pod.metadata, self._clock.now()
        seconds = source.expiration_seconds or _TOKEN_SECONDS
        account = pod.spec.service_account_name or "default"
        body = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": account, "namespace": meta.namespace},
            "spec": {
                "audiences": [source.audience] if source.audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": meta.name, "uid": meta.uid},
            },
        }
        answer = await self._client.create(SERVICE_ACCOUNTS, body, meta.namespace, name=account, subresource="token")
        status = answer.read(TokenRequest).status
        if not status.token:
            raise VolumeError(f"no token was issued for service account {meta.namespace}/{account}")
        return _token(status.token, now, _renewal(now, status.expiration_timestamp, seconds))


def _token(text: str, now: datetime, renew_at: datetime) -> _Token:
    # A second later, so that the date decides wherever it goes right.
    return _Token(text, renew_at, asyncio.get_running_loop().time() + (renew_at - now).total_seconds() + 1.0)


def _renewal(now: datetime, expires: str | None, seconds: int) -> datetime:
    """At 80% of its life, at the latest after a day; a token already old is tried again soon."""
    end = parse_rfc3339(expires) if expires else now + timedelta(seconds=seconds)
    issued = end - timedelta(seconds=seconds)
    due = min(issued + timedelta(seconds=seconds * _TOKEN_SPENT), now + _TOKEN_OLDEST)
    return max(due, now + _TOKEN_RETRY)


def _plugin(volume: Volume) -> str:
    if volume.config_map is not None:
        return "configmap"
    if volume.secret is not None:
        return "secret"
    if volume.downward_api is not None:
        return "downward-api"
    return "projected" if volume.projected is not None else ""


def referenced(pod: Pod) -> set[tuple[str, str]]:
    """(`configmap` or `secret`, name) of every object the pod's volumes are made from."""
    names: set[tuple[str, str]] = set()
    for volume in pod.spec.volumes or ():
        if volume.config_map:
            names.add(("configmap", volume.config_map.name))
        if volume.secret:
            names.add(("secret", volume.secret.secret_name))
        for item in (volume.projected.sources if volume.projected else None) or ():
            if item.config_map:
                names.add(("configmap", item.config_map.name))
            if item.secret:
                names.add(("secret", item.secret.name))
    return names


def _select(what: str, data: Mapping[str, bytes], items: list[KeyToPath] | None, optional: bool) -> Payload:
    """All keys by their names, or the chosen ones at their paths."""
    if not items:
        return {key: File(value) for key, value in data.items()}
    missing = [item.key for item in items if item.key not in data]
    if missing and not optional:
        raise VolumeError(f"{what} has no key {', '.join(missing)} that a volume asks for")
    return {item.path: File(data[item.key], item.mode) for item in items if item.key in data}


def _mode(mode: int | None) -> int:
    return DEFAULT_MODE if mode is None else mode


def _group(pod: Pod) -> int | None:
    return pod.spec.security_context.fs_group if pod.spec.security_context else None


def _only_root(pod: Pod) -> bool:
    """Every container is said to run as root, so nobody else needs to read the token."""
    context = pod.spec.security_context
    shared = context.run_as_user if context else None
    users = {
        own.run_as_user if (own := item.security_context) and own.run_as_user is not None else shared
        for item in every_container(pod)
    }
    return users == {0} and _group(pod) is None


# --- the files --------------------------------------------------------------------------------------------


def write_atomically(folder: Path, files: Payload, default_mode: int, group: int | None = None) -> bool:
    """Bring `folder` to exactly these files; True when anything changed.

    Layout: `..<stamp>/` holds the files, `..data` links to it, and each top-level name links into `..data`.
    """
    for path in files:
        _check_path(path)
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "..data"
    current = folder / os.readlink(data) if data.is_symlink() else None
    if current is not None and current.is_dir() and _same(current, files):
        _link_names(folder, files)
        return False
    fresh = _new_folder(folder)
    for path, file in files.items():
        _write(fresh, path, file, default_mode, group)
    swap = folder / "..data_tmp"
    swap.unlink(missing_ok=True)
    swap.symlink_to(fresh.name)
    swap.replace(data)
    _link_names(folder, files)
    for item in folder.iterdir():
        if item.name.startswith("..2") and item != fresh and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
    return True


def _new_folder(folder: Path) -> Path:
    """`..2<n>`: the next free number."""
    number = 1
    while True:
        fresh = folder / f"..2{number:010d}"
        try:
            fresh.mkdir(mode=0o755)
        except FileExistsError:
            number += 1
            continue
        fresh.chmod(0o755)
        return fresh


def _write(fresh: Path, path: str, file: File, default_mode: int, group: int | None) -> None:
    target = fresh / path
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = file.mode if file.mode is not None else default_mode
    target.write_bytes(file.content)
    if group is not None:
        shutil.chown(target, group=group)
        mode |= 0o040 if mode & 0o400 else 0
    target.chmod(mode)


def _same(current: Path, files: Payload) -> bool:
    present = {str(item.relative_to(current)) for item in current.rglob("*") if item.is_file()}
    return present == set(files) and all((current / path).read_bytes() == file.content for path, file in files.items())


def _link_names(folder: Path, files: Payload) -> None:
    """One link for each top-level name, and none for names that went."""
    names = {path.split("/", 1)[0] for path in files}
    for name in names:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(Path("..data") / name)
    for item in folder.iterdir():
        if item.is_symlink() and not item.name.startswith("..") and item.name not in names:
            item.unlink()


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise VolumeError(f"{path!r} is no path inside a volume: it must be relative and without '..'")
