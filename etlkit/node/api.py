"""The API server's face: HTTPS, a bearer token, JSON.

    GET   /version, /api, /apis, /api/v1, /apis/batch/v1
    GET   /api/v1/namespaces/NS/pods[/NAME[/status]]
    PATCH /api/v1/namespaces/NS/pods/NAME/resize        strategic merge; dryRun=All
    GET   /api/v1/namespaces/NS/events                  fieldSelector=involvedObject.name=…,source=…
    POST  /api/v1/namespaces/NS/events
    GET   /apis/batch/v1/namespaces/NS/jobs/NAME
    POST  /apis/authorization.k8s.io/v1/selfsubjectaccessreviews

and for an operator what ``operator_api`` lists.

Covers authentication, RBAC as far as ``Rules.denied`` says, and the faults. Everything else is 404 or 405.
It does not cover watches, and of the patch formats only the strategic merge.
"""

from __future__ import annotations

import copy
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import ConfigError
from . import admission, answers, discovery, operator_api
from .admission import Rules, User
from .answers import ApiError, Json
from .faults import CallFault, Faults

_PATCH_TYPE = "application/strategic-merge-patch+json"


class Backend(operator_api.Backend, Protocol):
    """What the server needs of its node."""

    rules: Rules
    faults: Faults
    namespace: str

    def user(self, token: str) -> User | None: ...

    def resized(self, pod: Json) -> None: ...


class ApiServer:
    """Serves on a free port of ``address`` from ``start`` to ``close``."""

    def __init__(self, backend: Backend, address: str, certificate: Path, key: Path) -> None:
        self.closing = threading.Event()

        class Handler(_Handler):
            node = backend
            closing = self.closing

        self._server = _Server((address, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        # The handshake belongs to the connection's own thread, so that a silent client cannot block the others.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="etlkit-api", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True
    node: Backend
    closing: threading.Event

    def do_GET(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """The node has no access log."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.node.faults.take(self.command, self.path)
        if fault is not None and self._misbehave(fault):
            return
        try:
            code, answer = self._route(body)
        except ApiError as error:
            self._answer(error.code, error.body, error.headers)
            return
        except ConfigError as error:
            self._answer(422, answers.failure(422, "Invalid", error.message, {}), {})
            return
        if fault is not None and fault.kind == "drop":
            self._drop()
            return
        self._answer(code, answer, {})

    def _misbehave(self, fault: CallFault) -> bool:
        """Whether the call is over with that."""
        if fault.kind == "answer":
            error = _failure(fault, self.path)
            self._answer(error.code, error.body, error.headers)
            return True
        if fault.kind == "late":
            time.sleep(fault.seconds)
            return False
        if fault.kind == "never":
            self.closing.wait()
            self._drop()
            return True
        if not fault.after:
            self._drop()
            return True
        return False

    def _drop(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _answer(self, code: int, body: Json | str, headers: dict[str, str]) -> None:
        plain = isinstance(body, str)
        data = body.encode() if isinstance(body, str) else json.dumps(body, separators=(",", ":")).encode() + b"\n"
        self.send_response(code)
        if not plain:
            self.send_header("Cache-Control", "no-cache, private")
        self.send_header("Content-Type", "text/plain; charset=utf-8" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    # ── routes ───────────────────────────────────────────────────────────────────────────────────────────

    def _route(self, body: bytes) -> tuple[int, Json | str]:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts == ["version"]:
            return 200, self.node.version
        user = self._user()
        if self.command == "GET" and (known := discovery.answer(parts)) is not None:
            return 200, known
        match parts:
            case ["api", "v1", "namespaces", namespace, "pods"] if self.command == "GET":
                self._allow(user, "list", "pods", "", namespace)
                return 200, self._list(self.node.store.pods, namespace, "PodList", query)
            case ["api", "v1", "namespaces", namespace, "pods", name, *end] if self.command == "GET" and end in (
                [],
                ["status"],
            ):
                self._allow(user, "get", "pods", name, namespace)
                return 200, self.node.store.read_pod(namespace, name)
            case ["api", "v1", "namespaces", namespace, "pods", name, "resize"]:
                return self._resize(user, namespace, name, body, query)
            case ["api", "v1", "namespaces", namespace, "events"] if self.command == "POST":
                self._allow(user, "create", "events", "", namespace)
                return 201, self.node.store.add_event(namespace, _json(body))
            case ["api", "v1", "namespaces", namespace, "events"]:
                self._only("GET")
                self._allow(user, "list", "events", "", namespace)
                return 200, self._events(namespace, query)
            case ["apis", "batch", "v1", "namespaces", namespace, "jobs", name] if self.command == "GET":
                self._allow(user, "get", "jobs", name, namespace, "batch")
                with self.node.store.lock:
                    job = self.node.store.jobs.get((namespace, name))
                    if job is None:
                        raise answers.not_found(name, "jobs.batch")
                    return 200, copy.deepcopy(job)
            case ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]:
                self._only("POST")
                return 201, self._review(user, _json(body))
        if len(parts) < 2:
            raise answers.no_such_path()
        self._allow(user, *operator_api.asked(self.command, parts))
        return operator_api.serve(self.node, self.command, parts, _json(body) if body else {}, query)

    def _only(self, method: str) -> None:
        if self.command != method:
            message = "the server does not allow this method on the requested resource"
            raise ApiError(405, answers.failure(405, "MethodNotAllowed", message, {}))

    def _user(self) -> User:
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        user = self.node.user(token.strip()) if kind == "Bearer" else None
        if user is None:
            raise answers.unauthorized()
        return user

    def _allow(self, user: User, verb: str, resource: str, name: str, namespace: str, group: str = "") -> None:
        if not admission.may(user, verb, resource, namespace, self.node.rules):
            raise answers.rbac(user.name, verb, resource, name, namespace, group)

    def _resize(self, user: User, namespace: str, name: str, body: bytes, query: dict[str, str]) -> tuple[int, Json]:
        if self.command == "GET":
            self._allow(user, "get", "pods/resize", name, namespace)
            return 200, self.node.store.read_pod(namespace, name)
        self._only("PATCH")
        self._allow(user, "patch", "pods/resize", name, namespace)
        if (self.headers.get("Content-Type") or "").split(";")[0].strip() != _PATCH_TYPE:
            raise answers.unsupported_media_type()
        patch = _json(body)
        dry_run = query.get("dryRun")
        if dry_run not in (None, "", "All"):
            raise answers.invalid(
                "PatchOptions", "", [answers.bad_value("dryRun", str(dry_run), "supported values: All")]
            )
        with self.node.store.lock:
            pod = self.node.store.pod(namespace, name)
            new = admission.resize(
                pod,
                patch,
                rules=self.node.rules,
                user=user,
                allocatable_bytes=self.node.capacity_bytes,
                neighbours=[other for (where, _), other in self.node.store.pods.items() if where == namespace],
            )
            changed = new["spec"] != pod["spec"]
            if changed:
                new["metadata"]["generation"] += 1
            if dry_run != "All" and changed:
                pod["spec"], pod["metadata"]["generation"] = new["spec"], new["metadata"]["generation"]
                self.node.store.touch(pod)
                self.node.resized(pod)
                return 200, copy.deepcopy(pod)
            return 200, copy.deepcopy(new)

    def _list(self, objects: dict[tuple[str, str], Json], namespace: str, kind: str, query: dict[str, str]) -> Json:
        labels = dict(pair.split("=", 1) for pair in query.get("labelSelector", "").split(",") if "=" in pair)
        with self.node.store.lock:
            items = [
                copy.deepcopy(found)
                for (where, _), found in sorted(objects.items())
                if where == namespace and labels.items() <= found["metadata"].get("labels", {}).items()
            ]
        return {"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}

    def _events(self, namespace: str, query: dict[str, str]) -> Json:
        selector = dict(pair.split("=", 1) for pair in query.get("fieldSelector", "").split(",") if "=" in pair)
        readers: dict[str, Callable[[Json], Any]] = {
            "involvedObject.name": lambda event: event["involvedObject"].get("name", ""),
            "involvedObject.uid": lambda event: event["involvedObject"].get("uid", ""),
            "reason": lambda event: event.get("reason", ""),
            "source": lambda event: event.get("source", {}).get("component", ""),
        }
        with self.node.store.lock:
            items = [
                copy.deepcopy(event)
                for event in self.node.store.events
                if event["metadata"]["namespace"] == namespace
                and all(readers[key](event) == value for key, value in selector.items() if key in readers)
            ]
        return {"kind": "EventList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}

    def _review(self, user: User, asked: Json) -> Json:
        wanted = (asked.get("spec") or {}).get("resourceAttributes") or {}
        resource = wanted.get("resource", "") + (f"/{wanted['subresource']}" if wanted.get("subresource") else "")
        verb = str(wanted.get("verb", ""))
        allowed = admission.may(user, verb, resource, str(wanted.get("namespace", "")), self.node.rules)
        return {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": asked.get("spec") or {},
            "status": {"allowed": allowed},
        }


def _failure(fault: CallFault, path: str) -> ApiError:
    name = path.split("?")[0].rstrip("/").removesuffix("/resize").rpartition("/")[2]
    match fault.code:
        case 401:
            return answers.unauthorized()
        case 403:
            return answers.rbac("system:serviceaccount:etl:etlkit", "patch", "pods/resize", name, "etl")
        case 404:
            return answers.not_found(name)
        case 409:
            return answers.conflict(name)
        case 429:
            return answers.too_many_requests(int(fault.seconds))
        case 503:
            message = "the server is currently unable to handle the request"
            return ApiError(503, answers.failure(503, "ServiceUnavailable", message, {}))
        case 504:
            message = "Timeout: request did not complete within the allotted timeout"
            return ApiError(504, answers.failure(504, "Timeout", message, {}))
    return answers.internal("etcdserver: request timed out")


def _json(body: bytes) -> Json:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise answers.bad_request(f"error decoding patch: {error}") from error
    if not isinstance(found, dict):
        raise answers.bad_request("error decoding patch: not an object")
    return found
