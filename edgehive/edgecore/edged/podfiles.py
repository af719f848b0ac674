"""The files a pod's containers get besides volumes: /etc/hosts, termination logs, checked subPaths.

For `runtime.py`; all of it lies under `<rootDirectory>/pods/<uid>` and goes with that folder.

Go: pkg/kubelet/kubelet_pods.go (ensureHostsFile), pkg/volume/util/subpath
"""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edgehive.api.core import Pod
from edgehive.edgecore.edged.environment import ContainerConfigError
from edgehive.edgecore.edged.podspec import TERMINATION_POLICY
from edgehive.edgecore.edged.volumes.local import pod_directory
from edgehive.protos import cri_pb2 as cri

log = logging.getLogger("edgehive.edged")

_MESSAGE_BYTES = 4096
_LOG_BYTES, _LOG_LINES = 2048, 80
_HOSTS = """# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
_TOMBSTONE = "deleted"


class PodFiles:
    """One pod's folder."""

    def __init__(self, root: Path, uid: str) -> None:
        self._folder = pod_directory(root, uid)

    def ensure(self) -> None:
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)

    def bury(self) -> None:
        """Note for the next start of this process that the pod is unwanted, before it is stopped.

        A disk that takes no note does not keep the pod from being stopped.
        """
        try:
            self.ensure()
            (self._folder / _TOMBSTONE).touch()
        except OSError as error:
            log.warning("the end of a pod is not noted in %s: %s", self._folder, error.strerror)

    @property
    def buried(self) -> bool:
        return (self._folder / _TOMBSTONE).exists()

    def hosts(self, pod: Pod, ips: Sequence[str], cluster_domain: str) -> str:
        """The managed /etc/hosts, "" when the pod uses the node's network and adds nothing."""
        spec = pod.spec
        if spec.host_network and not spec.host_aliases:
            return ""
        text = _node_hosts() if spec.host_network else _HOSTS + _own_lines(pod, ips, cluster_domain)
        if spec.host_aliases:
            text += "\n# Entries added by HostAliases.\n"
            text += "".join("\t".join([alias.ip, *(alias.hostnames or ())]) + "\n" for alias in spec.host_aliases)
        path = self._folder / "etc-hosts"
        self.ensure()
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        return str(path)

    def termination_log(self, container: str, attempt: int) -> str:
        """An empty file the container may write its last words to."""
        path = self._last_words(container, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(0o666)
        return str(path)

    def last_words(self, container: str, attempt: int) -> str:
        try:
            with self._last_words(container, attempt).open("rb") as file:
                return file.read(_MESSAGE_BYTES).decode(errors="replace")
        except OSError:
            return ""

    def _last_words(self, container: str, attempt: int) -> Path:
        return self._folder / "containers" / container / str(attempt)

    def sub_paths(self, pairs: Iterable[tuple[str, str]], places: Mapping[str, str]) -> dict[tuple[str, str], str]:
        """Each subPath's place, made if missing; raises ContainerConfigError when it leads out of its volume."""
        return {(name, inside): _inside(name, places.get(name, ""), inside) for name, inside in pairs}

    @staticmethod
    def remove_logs(folder: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)


def termination_message(files: PodFiles, status: cri.ContainerStatus) -> str:
    """What the container left as its last words, else the end of its log where the policy says so."""
    words = files.last_words(status.metadata.name, status.metadata.attempt)
    fallback = status.annotations.get(TERMINATION_POLICY) == "FallbackToLogsOnError"
    if words or not fallback or (status.exit_code == 0 and status.reason != "OOMKilled"):
        return words
    return _end_of_log(status.log_path)


def _end_of_log(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4 * _LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return ""
    # Each line is `<time> <stream> <tag> <text>`.
    texts = [line.split(" ", 3)[3] for line in lines if line.count(" ") >= 3]
    return "\n".join(texts)[-_LOG_BYTES:] + ("\n" if texts else "")


def _own_lines(pod: Pod, ips: Sequence[str], cluster_domain: str) -> str:
    spec = pod.spec
    name = (spec.hostname or pod.metadata.name)[:63]
    names = name
    if spec.subdomain:
        names = f"{name}.{spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}\t{name}"
    return "".join(f"{ip}\t{names}\n" for ip in ips)


def _node_hosts() -> str:
    try:
        return "# Kubernetes-managed hosts file (host network).\n" + Path("/etc/hosts").read_text(encoding="utf-8")
    except OSError:
        return _HOSTS


def _inside(volume: str, place: str, inside: str) -> str:
    if not place:
        raise ContainerConfigError(f'cannot find volume "{volume}" for subPath {inside!r}')
    root = Path(place).resolve()
    target = (root / inside).resolve()
    if not target.is_relative_to(root):
        raise ContainerConfigError(f"subPath {inside!r} leads out of volume {volume}")
    if not target.exists():
        try:
            target.mkdir(mode=0o777, parents=True)
        except OSError as error:
            message = f"failed to create subPath directory for volumeMount {volume!r}: {error.strerror}"
            raise ContainerConfigError(message) from error
    return str(target)
