"""``manifests/``: each overlay, built, against Kubernetes' schemas and our own rules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from etlkit.manifest.lint import lint
from etlkit.manifest.patch import merge
from etlkit.manifest.workload import workloads
from tests.conftest import REPOSITORY
from tests.unit.schemas import fits

MANIFESTS = REPOSITORY / "manifests"
OVERLAYS = sorted(path.parent for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"))
NOT_KUBERNETES = {"PrometheusRule"}
FIRST_VERSION = {"rules": 34, "indexed": 34}
each_overlay = pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)


def build(folder: Path) -> list[dict[str, Any]]:
    """What kustomize does with the little that we use of it: resources, and patches that are strategic merges."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "patches"}, "this builder knows no more"
    docs: list[dict[str, Any]] = []
    for resource in kustomization["resources"]:
        path = (folder / resource).resolve()
        docs += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for patch in kustomization.get("patches", []):
        wanted = yaml.safe_load((folder / patch["path"]).read_text())
        at = [n for n, doc in enumerate(docs) if key(doc) == key(wanted)]
        assert len(at) == 1, f"{patch['path']} patches nothing"
        docs[at[0]] = merge(docs[at[0]], wanted)
    return docs


def key(doc: dict[str, Any]) -> tuple[Any, ...]:
    return doc["apiVersion"], doc["kind"], doc["metadata"]["name"], doc["metadata"].get("namespace")


def test_there_is_one_for_each_way_of_running():
    expected = {"restart", "live", "rules", "indexed", "cronjob", "with-sidecar", "prometheus"}
    assert {folder.name for folder in OVERLAYS} == expected


@each_overlay
def test_overlays_keep_our_own_rules(folder):
    docs = build(folder)
    assert lint(docs) == []
    assert len(list(workloads(docs))) == (2 if folder.name == "indexed" else 1)


@each_overlay
def test_overlays_fit_the_schemas_of_1_33_to_the_newest(folder):
    fits((doc for doc in build(folder) if doc["kind"] not in NOT_KUBERNETES), FIRST_VERSION.get(folder.name, 33))


@each_overlay
def test_kustomize_builds_the_same(folder):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here: the overlays are built by this test alone")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    real = {key(doc): comparable(doc) for doc in yaml.safe_load_all(done.stdout)}
    assert real == {key(doc): comparable(doc) for doc in build(folder)}


def comparable(value: Any) -> Any:
    """Without nulls; the order of variables is free, since none of ours uses another."""
    if isinstance(value, dict):
        found = {name: comparable(item) for name, item in value.items() if item is not None}
        return found | ({"env": sorted(found["env"], key=lambda entry: entry["name"])} if "env" in found else {})
    return [comparable(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_single_files_fit_the_schemas(path):
    docs = list(yaml.safe_load_all(path.read_text()))
    fits(docs)
    assert lint(docs) == []


def test_shapes_are_what_they_are_called():
    built = {folder.name: next(workloads(build(folder))) for folder in OVERLAYS}
    assert (built["restart"].restart_policy, built["restart"].restarts_for_memory) == ("OnFailure", True)
    assert (built["live"].restart_policy, built["live"].restarts_for_memory) == ("Never", False)
    assert built["live"].exit_codes() == [] and built["rules"].exit_codes() == [75]
    assert built["indexed"].indexed and built["indexed"].env("ETLKIT_BACKOFF_LIMIT") == "3"
    assert built["indexed"].shards == built["indexed"].pods_at_once == 4  # the first of the two Jobs
    assert built["cronjob"].cron is not None
    assert [c["name"] for c in built["with-sidecar"].pod["initContainers"]] == ["log"]


def test_alerts_ask_for_this_job():
    alerts = next(doc for doc in build(MANIFESTS / "overlays" / "prometheus") if doc["kind"] == "PrometheusRule")
    rules = alerts["spec"]["groups"][0]["rules"]
    assert len(rules) == 4
    for rule in rules:
        assert 'namespace="etl"' in rule["expr"] and rule["annotations"]["summary"]
