"""Static pods: run what the manifests in a folder of this node describe, and mirror it at the API server.

For `edged.py`. The files alone decide what runs, with or without the cloud; a mirror is only shown, and made again when
somebody deletes it. A file that cannot be read or understood changes nothing until it can.

Go: pkg/kubelet/config/file.go, pkg/kubelet/kubelet.go (tryReconcileMirrorPods)
"""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from edgehive.api.document import Document
from edgehive.api.registry import NODES, PODS
from edgehive.edgecore.edged.manifests import HASH, ManifestError, is_mirror, mirror_of, mirrored_hash, static_pod
from edgehive.edgecore.edged.pods import PodRefused, Pods, read_pod
from edgehive.edgecore.edged.reporter import Reporter
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock, rfc3339
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists, ApiError, Conflict, NotFound

log = logging.getLogger("edgehive.edged")

#: A manifest is looked at this often, or as often as fileCheckFrequency says if that is more often.
_LOOK_SECONDS = 2.0
_MAX_MANIFEST = 1024 * 1024

Name = tuple[str, str]
#: Size, time of change and inode of a file: another value is another content.
_Print = tuple[int, int, int]
#: Of a file that was listed and could not be found.
_MISSED: _Print = (-1, -1, -1)


@dataclass(slots=True)
class _File:
    """A manifest as it was last looked at."""

    print: _Print
    #: The pod of the last content that made sense.
    pod: Document | None = None


@dataclass(slots=True)
class StaticPods:
    """`run` for ever; tell it of mirrors that the cloud sends."""

    folder: str
    node_name: str
    client: Client
    clock: Clock
    pods: Pods
    reporter: Reporter
    look_seconds: float = _LOOK_SECONDS
    #: The folder has been read at least once.
    known: bool = False
    _files: dict[str, _File] = field(default_factory=dict)
    _static: dict[Name, Document] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
    _mirrors: dict[Name, Document] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _complained: str = ""

    def __post_init__(self) -> None:
        self.known = not self.folder

    async def run(self) -> None:
        """Nothing at all without a folder."""
        if not self.folder:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_files(), name="static pods")
            group.create_task(self._keep_mirrors(), name="mirror pods")

    def owns(self, namespace: str, name: str) -> bool:
        """A static pod or the mirror of one has this name."""
        return (namespace, name) in self._static or (namespace, name) in self._mirrors

    def mirror_seen(self, document: Document) -> None:
        """The cloud holds this mirror, in this form."""
        self._mirrors[_name(document)] = document
        self._changed.set()

    def mirror_gone(self, namespace: str, name: str, uid: str) -> None:
        held = self._mirrors.get((namespace, name))
        if held is not None and uid in ("", held.meta.uid):
            del self._mirrors[(namespace, name)]
            self._changed.set()

    def cloud_connected(self) -> None:
        self._changed.set()

    # --- files ---

    async def _follow_files(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(min(self.look_seconds, _LOOK_SECONDS))

    async def _look(self) -> None:
        try:
            before = dict(self._files)
            self._files = await asyncio.to_thread(self._read_folder, before)
            self._complained = ""
        except OSError as error:
            if str(error) != self._complained:
                log.warning("manifests of static pods cannot be read, the pods stay as they are: %s", error)
            self._complained = str(error)
            return
        if self._files != before or not self.known:
            self._static = dict(self._unique())
            self._changed.set()
        self.known = True
        await self._run_pods()

    def _read_folder(self, before: dict[str, _File]) -> dict[str, _File]:
        root = Path(self.folder)
        try:
            names = sorted(root.iterdir()) if root.is_dir() else [root] if root.is_file() else []
        except FileNotFoundError:
            return {}
        files = {}
        for path in names:
            held = before.get(str(path))
            try:
                if not path.name.startswith(".") and S_ISREG(path.stat().st_mode):
                    files[str(path)] = self._read(path, held)
            except FileNotFoundError:
                # It went between the listing and the look: the next look shows whether it comes back.
                if held is not None and held.print != _MISSED:
                    files[str(path)] = _File(_MISSED, held.pod)
        return files

    def _read(self, path: Path, before: _File | None) -> _File:
        found = path.stat()
        print = (found.st_size, found.st_mtime_ns, found.st_ino)
        if before is not None and before.print == print:
            return before
        try:
            if found.st_size > _MAX_MANIFEST:
                raise ManifestError(f"{path}: a manifest has at most {_MAX_MANIFEST} bytes")
            pod = static_pod(path.read_bytes(), str(path), self.node_name, rfc3339(self.clock.now()))
            read_pod(pod, self.node_name)
        except (ManifestError, PodRefused, OSError) as error:
            log.warning("static pod refused: %s", error)
            return _File(print, before.pod if before else None)
        return _File(print, pod)

    def _unique(self) -> Iterator[tuple[Name, Document]]:
        taken: set[Name] = set()
        for path, file in self._files.items():
            if file.pod is None:
                continue
            name = _name(file.pod)
            if name in taken:
                log.warning("static pod refused: %s: another manifest describes %s/%s already", path, *name)
            else:
                taken.add(name)
                yield name, file.pod

    async def _run_pods(self) -> None:
        """One that is still ending under the same UID is started by a later look."""
        wanted = {document.meta.uid: document for document in self._static.values()}
        for uid in self._running - wanted.keys():
            await self.pods.remove(uid)
        for uid, document in wanted.items():
            if self.pods.get(uid) is None:
                await self.pods.apply(document, read_pod(document, self.node_name))
                self._changed.set()
        self._running = set(wanted)

    # --- mirrors ---

    async def _keep_mirrors(self) -> None:
        delays, failures = Backoff(first=2.0, limit=60.0), 0
        while True:
            self._changed.clear()
            try:
                if self.known:
                    await self._reconcile()
                failures, delay = 0, None
            except ApiError as error:
                log.log(logging.DEBUG if error.transient else logging.WARNING, "mirror pods: %s", error)
                delay = delays.delay(failures)
                failures += 1
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _reconcile(self) -> None:
        """One round over all: a refused mirror holds up no other; the first refusal is raised at the end."""
        refusals: list[ApiError] = []
        for name, mirror in list(self._mirrors.items()):
            static = self._static.get(name)
            if static is None or mirrored_hash(mirror) != _hash(static) or mirror.meta.deletion_timestamp:
                try:
                    await self._drop(name, mirror)
                except ApiError as error:
                    refusals.append(error)
        for name, static in list(self._static.items()):
            try:
                mirror = self._mirrors.get(name) or await self._create(static)
            except ApiError as error:
                refusals.append(error)
                continue
            self._mirrors[name] = mirror
            if mirrored_hash(mirror) == _hash(static):
                self.reporter.mirror(static.meta.uid, mirror)
            else:
                self._changed.set()
        if refusals:
            raise refusals[0]

    async def _drop(self, name: Name, mirror: Document) -> None:
        try:
            await self.client.delete(PODS, name[1], name[0], grace_period_seconds=0, uid=mirror.meta.uid)
        except (NotFound, Conflict):
            log.debug("mirror pod %s/%s is gone already", *name)
        if self._mirrors.get(name) is mirror:
            del self._mirrors[name]

    async def _create(self, static: Document) -> Document:
        namespace, name = _name(static)
        node = await self.client.get(NODES, self.node_name)
        try:
            return await self.client.create(PODS, mirror_of(static, self.node_name, node.meta.uid), namespace)
        except AlreadyExists:
            # Of an earlier life, and not told of yet; what is no mirror of ours is not ours to remove.
            held = await self.client.get(PODS, name, namespace)
            if not is_mirror(held):
                raise
            return held


def _name(document: Document) -> Name:
    return document.meta.namespace, document.meta.name


def _hash(static: Document) -> str:
    return (static.meta.annotations or {})[HASH]
