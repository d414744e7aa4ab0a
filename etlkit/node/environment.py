"""What a container finds: its environment, the service account's folder, the files of the downward API.

Covers ``value``, ``fieldRef`` and ``resourceFieldRef`` of the manifest, the variables that the kubelet adds, token
rotation by a swapped symlink, and ``downwardAPI`` volumes as folders of files. Other volumes are the machine's folders.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..memory.allocation import NO_SMALL_PIECES
from . import quantity, spec
from .answers import Json


def etl_environment(*, container: str, max_memory: str | None, backoff_limit: int | None) -> list[Json]:
    """The variables that our manifests give to the job's container, as entries of ``env``."""

    def by_field(name: str, path: str) -> Json:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    given: dict[str, str | None] = {
        # The container's own name is not in the downward API (F28).
        "ETLKIT_CONTAINER_NAME": container,
        NO_SMALL_PIECES[0]: NO_SMALL_PIECES[1],
        "ETLKIT_MAX_MEMORY": max_memory,
        "ETLKIT_BACKOFF_LIMIT": None if backoff_limit is None else str(backoff_limit),
    }
    return [
        by_field("ETLKIT_POD_NAME", "metadata.name"),
        by_field("ETLKIT_POD_NAMESPACE", "metadata.namespace"),
        *({"name": name, "value": value} for name, value in given.items() if value is not None),
    ]


def resolve(pod: Json, container: Json) -> dict[str, str]:
    """The container's ``env`` as values, at the size that is allocated to it now."""
    found = {}
    for entry in container.get("env") or ():
        source = entry.get("valueFrom")
        if source is None:
            found[entry["name"]] = str(entry.get("value", ""))
        elif "fieldRef" in source:
            found[entry["name"]] = _field(pod, source["fieldRef"]["fieldPath"])
        elif "resourceFieldRef" in source:
            found[entry["name"]] = _resource(pod, container["name"], source["resourceFieldRef"])
    return found


def _field(pod: Json, path: str) -> str:
    value: object = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


def _resource(pod: Json, container_name: str, reference: Json) -> str:
    wanted = spec.container_named(pod["spec"], reference.get("containerName", container_name))
    kind, _, resource = reference["resource"].partition(".")
    value, _ = quantity.parse(((wanted.get("resources") or {}).get(kind) or {}).get(resource, "0"))
    divisor, _ = quantity.parse(reference.get("divisor") or "1")
    return str(-(-value // (divisor or 1)))


def write_service_account(folder: Path, *, token: str, ca: Path, namespace: str) -> None:
    """Files as a projected volume has them: symlinks into a dated folder that is swapped in one step."""
    files = {"token": token, "ca.crt": ca.read_text(), "namespace": namespace}
    swap(folder, files)


def write_downward(folder: Path, pod: Json, volume: Json) -> None:
    """A ``downwardAPI`` volume. It is made from the size that is wanted, not from the one in force (F4)."""
    files = {}
    for item in volume["downwardAPI"].get("items") or ():
        if "fieldRef" in item:
            files[item["path"]] = _field(pod, item["fieldRef"]["fieldPath"])
        else:
            reference = item["resourceFieldRef"]
            files[item["path"]] = _resource(pod, reference["containerName"], reference)
    swap(folder, files)


def swap(folder: Path, files: Mapping[str, str]) -> None:
    """Writes the files into a new folder and moves the symlink ``..data`` to it, as the kubelet does."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    current = folder / "..data"
    before = current.readlink() if current.is_symlink() else None
    number = 0 if before is None else int(before.name.rpartition("_")[2]) + 1
    fresh = folder / f"..data_{number}"
    fresh.mkdir(mode=0o700)
    for name, text in files.items():
        (fresh / name).write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(fresh.name)
    link.replace(current)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    if before is not None:
        shutil.rmtree(folder / before)


def said_at_the_end(path: Path) -> str:
    """What the container wrote for its termination message, as much of it as a kubelet keeps; the file begins anew."""
    try:
        with path.open("rb") as file:
            text = file.read(4096).decode(errors="replace")
        path.unlink()
    except OSError:
        return ""
    return text


def api_environment(address: str, port: int, service_account: Path) -> dict[str, str]:
    """What the kubelet adds to every container of a pod with a service account."""
    return {
        "KUBERNETES_SERVICE_HOST": address,
        "KUBERNETES_SERVICE_PORT": str(port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
        "ETLKIT_SERVICE_ACCOUNT": os.fspath(service_account),
    }
