"""What objects of storage must be, and what of them stays: volumes, claims, classes. Pure.

Go: pkg/apis/core/validation (PersistentVolume...), pkg/apis/storage/validation
"""

from collections.abc import Mapping
from typing import Any, Final

from edgehive.kube.server.field_errors import FieldErrors

Json = Mapping[str, Any]


def storage_class(errors: FieldErrors, obj: Json) -> None:
    if not obj.get("provisioner"):
        errors.required("provisioner")
    errors.one_of("reclaimPolicy", obj.get("reclaimPolicy"), ("Delete", "Retain"))
    errors.one_of("volumeBindingMode", obj.get("volumeBindingMode"), ("Immediate", "WaitForFirstConsumer"))


def claim(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    if not spec.get("accessModes"):
        errors.required("spec.accessModes", "at least 1 access mode is required")
    if not ((spec.get("resources") or {}).get("requests") or {}).get("storage"):
        errors.required("spec.resources[storage]")


def volume(errors: FieldErrors, obj: Json) -> None:
    policy = (obj.get("spec") or {}).get("persistentVolumeReclaimPolicy")
    errors.one_of("spec.persistentVolumeReclaimPolicy", policy, ("Delete", "Recycle", "Retain"))


#: What a volume says about itself beside where it is.
_OF_VOLUMES: Final = frozenset({
    "capacity", "accessModes", "claimRef", "persistentVolumeReclaimPolicy", "storageClassName", "mountOptions",
    "volumeMode", "nodeAffinity", "volumeAttributesClassName",
})  # fmt: skip


def volume_update(errors: FieldErrors, old: Json, new: Json) -> None:
    modes = [(obj.get("spec") or {}).get("volumeMode") for obj in (old, new)]
    errors.immutable("spec.volumeMode", modes[0], modes[1])
    sources = [{key: value for key, value in (obj.get("spec") or {}).items() if key not in _OF_VOLUMES}
               for obj in (old, new)]  # fmt: skip
    if sources[0] != sources[1]:
        text = "spec.persistentvolumesource is immutable after creation"
        errors.forbidden("spec.persistentvolumesource", text)


def claim_update(errors: FieldErrors, old: Json, new: Json) -> None:
    before, after = dict(old.get("spec") or {}), dict(new.get("spec") or {})
    is_bound = (old.get("status") or {}).get("phase") == "Bound"
    for field, may_change in (("volumeName", not before.get("volumeName")),
                              ("storageClassName", before.get("storageClassName") is None),
                              ("resources", is_bound), ("volumeAttributesClassName", True)):  # fmt: skip
        if may_change:
            before.pop(field, None)
            after.pop(field, None)
    if before != after:
        errors.forbidden("spec", "spec is immutable after creation except resources.requests and "
                         "volumeAttributesClassName for bound claims")  # fmt: skip
