"""Every answer of the API server, by kind: recorded ones word for word, and the rest by what Kubernetes prints."""

from __future__ import annotations

import json

import pytest
from kube_server import recorded

from etlkit.decide.events import FINAL_OUTCOMES, ResizeOutcome
from etlkit.kube.answer import OUTCOMES, Kind, read_answer


@pytest.mark.parametrize(
    ("name", "kind", "outcome"),
    [
        ("error-over-node", Kind.NODE_CAPACITY, ResizeOutcome.INFEASIBLE),
        ("error-limitrange", Kind.LIMIT_RANGE, ResizeOutcome.INFEASIBLE),
        ("error-quota", Kind.QUOTA, ResizeOutcome.INFEASIBLE),
        ("error-qos", Kind.QOS, ResizeOutcome.REFUSED),
        ("error-bad-quantity", Kind.INVALID, ResizeOutcome.REFUSED),
        ("error-gpu", Kind.INVALID, ResizeOutcome.REFUSED),
        ("error-never-restartcontainer", Kind.INVALID, ResizeOutcome.REFUSED),
        ("error-remove-limits", Kind.INVALID, ResizeOutcome.REFUSED),
        ("error-request-above-limit", Kind.INVALID, ResizeOutcome.REFUSED),
        ("error-unknown-container", Kind.INVALID, ResizeOutcome.REFUSED),
        ("error-not-found", Kind.NOT_FOUND, ResizeOutcome.REFUSED),
        ("get-not-found", Kind.NOT_FOUND, ResizeOutcome.REFUSED),
    ],
)
def test_recorded(name: str, kind: Kind, outcome: ResizeOutcome) -> None:
    status, body, _ = recorded(name)
    answer = read_answer(status, json.dumps(body).encode())
    assert (answer.kind, answer.status, OUTCOMES[answer.kind]) == (kind, status, outcome)
    assert body["message"].strip() in answer.explain()
    assert not answer.ok and not answer.may_be_applied


POLICY = "ValidatingAdmissionPolicy 'etlkit-resize' with binding 'etlkit-resize' denied request: memory above 1Gi"
SA = 'User "system:serviceaccount:etl:default" cannot patch resource "pods/resize" in API group ""'
WEBHOOK = 'admission webhook "sizes.example.com" denied the request: too large'


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "Unauthorized", Kind.UNAUTHORIZED),
        (403, f'pods "p" is forbidden: {SA}', Kind.RBAC),
        (403, f'pods "p" is forbidden: {POLICY}', Kind.POLICY),
        (422, f'pods "p" is forbidden: {POLICY}', Kind.POLICY),
        (401, f'pods "p" is forbidden: {POLICY}', Kind.POLICY),
        (403, WEBHOOK, Kind.POLICY),
        (403, 'pods "p" is forbidden: minimum memory usage per Container is 64Mi, but limit is 32Mi', Kind.LIMIT_RANGE),
        (403, 'pods "p" is forbidden: memory max limit to request ratio per Container is 2', Kind.LIMIT_RANGE),
        (403, 'pods "p" is forbidden: failed quota: q: must specify limits.memory', Kind.QUOTA),
        (403, 'pods "p" is forbidden: static pods may not be resized', Kind.FORBIDDEN),
        (409, 'Operation cannot be fulfilled on pods "p": the object has been modified', Kind.CONFLICT),
        (429, "too many requests", Kind.THROTTLED),
        (500, "internal error", Kind.SERVER),
        (504, "gateway", Kind.SERVER),
        (302, "elsewhere", Kind.MALFORMED),
    ],
)
def test_by_words(status: int, message: str, kind: Kind) -> None:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": status}
    answer = read_answer(status, json.dumps(body).encode())
    assert answer.kind is kind
    assert message in answer.explain()


def test_bodies_that_are_no_status() -> None:
    assert read_answer(502, b"<html>Bad gateway</html>").kind is Kind.SERVER
    assert "Bad gateway" in read_answer(502, b"<html>Bad gateway</html>").explain()
    assert read_answer(200, b"<html>hello</html>").kind is Kind.MALFORMED
    assert read_answer(200, b"[1, 2]").kind is Kind.MALFORMED
    assert read_answer(403, b"").kind is Kind.FORBIDDEN
    assert read_answer(403, b'{"details": {"causes": "none"}, "message": 7}').kind is Kind.FORBIDDEN
    assert read_answer(422, b'{"details": []}').kind is Kind.INVALID


def test_retry_after_is_seconds_and_never_a_date() -> None:
    assert read_answer(429, b"{}", "7").retry_after_s == 7
    assert read_answer(429, b"{}", "Tue, 24 Nov 2026 02:00:00 GMT").retry_after_s is None
    assert read_answer(429, b"{}").retry_after_s is None
    assert read_answer(429, b"{}", "-3").retry_after_s is None


def test_every_failure_ends_a_request() -> None:
    assert set(OUTCOMES) == set(Kind) - {Kind.OK}
    assert set(OUTCOMES.values()) <= FINAL_OUTCOMES
