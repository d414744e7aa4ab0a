"""A kubeconfig's current context as an ``Access``: for a job that runs outside of its cluster's pods, as in a debugger.

Covers a server with its authority, and a token or a client certificate, by file or inline. Plugins (``exec``,
``auth-provider``) are for people; what is inline is put into files that only this user reads and that go with the process. PyYAML
comes with the official client and is imported here only.
"""

from __future__ import annotations

import atexit
import base64
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError
from .identity import Access


def access_from(path: Path) -> Access:
    """Errors: ConfigError naming the file and what it lacks."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable as a kubeconfig: {error}", "check KUBECONFIG") from error
    context = _named(config, "contexts", config.get("current-context"), path).get("context") or {}
    cluster = _named(config, "clusters", context.get("cluster"), path).get("cluster") or {}
    user = _named(config, "users", context.get("user"), path).get("user") or {}
    server = urlsplit(str(cluster.get("server", "")))
    if server.scheme != "https" or not server.hostname:
        raise ConfigError(
            f"{path}: server '{cluster.get('server')}' is not https", "name the API server's https address"
        )
    files = _Files(path)
    return Access(
        host=server.hostname,
        port=server.port or 443,
        token_file=files.of(user, "token", "tokenFile", inline_is_base64=False),
        ca_file=files.needed(cluster, "certificate-authority-data", "certificate-authority"),
        client_cert_file=files.of(user, "client-certificate-data", "client-certificate"),
        client_key_file=files.of(user, "client-key-data", "client-key"),
    )


def _named(config: Mapping[str, Any], kind: str, name: object, path: Path) -> Mapping[str, Any]:
    for one in config.get(kind) or []:
        if one.get("name") == name:
            return one  # type: ignore[no-any-return]
    raise ConfigError(f"{path}: no entry '{name}' under {kind}", "check current-context")


class _Files:
    """Files of a kubeconfig, inline ones written to a private folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: Path | None = None

    def of(self, entry: Mapping[str, Any], inline: str, file: str, *, inline_is_base64: bool = True) -> Path | None:
        if entry.get(inline):
            text = str(entry[inline]).encode()
            return self._private(base64.b64decode(text) if inline_is_base64 else text, inline)
        return self._path.parent / str(entry[file]) if entry.get(file) else None

    def needed(self, entry: Mapping[str, Any], inline: str, file: str) -> Path:
        found = self.of(entry, inline, file)
        if found is None:
            raise ConfigError(f"{self._path}: the cluster has no {file}", f"add {file} or {inline}")
        return found

    def _private(self, data: bytes, name: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="etlkit-kubeconfig-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        place = self._folder / name
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return place
