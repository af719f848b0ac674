"""Whose pods are whose, and which cloudcore holds a node: cloudhub's view of the shared copies.

It answers authorization's question and writes the `cloudcore` annotation of a node that connected here, only
when it says something else.

Go: cloud/pkg/cloudhub/common, cloud/pkg/cloudhub/handler
"""

import asyncio
import logging

import msgspec

from edgehive.api.core import Lens
from edgehive.api.registry import NODES, PODS
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR, CloudDeps
from edgehive.kube.client import PatchType
from edgehive.kube.errors import ApiError

log = logging.getLogger("edgehive.cloudhub")

ANNOTATION = "cloudcore"
#: Writes of annotations at a time: after a restart all nodes connect at once.
AT_ONCE = 8


class _Spec(Lens, frozen=True):
    node_name: str = ""


class _Pod(Lens, frozen=True):
    spec: _Spec = _Spec()


class Ownership:
    """See the file's head."""

    def __init__(self, deps: CloudDeps) -> None:
        self._client = deps.client
        self._address = deps.address
        self._pods = deps.informers.of(PODS)
        self._nodes = deps.informers.of(NODES, label_selector=EDGE_NODE_SELECTOR)
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def wait_synced(self) -> None:
        await self._pods.wait_synced()
        await self._nodes.wait_synced()

    def node_of_pod(self, namespace: str, name: str) -> str | None:
        """The node a pod is bound to, "" for none yet, None when no such pod is known."""
        document = self._pods.get(name, namespace)
        if document is None:
            return None
        try:
            return document.read(_Pod).spec.node_name
        except msgspec.ValidationError:
            return ""

    def claim(self, node: str, tasks: asyncio.TaskGroup | None) -> None:
        """Write on the Node that this cloudcore holds it, unless it says so already."""
        document = self._nodes.get(node)
        if document is None or not self._address or tasks is None:
            return
        if (document.meta.annotations or {}).get(ANNOTATION) != self._address:
            tasks.create_task(self._annotate(node), name=f"annotate {node}")

    async def _annotate(self, node: str) -> None:
        patch = {"metadata": {"annotations": {ANNOTATION: self._address}}}
        async with self._slots:
            try:
                await self._client.patch(NODES, node, patch, type=PatchType.MERGE)
            except ApiError as error:
                log.warning("cannot write annotation %s of node %s: %s", ANNOTATION, node, error)
