"""Kubernetes' own schemas (kubernetes-validate), strict: an unknown field is an error, as `kubectl apply` has it.

The package reads all definitions of a version for each object; here they are read once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest


def fits(documents: Iterable[Mapping[str, Any]], first: int = 33) -> None:
    """Each document, against each version from 1.``first`` to the newest that the package has."""
    pytest.importorskip("kubernetes_validate")
    from kubernetes_validate import utils

    if not hasattr(utils.schema_contents, "cache_info"):
        utils.schema_contents = functools.cache(utils.schema_contents)
    newest = int(utils.latest_version().split(".")[1])
    assert newest >= 35, "the newest that is supported is not among them"
    for document in documents:
        for minor in range(first, newest + 1):
            utils.validate(dict(document), f"1.{minor}", strict=True)
