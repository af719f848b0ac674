"""What a client may send and wants to get: Accept and Content-Type, decided. Pure.

Go: k8s.io/apiserver/pkg/endpoints/handlers/negotiation
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from edgehive.api.meta import StatusDetails
from edgehive.kube.client import PatchType
from edgehive.kube.errors import NotAcceptable, UnsupportedMediaType

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"


class View(Enum):
    """How objects are shown."""

    OBJECT = ""
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"
    METADATA_LIST = "PartialObjectMetadataList"
    DISCOVERY = "APIGroupDiscoveryList"


_GROUPS = {"meta.k8s.io": ("v1", "v1beta1"), "apidiscovery.k8s.io": ("v2", "v2beta1")}


@dataclass(frozen=True, slots=True)
class Representation:
    """One acceptable answer."""

    media_type: str = JSON
    view: View = View.OBJECT
    version: str = ""

    @property
    def content_type(self) -> str:
        """With the parameters clients look for; plain for ordinary objects."""
        if self.view is View.DISCOVERY:
            return f"{self.media_type};g=apidiscovery.k8s.io;v={self.version};as={self.view.value}"
        return self.media_type


def accepted(header: str, *, views: frozenset[View]) -> Representation:
    """The first representation we can give; raises NotAcceptable."""
    for media_type, parameters in _clauses(header or "*/*"):
        if media_type in ("*/*", "application/*"):
            media_type = JSON
        if media_type not in (JSON, YAML):
            continue
        view = _view(parameters, views)
        if view is not None:
            return Representation(media_type, view, parameters.get("v", ""))
    raise NotAcceptable(f"406: Not Acceptable\n\nAvailable representations: {JSON}, {YAML}", details=StatusDetails())


def _view(parameters: dict[str, str], views: frozenset[View]) -> View | None:
    wanted = parameters.get("as", "")
    if not wanted:
        return View.OBJECT
    try:
        view = View(wanted)
    except ValueError:
        return None
    versions = _GROUPS.get(parameters.get("g", ""), ())
    return view if view in views and parameters.get("v") in versions else None


def _clauses(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Media types with parameters, best first."""
    found = []
    for position, clause in enumerate(header.split(",")):
        media_type, *rest = (part.strip() for part in clause.split(";"))
        parameters = dict(part.split("=", 1) for part in rest if "=" in part)
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        if weight > 0:
            found.append((-weight, position, media_type, parameters))
    for _, _, media_type, parameters in sorted(found, key=lambda item: item[:2]):
        yield media_type, parameters


def body_type(header: str) -> str:
    """JSON, YAML or PROTOBUF; raises UnsupportedMediaType."""
    media_type = header.partition(";")[0].strip().lower() or JSON
    if media_type in (JSON, YAML, PROTOBUF):
        return media_type
    raise unsupported()


def patch_type(header: str) -> PatchType:
    """The patch language; raises UnsupportedMediaType."""
    try:
        return PatchType(header.partition(";")[0].strip().lower())
    except ValueError as error:
        raise unsupported() from error


def unsupported() -> UnsupportedMediaType:
    return UnsupportedMediaType("415: Unsupported Media Type", details=StatusDetails())


def no_server_side_apply() -> UnsupportedMediaType:
    text = "server-side apply is not supported by this server: apply without --server-side, or send another patch"
    return UnsupportedMediaType(text, details=StatusDetails())
