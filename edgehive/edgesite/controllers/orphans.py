"""Which owners an orphan might belong to: so that a pod without a controller wakes those that would adopt it."""

from collections.abc import Callable, Iterable

import msgspec

from edgehive.edgesite.controllers.engine import Key
from edgehive.kube.informer import Change, Informer
from edgehive.kube.selectors import SelectorError, labels_from_object


class _Spec(msgspec.Struct, frozen=True):
    selector: dict[str, object] | None = None


class _Selecting(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


def orphan_keys(owners: Informer) -> Callable[[Change], Iterable[Key]]:
    """Keys of the owners whose selector matches an object that has no controller."""

    def keys(change: Change) -> Iterable[Key]:
        meta = change.new.meta if change.new is not None else None
        if meta is None or meta.controller_ref is not None or meta.deletion_timestamp:
            return
        for owner in owners.items(meta.namespace):
            try:
                selector = labels_from_object(owner.read(_Selecting).spec.selector)
            except SelectorError:
                continue
            if selector and selector.matches(meta.labels):
                yield (owner.meta.namespace, owner.meta.name)

    return keys
