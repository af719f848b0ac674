"""What happens to an object between decoding and storing: admission, defaults, validation.

`Admission` is the seam: each plug-in may change a new object or refuse the request. The built-in ones guard
namespaces and complete pods the way a Kubernetes cluster does; webhooks will join here.

Go: k8s.io/apiserver/pkg/admission, plugin/pkg/admission/{serviceaccount,defaulttolerationseconds}
"""

from collections.abc import Sequence
from typing import Any, Protocol

from edgehive.api.meta import StatusCause, StatusDetails
from edgehive.kube.errors import Forbidden, not_found, qualified
from edgehive.kube.server.options import Call
from edgehive.kube.server.strategy import generated_name
from edgehive.kube.store import Key, Store

Json = dict[str, Any]

PROTECTED_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})
TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  a path
_SYSTEM_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_TOLERATION_SECONDS = 300
_TOKEN_SECONDS = 3607


class Admission(Protocol):
    """One step on the way of a write. `old` is None for a creation."""

    def admit(self, call: Call, obj: Json, old: Json | None) -> None:
        """Change `obj` in place, or raise an ApiError."""
        ...


class NamespaceLifecycle:
    """Nothing is created in a namespace that is missing or going away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def admit(self, call: Call, obj: Json, old: Json | None) -> None:
        if old is not None or not call.served.resource.namespaced or call.subresource:
            return
        stored = self._store.get(Key("namespaces", "", call.namespace))
        if stored is None:
            raise not_found("namespaces", "", call.namespace)
        if stored.document.meta.deletion_timestamp:
            raise _terminating(call, obj)


def _terminating(call: Call, obj: Json) -> Forbidden:
    row, name = call.served.resource, obj["metadata"].get("name", "")
    because = f"because namespace {call.namespace} is being terminated"
    cause = StatusCause("NamespaceTerminating", f"namespace {call.namespace} is being terminated", "metadata.namespace")
    return Forbidden(
        f'{qualified(row.plural, row.group)} "{name}" is forbidden: unable to create new content in namespace '
        f"{call.namespace} {because}",
        details=StatusDetails(name=name, group=row.group, kind=row.plural, causes=[cause]),
    )


def check_namespace_deletion(call: Call) -> None:
    """Some namespaces stay; raises Forbidden."""
    if call.served.storage == "namespaces" and call.name in PROTECTED_NAMESPACES:
        raise Forbidden(
            f'namespaces "{call.name}" is forbidden: this namespace may not be deleted',
            details=StatusDetails(name=call.name, kind="namespaces"),
        )


class PodTolerations:
    """A pod stays five minutes on a node that is not ready or unreachable, unless it says otherwise."""

    def admit(self, call: Call, obj: Json, old: Json | None) -> None:
        if call.served.storage != "pods" or old is not None or call.subresource:
            return
        spec = obj["spec"]
        tolerations = list(spec.get("tolerations") or ())
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            if not any(_covers(item, key) for item in tolerations):
                tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute",
                                    "tolerationSeconds": _TOLERATION_SECONDS})  # fmt: skip
        spec["tolerations"] = tolerations


def _covers(toleration: Json, key: str) -> bool:
    return toleration.get("key") in (key, None, "") and toleration.get("effect") in ("NoExecute", None, "")


class PodPriority:
    """Resolves priorityClassName to a number; pods without a class take the global default, or 0."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def admit(self, call: Call, obj: Json, old: Json | None) -> None:
        if call.served.storage != "pods" or old is not None or call.subresource:
            return
        spec = obj["spec"]
        name = spec.get("priorityClassName") or ""
        found = self._class(name)
        if name and found is None and name not in _SYSTEM_PRIORITIES:
            raise Forbidden(
                f'pods "{obj["metadata"].get("name", "")}" is forbidden: no PriorityClass with name {name} was found',
                details=StatusDetails(name=obj["metadata"].get("name", ""), kind="pods"),
            )
        if found is not None and not name:
            spec["priorityClassName"] = found["metadata"]["name"]
        spec["priority"] = found["value"] if found else _SYSTEM_PRIORITIES.get(name, 0)
        spec.setdefault("preemptionPolicy", (found or {}).get("preemptionPolicy", "PreemptLowerPriority"))

    def _class(self, name: str) -> Json | None:
        if name:
            stored = self._store.get(Key("priorityclasses.scheduling.k8s.io", "", name))
            return stored.to_dict() if stored else None
        classes = (item.to_dict() for item in self._store.items("priorityclasses.scheduling.k8s.io"))
        return next((item for item in classes if item.get("globalDefault")), None)


class ServiceAccounts:
    """Every pod runs as a service account, and finds that account's token mounted unless it declines."""

    def __init__(self, store: Store, *, require: bool = True) -> None:
        self._store = store
        self._require = require

    def admit(self, call: Call, obj: Json, old: Json | None) -> None:
        if call.served.storage != "pods" or old is not None or call.subresource:
            return
        if "kubernetes.io/config.mirror" in (obj["metadata"].get("annotations") or {}):
            return
        spec = obj["spec"]
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        stored = self._store.get(Key("serviceaccounts", call.namespace, name))
        if stored is None and self._require:
            pod = obj["metadata"].get("name", "")
            raise Forbidden(
                f'pods "{pod}" is forbidden: error looking up service account {call.namespace}/{name}: '
                f'serviceaccount "{name}" not found',
                details=StatusDetails(name=pod, kind="pods"),
            )
        account = stored.to_dict() if stored else {}
        if account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]
        mounts = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        if mounts is not False:
            _mount_token(spec)


def _mount_token(spec: Json) -> None:
    """Add the projected token volume to every container that has nothing else in its place."""
    volumes = spec.get("volumes") or []
    name = next((item["name"] for item in volumes if item["name"].startswith("kube-api-access-")), "")
    mount = {"name": name or generated_name("kube-api-access-"), "readOnly": True, "mountPath": TOKEN_MOUNT}
    needed = False
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        mounts = container.get("volumeMounts") or []
        if not any(item.get("mountPath") == TOKEN_MOUNT for item in mounts):
            container["volumeMounts"] = [*mounts, mount]
            needed = True
    if needed and not name:
        spec["volumes"] = [*volumes, {"name": mount["name"], "projected": _token_sources()}]


def _token_sources() -> Json:
    namespace_field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    return {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": _TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace_field}]}},
        ],
    }


def admit_all(plugins: Sequence[Admission], call: Call, obj: Json, old: Json | None) -> None:
    for plugin in plugins:
        plugin.admit(call, obj, old)
