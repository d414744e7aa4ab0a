"""A patch of the pod: an image replaced by folders of the node, a node selector, another volume.

A strategic merge for what pods have: mappings merge, null removes, and lists whose items have a name (or a mount's path)
merge by it. Any other list is replaced. Covers pods only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

_KEYS = {"volumeMounts": "mountPath", "tolerations": None, "imagePullSecrets": "name"}
_BY_NAME = ("containers", "initContainers", "volumes", "env")


def patch_workload(document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A Job, CronJob or Pod with its pod patched: ``patch`` is ``{"metadata": …, "spec": …}`` of the pod."""
    unknown = sorted(set(patch) - {"metadata", "spec", "apiVersion", "kind"})
    if unknown:
        raise ConfigError(f"the pod patch has {', '.join(unknown)}", "write it as a pod: metadata, spec")
    wanted = {key: patch[key] for key in ("metadata", "spec") if key in patch}
    kind = document.get("kind")
    if kind == "Pod":
        return merge(document, wanted)
    inner = {"spec": {"template": wanted}}
    return merge(document, {"spec": {"jobTemplate": inner}} if kind == "CronJob" else inner)


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in patch.items():
        before = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[key] = merge(before, value)
        elif isinstance(value, list) and isinstance(before, list) and _key(key) is not None:
            merged[key] = _merge_list(before, value, str(_key(key)))
        else:
            merged[key] = value
    return merged


def _key(name: str) -> str | None:
    return "name" if name in _BY_NAME else _KEYS.get(name)


def _merge_list(before: list[Any], patch: list[Any], key: str) -> list[Any]:
    merged = list(before)
    for item in patch:
        at = next((n for n, one in enumerate(merged) if one.get(key) == item.get(key)), None)
        if at is None:
            merged.append(item)
        else:
            merged[at] = merge(merged[at], item)
    return merged
