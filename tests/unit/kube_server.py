"""A loopback HTTPS server that answers as a test scripts it, and records what it was asked.

Each connection takes the next item of the script: an ``(status, body, headers)`` triple, or a fault. Past its end,
``fallback`` answers. Certificates are made once a session with the ``cryptography`` package.
"""

from __future__ import annotations

import copy
import datetime
import ipaddress
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from etlkit.units import MIB, parse_bytes

RECORDED = Path(__file__).parent.parent / "recorded"


@dataclass
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Reply = tuple[int, Any, dict[str, str]]
Step = Reply | str | Callable[[Call], "Reply | str"]


def ok(body: Any, status: int = 200, **headers: str) -> Reply:
    return status, body, {name.replace("_", "-"): value for name, value in headers.items()}


def recorded(name: str) -> Reply:
    found = json.loads((RECORDED / f"{name}.json").read_text())
    return found["status"], found["body"], found["headers"]


def pod_body(name: str = "get-running") -> Any:
    return recorded(name)[1]


class ApiServer:
    """Faults by name: ``reset`` (after the request), ``silent`` (never answers), ``drip`` (a byte at a time),
    ``garbage``, ``half`` and ``half-chunk`` (close in the middle of the body). ``chunked`` is no fault."""

    def __init__(self, folder: Path, cert: Path, key: Path, ca: Path) -> None:
        self.script: list[Step] = []
        self.fallback: Step = ok(pod_body())
        self.calls: list[Call] = []
        self.token_file = folder / "token"
        self.token_file.write_text("first-token\n")
        self.ca_file = ca
        self._ending = threading.Event()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(cert, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        try:  # closing alone would not wake accept()
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            pass
        self._listener.close()
        self._thread.join(5)

    def patches(self) -> list[Call]:
        return [call for call in self.calls if call.method == "PATCH"]

    def _serve(self) -> None:
        while not self._ending.is_set():
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(raw,), daemon=True).start()

    def _connection(self, raw: socket.socket) -> None:
        try:
            raw.settimeout(10)
            with self._context.wrap_socket(raw, server_side=True) as sock:
                call = self._read(sock)
                if call is None:
                    return
                self.calls.append(call)
                step = self.script.pop(0) if self.script else self.fallback
                reply = step(call) if callable(step) else step
                self._answer(sock, reply)
        except OSError:
            raw.close()

    def _read(self, sock: ssl.SSLSocket) -> Call | None:
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = sock.recv(65536)
            if not chunk:
                return None
            data += chunk
        head, body = data.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        lower = {name.lower(): value for name, value in headers.items()}
        while len(body) < int(lower.get("content-length", 0)):
            body += sock.recv(65536)
        method, path, _ = first.split(" ")
        return Call(method, path, lower, body)

    def _answer(self, sock: ssl.SSLSocket, reply: Reply | str) -> None:
        if reply == "silent":
            self._ending.wait(10)
        elif reply == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        elif reply == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-Long: " + b"x" * 500:
                if self._ending.wait(0.05):
                    return
                sock.send(bytes([byte]))
        elif reply == "garbage":
            sock.sendall(b"220 mail.example ESMTP\r\n")
        elif reply == "half":
            sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"kind": "Pod"')
        elif reply == "chunked":
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            sock.sendall(head + b'6\r\n{"kind\r\n8\r\n":"Pod"}\r\n0\r\n\r\n')
        elif reply == "half-chunk":
            sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"ki')
        elif isinstance(reply, tuple):
            status, body, headers = reply
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() != "content-length"]
            sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)


class Cluster:
    """One pod. What the kubelet makes of a wanted size is set by the test; a PATCH moves generation and spec."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.pod = copy.deepcopy(pod_body())
        self.limit_file: int | None = 128 * MIB
        self.kubelet: Callable[[int], None] = self.grant
        self.lock = threading.Lock()
        api.fallback = self.answer

    def answer(self, call: Call) -> Reply:
        with self.lock:
            if call.method == "PATCH":
                resources = call.json["spec"]["containers"][0]["resources"]
                for side in ("limits", "requests"):
                    self.pod["spec"]["containers"][0]["resources"][side].update(resources[side])
                self.pod["metadata"]["generation"] += 1
                reply = ok(copy.deepcopy(self.pod))
                self.kubelet(parse_bytes(resources["limits"]["memory"]))
                return reply
            return ok(copy.deepcopy(self.pod))

    def policy(self, memory: str) -> None:
        self.pod["spec"]["containers"][0]["resizePolicy"] = [{"resourceName": "memory", "restartPolicy": memory}]

    def conditions(self, *conditions: dict[str, str]) -> None:
        self.pod["status"]["conditions"] = list(conditions)
        self.pod["status"]["observedGeneration"] = self.pod["metadata"]["generation"]

    def grant(self, limit_bytes: int) -> None:
        self.conditions()
        spec = self.pod["spec"]["containers"][0]["resources"]
        self.pod["status"]["containerStatuses"][0]["resources"] = copy.deepcopy(spec)
        self.limit_file = limit_bytes

    def defer(self, limit_bytes: int) -> None:
        if limit_bytes == self.limit_file:
            self.conditions()
        else:
            self.conditions({"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "full"})

    def infeasible(self, limit_bytes: int) -> None:
        if limit_bytes == self.limit_file:
            self.conditions()
        else:
            self.conditions({"type": "PodResizePending", "status": "True", "reason": "Infeasible", "message": "never"})

    @property
    def wanted(self) -> Any:
        return self.pod["spec"]["containers"][0]["resources"]["limits"]["memory"]


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Server certificate, its key, and the authority that signed it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def signed(subject: str, public: Any, issuer: str, key: Any, *extensions: Any) -> Any:
        builder = x509.CertificateBuilder()
        builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        builder = builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        builder = builder.public_key(public).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = signed("test ca", ca_key.public_key(), "test ca", ca_key, x509.BasicConstraints(ca=True, path_length=None))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = signed("apiserver", key.public_key(), "test ca", ca_key, names)
    pem = serialization.Encoding.PEM
    paths = folder / "server.crt", folder / "server.key", folder / "ca.crt"
    paths[0].write_bytes(server.public_bytes(pem))
    private, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(pem, private, none))
    paths[2].write_bytes(ca.public_bytes(pem))
    return paths


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    pytest.importorskip("cryptography", reason="the loopback API server needs a certificate (extra: local)")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(tmp_path: Path, certificates: tuple[Path, Path, Path]) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path, *certificates)
    yield server
    server.close()
