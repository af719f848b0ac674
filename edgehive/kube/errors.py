"""What a Kubernetes API answers when it does not answer with an object: one tree by Status.reason.

    ApiError                 any Status Failure; carries the whole Status
    ├── BadRequest           400
    ├── Unauthorized         401
    ├── Forbidden            403
    ├── NotFound             404
    ├── MethodNotAllowed     405
    ├── NotAcceptable        406
    ├── Conflict             409  (AlreadyExists is its sibling: also 409)
    ├── AlreadyExists        409
    ├── Gone                 410  reasons Gone and Expired
    ├── RequestTooLarge      413
    ├── UnsupportedMediaType 415
    ├── Invalid              422
    ├── TooManyRequests      429  transient
    ├── ServerError          500, 503 transient
    ├── Timeout              504  transient
    └── Unreachable          no answer at all (code 0): transient

The server raises them, the client raises them, flows pass them through as `ErrStatus`. Retry is decided by
`transient`, never by listing classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from edgehive.api.meta import Status, StatusCause, StatusDetails


class ApiError(Exception):
    """A Status Failure."""

    code: ClassVar[int] = 500
    reason: ClassVar[str] = ""
    transient: ClassVar[bool] = False

    def __init__(
        self, message: str = "", *, status: Status | None = None, details: StatusDetails | None = None
    ) -> None:
        self.status = status or Status(message=message, reason=self.reason, code=self.code, details=details)
        super().__init__(self.status.message or self.status.reason)

    def to_dict(self) -> dict[str, Any]:
        return self.status.to_dict()


class BadRequest(ApiError):
    code, reason = 400, "BadRequest"


class Unauthorized(ApiError):
    code, reason = 401, "Unauthorized"


class Forbidden(ApiError):
    code, reason = 403, "Forbidden"


class NotFound(ApiError):
    code, reason = 404, "NotFound"


class MethodNotAllowed(ApiError):
    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(ApiError):
    code, reason = 406, "NotAcceptable"


class Conflict(ApiError):
    code, reason = 409, "Conflict"


class AlreadyExists(ApiError):
    code, reason = 409, "AlreadyExists"


class Gone(ApiError):
    code, reason = 410, "Expired"


class RequestTooLarge(ApiError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(ApiError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(ApiError):
    code, reason = 422, "Invalid"


class TooManyRequests(ApiError):
    code, reason, transient = 429, "TooManyRequests", True


class ServerError(ApiError):
    code, reason, transient = 500, "InternalError", True


class ServiceUnavailable(ServerError):
    code, reason = 503, "ServiceUnavailable"


class Timeout(ApiError):
    code, reason, transient = 504, "Timeout", True


class Unreachable(ApiError):
    """The server could not be reached or the connection broke; carries no Status of a server."""

    code, reason, transient = 0, "", True


_BY_REASON: dict[str, type[ApiError]] = {
    cls.reason: cls
    for cls in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, Conflict, AlreadyExists,
        Gone, RequestTooLarge, UnsupportedMediaType, Invalid, TooManyRequests, ServerError, ServiceUnavailable,
        Timeout,
    )
}  # fmt: skip
_BY_REASON |= {"Gone": Gone, "ServerTimeout": Timeout}
_BY_CODE: dict[int, type[ApiError]] = {
    400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 405: MethodNotAllowed, 406: NotAcceptable,
    409: Conflict, 410: Gone, 413: RequestTooLarge, 415: UnsupportedMediaType, 422: Invalid, 429: TooManyRequests,
    500: ServerError, 503: ServiceUnavailable, 504: Timeout,
}  # fmt: skip


def from_status(status: Status | Mapping[str, Any]) -> ApiError:
    """The error class for a Status body: by reason, else by code."""
    if not isinstance(status, Status):
        status = msgspec.convert(status, Status, strict=False)
    cls = _BY_REASON.get(status.reason) or _BY_CODE.get(status.code) or ApiError
    return cls(status=status)


def qualified(plural: str, group: str) -> str:
    """How Kubernetes names a resource in messages: `pods`, `deployments.apps`."""
    return f"{plural}.{group}" if group else plural


def not_found(plural: str, group: str, name: str) -> NotFound:
    return NotFound(
        f'{qualified(plural, group)} "{name}" not found',
        details=StatusDetails(name=name, group=group, kind=plural),
    )


def already_exists(plural: str, group: str, name: str, *, is_going: bool = False) -> AlreadyExists:
    state = "object is being deleted: " if is_going else ""
    return AlreadyExists(
        f'{state}{qualified(plural, group)} "{name}" already exists',
        details=StatusDetails(name=name, group=group, kind=plural),
    )


def conflict(plural: str, group: str, name: str, why: str = "") -> Conflict:
    why = why or ("the object has been modified; please apply your changes to the latest version and try again")
    return Conflict(
        f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}',
        details=StatusDetails(name=name, group=group, kind=plural),
    )


def invalid(kind: str, group: str, name: str, causes: Sequence[StatusCause]) -> Invalid:
    """422 with every cause; the message lists them as `field: message`, as Kubernetes does."""
    texts = [f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in causes]
    joined = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    return Invalid(
        f'{qualified(kind, group)} "{name}" is invalid: {joined}',
        details=StatusDetails(name=name, group=group, kind=kind, causes=list(causes)),
    )
