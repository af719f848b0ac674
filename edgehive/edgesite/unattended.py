"""Tells whoever creates an object that nothing on a site acts on it, and what does instead.

An admission step of the site's API server; kubectl prints what it says as a warning. Never refuses anything: the
object may be meant for a controller the user runs.
"""

from collections.abc import Mapping
from typing import Any, Final

from edgehive.kube.server.options import Call

#: What a site serves for compatibility only: what does not happen, and the way round it.
UNATTENDED: Final[Mapping[str, str]] = {
    "statefulsets.apps": "makes no pods of it: use a Deployment",
    "replicationcontrollers": "makes no pods of it: use a Deployment",
    "cronjobs.batch": "makes no Jobs of it: create Jobs from a timer of your own",
    "horizontalpodautoscalers.autoscaling": "scales anything by it: use kubectl scale",
    "resourcequotas": "counts or enforces it: set limits on the pods",
    "limitranges": "enforces it: set requests and limits on the pods",
    "poddisruptionbudgets.policy": "counts its pods, so evictions of them are refused: delete pods instead",
    "networkpolicies.networking.k8s.io": "enforces it: every pod reaches every pod",
    "ingresses.networking.k8s.io": "serves it: use a Service of type NodePort",
    "persistentvolumeclaims": "binds it: bind it by hand to a PersistentVolume, or use a hostPath volume",
    "roles.rbac.authorization.k8s.io": "evaluates it: only the site's administrator has rights",
    "rolebindings.rbac.authorization.k8s.io": "evaluates it: only the site's administrator has rights",
    "clusterroles.rbac.authorization.k8s.io": "evaluates it: only the site's administrator has rights",
    "clusterrolebindings.rbac.authorization.k8s.io": "evaluates it: only the site's administrator has rights",
}


class Unattended:
    """One per server."""

    def admit(self, call: Call, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        if old is not None or call.subresource:
            return
        lack = UNATTENDED.get(call.served.storage)
        if lack:
            kind = call.served.resource.kind
            call.warnings.append(f'{kind} "{obj["metadata"].get("name", "")}" is kept, but nothing on this site {lack}')
