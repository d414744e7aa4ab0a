"""What the API server said, sorted by what follows from it. Pure, standard library only.

A status code alone does not say whether asking again may help: 403 is missing permission, a full node, a quota or a
LimitRange. This module reads code, reason, causes and message (word for word as in Kubernetes 1.33 to 1.36)
and names the kind. It does not decide what the job does next; ``OUTCOMES`` says how a failed request ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any

from ..decide.events import ResizeOutcome
from ..lazyclass import dataclass


class Kind(StrEnum):
    OK = "ok"
    UNAUTHORIZED = "unauthorized"
    RBAC = "rbac"
    NODE_CAPACITY = "node_capacity"
    LIMIT_RANGE = "limit_range"
    QUOTA = "quota"
    POLICY = "policy"
    QOS = "qos"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    THROTTLED = "throttled"
    SERVER = "server"
    TIMEOUT = "timeout"
    RESET = "reset"
    UNREACHED = "unreached"
    TLS = "tls"
    NO_TOKEN = "no_token"
    MALFORMED = "malformed"


OUTCOMES: Mapping[Kind, ResizeOutcome] = {
    Kind.NODE_CAPACITY: ResizeOutcome.INFEASIBLE,
    Kind.LIMIT_RANGE: ResizeOutcome.INFEASIBLE,
    Kind.QUOTA: ResizeOutcome.INFEASIBLE,
    Kind.POLICY: ResizeOutcome.INFEASIBLE,
    Kind.UNAUTHORIZED: ResizeOutcome.REFUSED,
    Kind.RBAC: ResizeOutcome.REFUSED,
    Kind.QOS: ResizeOutcome.REFUSED,
    Kind.FORBIDDEN: ResizeOutcome.REFUSED,
    Kind.NOT_FOUND: ResizeOutcome.REFUSED,
    Kind.INVALID: ResizeOutcome.REFUSED,
    Kind.NO_TOKEN: ResizeOutcome.REFUSED,
    Kind.CONFLICT: ResizeOutcome.UNREACHABLE,
    Kind.THROTTLED: ResizeOutcome.UNREACHABLE,
    Kind.SERVER: ResizeOutcome.UNREACHABLE,
    Kind.TIMEOUT: ResizeOutcome.UNREACHABLE,
    Kind.RESET: ResizeOutcome.UNREACHABLE,
    Kind.UNREACHED: ResizeOutcome.UNREACHABLE,
    Kind.TLS: ResizeOutcome.UNREACHABLE,
    Kind.MALFORMED: ResizeOutcome.UNREACHABLE,
}

_MEANING: Mapping[Kind, str] = {
    Kind.UNAUTHORIZED: "the API server does not accept the service account's token",
    Kind.RBAC: "the service account may not do this: an admin must grant `get` on pods and `patch` on pods/resize",
    Kind.NODE_CAPACITY: "the node can never hold this size: ask for less, or run the pod on a larger node",
    Kind.LIMIT_RANGE: "a LimitRange of the namespace forbids this size",
    Kind.QUOTA: "the namespace's ResourceQuota has no room for this size",
    Kind.POLICY: "an admission policy refuses this size",
    Kind.QOS: "the pod's QoS class may not change: requests and limits must move together in a Guaranteed pod",
    Kind.FORBIDDEN: "the API server forbids this",
    Kind.NOT_FOUND: "the API server knows no such pod",
    Kind.CONFLICT: "the pod was changed by others at the same moment, again and again",
    Kind.INVALID: "the API server takes this request for invalid",
    Kind.THROTTLED: "the API server is asking for patience",
    Kind.SERVER: "the API server failed",
    Kind.TIMEOUT: "the API server did not answer in time",
    Kind.RESET: "the connection to the API server broke",
    Kind.UNREACHED: "the API server can't be reached",
    Kind.TLS: "the API server's certificate is not the one that this pod was told to trust",
    Kind.NO_TOKEN: "the service account's files can't be read",
    Kind.MALFORMED: "what answered does not speak like an API server",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One call's end: ``status`` is 0 when nothing (or nothing readable) came back."""

    kind: Kind
    status: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    retry_after_s: float | None = None
    may_be_applied: bool = False
    """The request may have reached the server although no answer came: only a GET can tell (level, not edge)."""

    @property
    def ok(self) -> bool:
        return self.kind is Kind.OK

    def explain(self) -> str:
        """One sentence for a person: what it means, then the server's own words."""
        if self.ok:
            return "accepted"
        said = ": ".join(part for part in (str(self.status or ""), self.message) if part)
        return f"{_MEANING[self.kind]} ({said})" if said else _MEANING[self.kind]


def read_answer(status: int, body: bytes, retry_after: str | None = None) -> Answer:
    """Turn a complete HTTP answer into an ``Answer``."""
    try:
        parsed = json.loads(body) if body else {}
    except ValueError:
        parsed = None
    wait_s = _retry_after_s(retry_after)
    if 200 <= status < 300:
        if isinstance(parsed, dict) and parsed:
            return Answer(Kind.OK, status, parsed)
        return Answer(Kind.MALFORMED, status, message="the body is not a JSON object", may_be_applied=True)
    about = parsed if isinstance(parsed, dict) else {}
    message = str(about.get("message") or body[:200].decode("utf-8", "replace")).strip()
    kind = _kind(status, about, message)
    return Answer(kind, status, about, message, wait_s, may_be_applied=status >= 500)


def _kind(status: int, about: Mapping[str, Any], message: str) -> Kind:
    details = about.get("details")
    causes = details.get("causes") if isinstance(details, Mapping) else None
    reasons = {cause.get("reason") for cause in causes or () if isinstance(cause, Mapping)}
    text = message.lower()
    # A policy may answer with 401, 403, 413 or 422, a webhook with any code: its words come first.
    if "validatingadmissionpolicy" in text or "denied the request" in text or "denied request" in text:
        return Kind.POLICY
    if status == 401:
        return Kind.UNAUTHORIZED
    if status == 403:
        return _forbidden(reasons, text)
    if status == 404:
        return Kind.NOT_FOUND
    if status == 409:
        return Kind.CONFLICT
    if status == 429:
        return Kind.THROTTLED
    if status >= 500:
        return Kind.SERVER
    if status in (400, 413, 415, 422):
        # Another cause beside the QoS class is the real one: the class is computed from what was sent.
        only_qos = isinstance(causes, list) and len(causes) == 1
        return Kind.QOS if only_qos and "qos class may not change" in text else Kind.INVALID
    return Kind.MALFORMED


def _forbidden(reasons: set[Any], text: str) -> Kind:
    if "NodeCapacity" in reasons or "node didn't have enough" in text:
        return Kind.NODE_CAPACITY
    if "exceeded quota" in text or "failed quota" in text:
        return Kind.QUOTA
    if " usage per " in text or "limit to request ratio per" in text:
        return Kind.LIMIT_RANGE
    if " cannot " in text and " resource " in text:
        return Kind.RBAC
    return Kind.FORBIDDEN


def _retry_after_s(value: str | None) -> float | None:
    """Seconds only. A date would mean comparing the server's clock with ours."""
    return float(value) if value is not None and value.strip().isdigit() else None
