"""One HTTPS call by the standard library, with a deadline for the whole of it.

``http.client`` bounds each read, so a server that drips one byte a second would hold it for ever; here every read gets
what is left of the call's time. No pool, no proxy, no redirect: a pod makes a handful of calls in its life, and a
proxy or a redirect would be handed the token. It does not retry and does not judge the answer.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

MAX_BODY_BYTES = 8 * 1024 * 1024
"""A pod object is tens of KiB. More is no API server, and memory is what we are short of."""


class TooMuchError(OSError):
    """The answer is larger than any pod object."""


class _DeadlineReader(io.RawIOBase):
    """Reads of a socket, each bounded by what is left until one moment."""

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._sock = sock
        self._deadline_s = deadline_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer was not complete in time")
        self._sock.settimeout(left_s)
        return self._sock.recv_into(buffer)


class _DeadlineSocket:
    """What ``HTTPResponse`` needs of a socket: ``makefile`` alone."""

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._sock = sock
        self._deadline_s = deadline_s

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock, self._deadline_s))


def tls_context(ca_file: Path) -> ssl.SSLContext:
    """Trusts this file's authorities and no others. Raises ``OSError`` when it can't be read or holds none."""
    context = ssl.create_default_context(cafile=str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python 3.13 demands extensions that the authorities of many running clusters do not carry.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def call(
    host: str,
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    connect_s: float,
    total_s: float,
    sent: list[bool],
) -> tuple[int, bytes, str | None]:
    """Status, body and Retry-After. ``sent`` gets an element once the request may have reached the server."""
    deadline_s = time.monotonic() + total_s
    connection = http.client.HTTPSConnection(host, port, timeout=min(connect_s, total_s), context=context)
    try:
        connection.connect()
        sock = connection.sock
        sock.settimeout(max(0.001, deadline_s - time.monotonic()))
        sent.append(True)
        connection.request(method, path, body=body, headers={**headers, "Connection": "close"})
        response = http.client.HTTPResponse(_DeadlineSocket(sock, deadline_s), method=method)  # type: ignore[arg-type]
        with response:
            response.begin()
            content = response.read(MAX_BODY_BYTES + 1)
            if len(content) > MAX_BODY_BYTES:
                raise TooMuchError(f"the answer is longer than {MAX_BODY_BYTES} bytes")
            if response.length:  # http.client says nothing of it when it was asked for an amount
                raise ConnectionResetError(f"closed with {response.length} bytes of the answer missing")
            return response.status, content, response.getheader("Retry-After")
    finally:
        connection.close()
