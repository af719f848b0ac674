"""Every namespace gets its `default` ServiceAccount and the `kube-root-ca.crt` ConfigMap pods verify the API with.

Go: pkg/controller/serviceaccount/serviceaccounts_controller.go, pkg/controller/certificates/rootcacertpublisher
"""

from collections.abc import Sequence

from edgehive.api.core import Namespace
from edgehive.api.registry import CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key
from edgehive.kube.errors import AlreadyExists, Forbidden, NotFound
from edgehive.kube.informer import Change

ROOT_CA = "kube-root-ca.crt"
DEFAULT = "default"
_WHY = {
    "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using "
    "internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed "
    "across distributions of Kubernetes clusters."
}


class ServiceAccounts:
    name = "serviceaccounts"

    def __init__(self, deps: ControllerDeps, root_ca: str) -> None:
        self._client = deps.client
        self._root_ca = root_ca
        self._namespaces = deps.informers.of(NAMESPACES)
        self._accounts = deps.informers.of(SERVICE_ACCOUNTS)
        self._maps = deps.informers.of(CONFIG_MAPS)

    def sources(self) -> Sequence[Source]:
        return (
            Source(self._namespaces, own_key),
            Source(self._accounts, lambda change: _namespace_key(change, DEFAULT)),
            Source(self._maps, lambda change: _namespace_key(change, ROOT_CA)),
        )

    async def reconcile(self, key: Key) -> float | None:
        name = key[1]
        namespace = self._namespaces.get(name)
        if namespace is None or namespace.read(Namespace).metadata.deletion_timestamp:
            return None
        try:
            await self._ensure_account(name)
            await self._ensure_root_ca(name)
        except (NotFound, Forbidden):
            # The namespace went, or began to go, while we wrote into it.
            return None
        return None

    async def _ensure_account(self, namespace: str) -> None:
        if self._accounts.get(DEFAULT, namespace) is not None:
            return
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT, "namespace": namespace}}
        try:
            await self._client.create(SERVICE_ACCOUNTS, body, namespace)
        except AlreadyExists:
            return

    async def _ensure_root_ca(self, namespace: str) -> None:
        current = self._maps.get(ROOT_CA, namespace)
        data = {"ca.crt": self._root_ca}
        if current is not None:
            body = current.to_dict()
            if body.get("data") != data:
                await self._client.update(CONFIG_MAPS, {**body, "data": data})
            return
        metadata = {"name": ROOT_CA, "namespace": namespace, "annotations": dict(_WHY)}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        try:
            await self._client.create(CONFIG_MAPS, body, namespace)
        except AlreadyExists:
            return


def _namespace_key(change: Change, name: str) -> Sequence[Key]:
    """The namespace of a changed object that should be there under this name."""
    return [("", change.key[0])] if change.key[1] == name else []
