"""The OpenAPI v2 document, for clients that ask for it before they send a `List`: kubectl apply does. Pure.

It describes no kind: a client then leaves the judgement to the server, which validates every object it is sent.
The kinds are described in OpenAPI v3 (`openapi.py`).

Go: k8s.io/kube-openapi/pkg/handler
"""

from typing import Any

PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
#: What clients call it when they ask; an `@` is no part of a media type, so it is not answered.
ASKED_FOR = ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", PROTOBUF)
_TITLE = "Kubernetes"
# Field numbers of Document and Info in gnostic's OpenAPIv2.proto.
_SWAGGER, _INFO, _PATHS = 1, 2, 8
_INFO_TITLE, _INFO_VERSION = 1, 2


def document(version: str) -> dict[str, Any]:
    """As JSON."""
    return {"swagger": "2.0", "info": {"title": _TITLE, "version": version}, "paths": {}}


def protobuf(version: str) -> bytes:
    """As the protobuf message kubectl asks for."""
    info = _field(_INFO_TITLE, _TITLE.encode()) + _field(_INFO_VERSION, version.encode())
    return _field(_SWAGGER, b"2.0") + _field(_INFO, info) + _field(_PATHS, b"")


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field; every one here is shorter than 128 bytes."""
    return bytes((number << 3 | 2, len(content))) + content
