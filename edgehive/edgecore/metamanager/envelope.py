"""Judges whether content is an object fit to be stored, and whether it is newer than the one that is. Pure.

An object without uid or name is refused here, and one without kind and apiVersion gets those its path tells or is
refused too, so that no reader of a row ever has to guess (an edge that guessed has made dozens of pods out of one).
"""

from enum import Enum

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import ApiResource, by_edge_type
from edgehive.wire.names import ResourceType
from edgehive.wire.payloads import read_error
from edgehive.wire.resource import Resource

#: What the object of a patch is stored as.
_ROW_TYPES: dict[str, str] = {
    ResourceType.POD_PATCH: ResourceType.POD,
    ResourceType.POD_STATUS: ResourceType.POD,
    ResourceType.NODE_PATCH: ResourceType.NODE,
    ResourceType.NODE_STATUS: ResourceType.NODE,
}


class BadObject(ValueError):
    """Content that must not be stored; the text says what it lacks."""


class Age(Enum):
    """How an arriving object stands to the stored one."""

    NEW = "new"
    NEWER = "newer"
    SAME = "same"
    OLDER = "older"


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _Pod(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)


def row_of(resource: Resource) -> Resource:
    """The resource the object is stored under: a patch concerns the object it patches."""
    return resource._replace(type=_ROW_TYPES.get(resource.type, resource.type))


def pushed_object(content: bytes, resource: Resource) -> Document:
    """The object of an `insert` or `update`; raises BadObject."""
    # wire: the Go cloud sends devices it resends, what service accounts may do, and now and then pods without kind and
    # apiVersion, and nothing else until they are acknowledged (wire.md checklist row 32); the resource tells them.
    document = with_kind(_object(content), resource)
    _require("apiVersion", document.api_version)
    _require("kind", document.kind)
    _require("metadata.uid", document.meta.uid)
    _check_place(document, resource)
    return document


def answered_object(document: Document, resource: Resource) -> Document:
    """The object of an answer, kind and apiVersion filled in from what was asked; raises BadObject."""
    if resource.type == ResourceType.SERVICE_ACCOUNT_TOKEN:
        return with_kind(document, resource)  # a TokenRequest may come without a name
    document = with_kind(_object(document.raw), row_of(resource))
    _check_place(document, resource)
    return document


def deleted_uid(content: bytes) -> str:
    """Which life a `delete` means; "" where stock cloudcore confirms the deletion of a pod it does not know."""
    return _object(content).meta.uid


def with_kind(document: Document, resource: Resource) -> Document:
    """Kind and apiVersion by the resource's type, where the sender left them out (Go's typed answers do)."""
    if document.kind and document.api_version:
        return document
    if resource.type == ResourceType.SERVICE_ACCOUNT_TOKEN:
        named = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}
    elif (kind := by_edge_type(resource.type)) and not _contradicts(document, kind):
        named = {"kind": kind.kind, "apiVersion": kind.api_version}
    else:
        return document
    return Document.of(document.to_dict() | named)


def _contradicts(document: Document, kind: ApiResource) -> bool:
    return document.kind not in ("", kind.kind) or document.api_version not in ("", kind.api_version)


def compare(arriving: Document, stored: Document | None) -> Age:
    """By resourceVersion; a number that cannot be read counts as newer, so that nothing is lost to it."""
    if stored is None:
        return Age.NEW
    new, old = arriving.meta.resource_version, stored.meta.resource_version
    if new == old and arriving.meta.uid == stored.meta.uid and new:
        return Age.SAME
    if new.isdecimal() and old.isdecimal() and int(new) < int(old):
        return Age.OLDER
    return Age.NEWER


def is_for(document: Document, resource: Resource, node: str) -> bool:
    """Whether this node is concerned: a pod bound to another one is not ours to run."""
    if resource.type != ResourceType.POD:
        return True
    try:
        bound = document.read(_Pod).spec.node_name
    except msgspec.ValidationError as error:
        raise BadObject(f"{resource}: {error}") from error
    return bound in ("", node)


def _object(content: bytes) -> Document:
    if not content.startswith(b"{"):
        raise BadObject("the content is not an object")
    if fault := read_error(content):
        raise BadObject(f"the content is an error and no object: {fault.message or fault.reason}")
    document = Document(content)
    try:
        _ = document.meta
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BadObject(f"the content is no Kubernetes object: {error}") from error
    _require("metadata.name", document.meta.name)
    return document


def _require(field: str, value: str) -> None:
    if not value:
        raise BadObject(f"the object has no {field}")


def _check_place(document: Document, resource: Resource) -> None:
    meta = document.meta
    if resource.name and meta.name != resource.name:
        raise BadObject(f"the object is named {meta.name!r}, the resource says {resource.name!r}")
    if meta.namespace and meta.namespace != resource.namespace:
        raise BadObject(f"the object's namespace is {meta.namespace!r}, the resource says {resource.namespace!r}")
