"""What the API server says when it says no: Status objects, word for word as recorded.

Covers the failures that a pod's own calls can meet (400 to 500). It does not decide when: that is ``admission``
and ``api``. The shapes are those in ``tests/conformance/recorded``; 401, 409, 415 and 429 are from the source (read).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


class ApiError(Exception):
    """An answer other than success, with its HTTP status and body. A ``text`` body is sent as plain text."""

    def __init__(self, code: int, body: Json | str, headers: dict[str, str] | None = None) -> None:
        super().__init__(body if isinstance(body, str) else body.get("message", ""))
        self.code = code
        self.body = body
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Cause:
    """One finding of validation: where, what kind, and the message without the field."""

    field: str
    reason: str
    message: str


def bad_value(field: str, value: str, detail: str) -> Cause:
    return Cause(field, "FieldValueInvalid", f'Invalid value: "{value}": {detail}')


def forbidden_value(field: str, detail: str) -> Cause:
    return Cause(field, "FieldValueForbidden", f"Forbidden: {detail}")


def required(field: str, detail: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def failure(code: int, reason: str, message: str, details: Json | None = None) -> Json:
    body: Json = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
    }
    if details is not None:
        body["details"] = details
    return {**body, "code": code}


def invalid(kind: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """422, every finding in the message and in the details, in order."""
    found = [f"{cause.field}: {cause.message}" for cause in causes]
    listed = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
    details: Json = {"name": name, "kind": kind}
    if not name:
        details = {}
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return ApiError(422, failure(422, "Invalid", f'{kind} "{name}" is invalid: {listed}', details))


def forbidden(name: str, detail: str, causes: Sequence[Json] = (), kind: str = "pods") -> ApiError:
    details: Json = {"name": name, "kind": kind}
    if causes:
        details["causes"] = list(causes)
    return ApiError(403, failure(403, "Forbidden", f'{kind} "{name}" is forbidden: {detail}', details))


def rbac(user: str, verb: str, resource: str, name: str, namespace: str, group: str = "") -> ApiError:
    """403 in the words of RBAC. A subresource is named in the sentence and left out of the kind."""
    detail = f'User "{user}" cannot {verb} resource "{resource}" in API group "{group}" in the namespace "{namespace}"'
    kind = resource.split("/")[0] + (f".{group}" if group else "")
    if name:
        return forbidden(name, detail, kind=kind)
    return ApiError(403, failure(403, "Forbidden", f"{kind} is forbidden: {detail}", {"kind": kind}))


def not_found(name: str, kind: str = "pods") -> ApiError:
    return ApiError(404, failure(404, "NotFound", f'{kind} "{name}" not found', {"name": name, "kind": kind}))


def unauthorized() -> ApiError:
    return ApiError(401, failure(401, "Unauthorized", "Unauthorized"))


def conflict(name: str, kind: str = "pods") -> ApiError:
    message = (
        f'Operation cannot be fulfilled on {kind} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return ApiError(409, failure(409, "Conflict", message, {"name": name, "kind": kind}))


def bad_request(message: str) -> ApiError:
    return ApiError(400, failure(400, "BadRequest", message))


def unsupported_media_type() -> ApiError:
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        "application/strategic-merge-patch+json"
    )
    return ApiError(415, failure(415, "UnsupportedMediaType", message))


def no_such_path() -> ApiError:
    return ApiError(404, "404 page not found\n")


def too_many_requests(retry_after_s: int) -> ApiError:
    """Priority and fairness answers in plain text, with the header that matters."""
    return ApiError(429, "Too many requests, please try again later.\n", {"Retry-After": str(retry_after_s)})


def internal(detail: str) -> ApiError:
    message = f"Internal error occurred: {detail}"
    return ApiError(500, failure(500, "InternalError", message, {"causes": [{"message": detail}]}))
