"""The pod's own calls: GET pod, PATCH pods/resize and, where it may, POST events; by the standard library alone.

One client serves the running job and the start that is too small to import anything (ADR 0007). The token and the
authority's certificate are read anew for each call, since both rotate. Every failure is an ``Answer`` with a kind;
nothing is raised, and neither the token nor a header is ever part of a message. GET is tried again after anything that
may pass; PATCH only after an answer that says it was not taken (401, 409, 429) or may be repeated (5xx); POST never.
It does not follow a resize: that is ``resizer.py``.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from ..lazyclass import dataclass
from ..units import quantity_bytes
from . import wire
from .answer import Answer, Kind, read_answer
from .identity import Access, PodIdentity
from .pod import PodView

_USER_AGENT = "etlkit"
PATCH_TYPE = "application/strategic-merge-patch+json"
_RETRY_PATCH = frozenset({Kind.CONFLICT, Kind.THROTTLED, Kind.SERVER, Kind.UNAUTHORIZED})
"""401 too: each try reads the token anew, and one that has just run out is replaced by the kubelet."""
_RETRY_GET = _RETRY_PATCH | {Kind.TIMEOUT, Kind.RESET, Kind.UNREACHED}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call may take, all tries together."""

    connect_s: float = 3.0
    get_s: float = 4.0
    """One try, from connecting to the last byte."""
    patch_s: float = 10.0
    """Admission webhooks may take their time, ten seconds by default."""
    tries: int = 4
    first_wait_s: float = 0.2
    longest_wait_s: float = 5.0
    budget_s: float = 8.0
    """No further try is begun after this; a Retry-After beyond it ends the call with the server's answer."""


class PodClient:
    """Thread-safe: it keeps nothing but where things are."""

    def __init__(
        self,
        access: Access,
        identity: PodIdentity,
        patience: Patience | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.access = access
        self.identity = identity
        self._patience = patience or Patience()
        self._sleep = sleep

    def get_pod(self) -> Answer:
        return self._persist("GET", self._path(), None, _RETRY_GET)

    def get_version(self) -> Answer:
        """The server's version. Every authenticated account may read it."""
        return self._persist("GET", "/version", None, _RETRY_GET)

    def create_event(self, body: Mapping[str, Any]) -> Answer:
        """One try: what is lost is a line for people."""
        namespace = quote(self.identity.namespace, "")
        return self._once("POST", f"/api/v1/namespaces/{namespace}/events", json.dumps(body).encode())

    def resize_memory(
        self, limit_bytes: int, pod: PodView, *, request_bytes: int | None = None, dry_run: bool = False
    ) -> Answer:
        """``request_bytes`` None: moved with the limit, as ``moved_request`` says."""
        if request_bytes is None:
            request_bytes = moved_request(pod, pod.spec.request_bytes, pod.spec.limit_bytes, limit_bytes)
        values = {
            "requests": {"memory": quantity_bytes(request_bytes)},
            "limits": {"memory": quantity_bytes(limit_bytes)},
        }
        return self._patch(resize_body(pod, values), dry_run)

    def resize_cpu(
        self, limit_millis: int, pod: PodView, *, request_millis: int | None = None, dry_run: bool = False
    ) -> Answer:
        if request_millis is None:
            request_millis = moved_request(pod, pod.spec.request_millis, pod.spec.limit_millis, limit_millis)
        values = {"requests": {"cpu": quantity_cpu(request_millis)}, "limits": {"cpu": quantity_cpu(limit_millis)}}
        return self._patch(resize_body(pod, values), dry_run)

    def _patch(self, body: Mapping[str, Any], dry_run: bool) -> Answer:
        path = self._path() + "/resize" + ("?dryRun=All" if dry_run else "")
        return self._persist("PATCH", path, json.dumps(body).encode(), _RETRY_PATCH)

    def _path(self) -> str:
        return f"/api/v1/namespaces/{quote(self.identity.namespace, '')}/pods/{quote(self.identity.pod, '')}"

    def _persist(self, method: str, path: str, body: bytes | None, retried: frozenset[Kind]) -> Answer:
        patience = self._patience
        give_up_s = time.monotonic() + patience.budget_s
        wait_s = patience.first_wait_s
        for last in (*([False] * (patience.tries - 1)), True):
            answer = self._once(method, path, body)
            if answer.kind not in retried or last:
                return answer
            # Half of it at random, so that many pods that failed together do not come back together.
            pause_s = answer.retry_after_s
            if pause_s is None:
                pause_s = wait_s * (0.5 + random.random() / 2)
            if time.monotonic() + pause_s >= give_up_s:
                return answer
            self._sleep(pause_s)
            wait_s = min(wait_s * 2, patience.longest_wait_s)
        raise AssertionError("a call has at least one try")

    def _once(self, method: str, path: str, body: bytes | None) -> Answer:
        sent: list[bool] = []
        total_s = self._patience.get_s if body is None else self._patience.patch_s
        try:
            try:
                token = self.access.token_file.read_bytes().strip() if self.access.token_file is not None else None
                context = wire.tls_context(self.access.ca_file)
                if self.access.client_cert_file is not None:
                    context.load_cert_chain(self.access.client_cert_file, self.access.client_key_file)
            except OSError as error:
                return Answer(Kind.NO_TOKEN, message=_words(error))
            # Checked here, since http.client would print a token that it refuses.
            if token is not None and re.fullmatch(rb"[!-~]+", token) is None:
                return Answer(Kind.NO_TOKEN, message=f"{self.access.token_file} does not hold one token")
            headers = {"Accept": "application/json", "User-Agent": _USER_AGENT}
            if token is not None:
                headers["Authorization"] = f"Bearer {token.decode()}"
            if body is not None:
                headers["Content-Type"] = PATCH_TYPE if method == "PATCH" else "application/json"
            status, content, retry_after = wire.call(
                self.access.host, self.access.port, context, method, path, headers, body,
                connect_s=self._patience.connect_s, total_s=total_s, sent=sent,
            )  # fmt: skip
            return read_answer(status, content, retry_after)
        except TimeoutError as error:
            return Answer(Kind.TIMEOUT, message=_words(error), may_be_applied=bool(sent))
        except ssl.SSLCertVerificationError as error:
            return Answer(Kind.TLS, message=error.verify_message)
        except ssl.SSLError as error:
            # Before the request: not the server we were told of. After it: the connection broke.
            return Answer(Kind.RESET if sent else Kind.TLS, message=_words(error), may_be_applied=bool(sent))
        except (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionError) as error:
            return Answer(Kind.RESET if sent else Kind.UNREACHED, message=_words(error), may_be_applied=bool(sent))
        except (http.client.HTTPException, wire.TooMuchError) as error:
            return Answer(Kind.MALFORMED, message=_words(error), may_be_applied=bool(sent))
        except OSError as error:
            return Answer(Kind.UNREACHED, message=_words(error), may_be_applied=bool(sent))


def moved_request(pod: PodView, request: int | None, old_limit: int | None, new_limit: int) -> int:
    """The request that goes with a new limit (F16).

    Guaranteed, or request equal to limit: both are the same. Burstable: the request moves by as much as the limit, so
    that what is asked for is also reserved and we do not overcommit the node; going down it keeps its share at least.
    A gap between the two stays one, so the QoS class can't change.
    """
    if pod.qos == "Guaranteed" or request is None or old_limit is None or request >= old_limit:
        return new_limit
    return max(request + new_limit - old_limit, new_limit * request // old_limit)


def resize_body(pod: PodView, values: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The strategic-merge patch (F1); a sidecar lives in ``initContainers`` (F20)."""
    place = "initContainers" if pod.sidecar else "containers"
    return {"spec": {place: [{"name": pod.container, "resources": values}]}}


def quantity_cpu(millis: int) -> str:
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def _words(error: BaseException) -> str:
    """What went wrong, in the system's words. Nothing of the request is in them."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
