"""Request bodies in every encoding clients send, and the options they carry.

Go: k8s.io/apiserver/pkg/endpoints/handlers/{create,delete}.go
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml
from aiohttp import web

from edgehive.kit import http
from edgehive.kit.config import parse_yaml
from edgehive.kit.json_depth import MAX_DEPTH, too_deep
from edgehive.kube.errors import BadRequest, RequestTooLarge, Timeout, invalid
from edgehive.kube.server import negotiation
from edgehive.kube.server.catalog import Served
from edgehive.kube.server.conform import duplicate_fields
from edgehive.kube.server.field_errors import FieldErrors
from edgehive.kube.server.options import Call, DeleteOptions, ListOptions
from edgehive.kube.server.protobuf import decode_body

Json = dict[str, Any]

_VALIDATION = ("Ignore", "Warn", "Strict")
_PROPAGATIONS = ("Foreground", "Background", "Orphan")
_OPTIONS = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions"}
_MANAGER_LIMIT = 128


async def read(request: web.Request) -> bytes:
    """The whole body; raises RequestTooLarge, Timeout."""
    try:
        return await http.read_body(request)
    except TimeoutError as error:
        raise Timeout(f"the request's body did not arrive within {http.BODY_SECONDS:g} s") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise RequestTooLarge("Request entity too large: limit is 3145728") from error


async def read_object(request: web.Request, call: Call) -> Json:
    """The object in the body; raises BadRequest, UnsupportedMediaType."""
    media_type = negotiation.body_type(request.headers.get("Content-Type", ""))
    data = await read(request)
    if media_type == negotiation.PROTOBUF:
        api_version, kind, obj = decode_body(data)
        return {"kind": kind, "apiVersion": api_version} | obj
    if media_type == negotiation.JSON and call.field_validation in ("Warn", "Strict"):
        call.duplicate_fields = duplicate_fields(data)
    return _mapping(data, media_type, call.served)


def _mapping(data: bytes, media_type: str, served: Served) -> Json:
    value = decode(data, media_type, served.resource.kind)
    if not isinstance(value, dict):
        raise BadRequest(f"the object provided is unrecognized (must be of type {served.resource.kind}): "
                         "it is not an object")  # fmt: skip
    return value


def decode(data: bytes, media_type: str, kind: str) -> Any:
    """JSON or YAML; raises BadRequest."""
    if not data:
        raise BadRequest(f"the request has no body; a {kind} is needed")
    try:
        if media_type == negotiation.YAML:
            data = msgspec.json.encode(parse_yaml(data))
        if too_deep(data):
            raise BadRequest(f"the {kind} is nested more than {MAX_DEPTH} levels deep")
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, yaml.YAMLError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; "
            f"json parse error: {error} ({_excerpt(data)})"
        ) from error


def _excerpt(data: bytes) -> str:
    text = data[:40].decode(errors="replace")
    return f"{text} ..." if len(data) > 40 else text


async def read_patch(request: web.Request, kind: str) -> Any:
    """A patch document; server-side apply sends YAML."""
    data = await read(request)
    try:
        return decode(data, negotiation.JSON, kind)
    except BadRequest as error:
        raise BadRequest(f"error decoding patch: {error}") from error


def check_write(request: web.Request, *, apply: bool = False) -> None:
    """The options of a create, update or patch; raises Invalid."""
    errors, query = FieldErrors(), request.query
    if query.get("force") is not None and request.method == "PATCH" and not apply:
        errors.forbidden("force", "may not be specified for non-apply patch")
    if len(query.get("fieldManager", "")) > _MANAGER_LIMIT:
        errors.too_long("fieldManager", _MANAGER_LIMIT)
    _check_dry_run(errors, query.getall("dryRun", []))
    wanted = query.get("fieldValidation", "")
    if wanted and wanted not in _VALIDATION:
        errors.not_supported("fieldValidation", wanted, ("", "Ignore", "Strict", "Warn"))
    if errors.causes:
        raise invalid(_OPTIONS[request.method], "meta.k8s.io", "", errors.causes)


def _check_dry_run(errors: FieldErrors, asked: Sequence[Any]) -> None:
    if any(value not in ("", "All") for value in asked):
        errors.not_supported("dryRun", list(asked), ("All",))


def field_validation(request: web.Request) -> str:
    return request.query.get("fieldValidation") or "Warn"


def is_dry_run(request: web.Request, body: Mapping[str, Any] | None = None) -> bool:
    return "All" in [*request.query.getall("dryRun", ()), *((body or {}).get("dryRun") or ())]


def list_options(request: web.Request) -> ListOptions:
    """Raises BadRequest."""
    query = request.query
    return ListOptions(
        query.get("labelSelector", ""),
        query.get("fieldSelector", ""),
        query.get("resourceVersion", ""),
        query.get("resourceVersionMatch", ""),
        _number(query.get("limit"), "limit") or 0,
        query.get("continue", ""),
        _flag(query.get("sendInitialEvents")),
        _flag(query.get("allowWatchBookmarks")) or False,
        _number(query.get("timeoutSeconds"), "timeoutSeconds"),
    )


def _number(text: str | None, name: str) -> int | None:
    if not text:
        return None
    try:
        return max(0, int(text))
    except ValueError as error:
        raise BadRequest(f'{name}: "{text}" is not a number') from error


def _flag(text: str | None) -> bool | None:
    return None if text is None else text not in ("false", "0", "False", "")


def wants_watch(request: web.Request) -> bool:
    return bool(_flag(request.query.get("watch")))


async def delete_options(request: web.Request) -> tuple[DeleteOptions, bool]:
    """Options from the body or the query, and whether it is a dry run; raises BadRequest, Invalid."""
    data = await read(request)
    body: Json = {}
    if data:
        media_type = negotiation.body_type(request.headers.get("Content-Type", ""))
        value = (
            decode_body(data)[2] if media_type == negotiation.PROTOBUF else decode(data, media_type, "DeleteOptions")
        )
        if not isinstance(value, dict):
            raise BadRequest("DeleteOptions must be an object")
        body = value
    query = request.query
    grace = body.get("gracePeriodSeconds", _number_or_negative(query.get("gracePeriodSeconds")))
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy", "")
    orphan = body.get("orphanDependents", _flag(query.get("orphanDependents")))
    _check_deletion(orphan, propagation, [*query.getall("dryRun", []), *(body.get("dryRun") or ())])
    if orphan is not None and not propagation:
        propagation = "Orphan" if orphan else "Background"
    preconditions = body.get("preconditions") or {}
    options = DeleteOptions(
        grace, propagation, preconditions.get("uid") or "", preconditions.get("resourceVersion") or ""
    )
    return options, is_dry_run(request, body)


def _check_deletion(orphan: bool | None, propagation: str, dry_run: Sequence[Any]) -> None:
    errors = FieldErrors()
    if orphan is not None and propagation:
        text = "orphanDependents and deletionPropagation cannot be both set"
        errors.invalid("propagationPolicy", propagation, text)
    elif propagation and propagation not in _PROPAGATIONS:
        errors.not_supported("propagationPolicy", propagation, (*_PROPAGATIONS, "nil"))
    _check_dry_run(errors, dry_run)
    if errors.causes:
        raise invalid("DeleteOptions", "meta.k8s.io", "", errors.causes)


def _number_or_negative(text: str | None) -> int | None:
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise BadRequest(f'gracePeriodSeconds: "{text}" is not a number') from error
