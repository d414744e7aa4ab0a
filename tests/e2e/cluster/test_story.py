"""The story on a real cluster, in each shape; and what the platform's policy refuses there.

    ETLKIT_TEST_KUBECONFIG   the cluster; without it these are skipped
    ETLKIT_TEST_E2E_IMAGE    an image made by the Containerfile, such as etlkit-jobs:0.1.0
    ETLKIT_TEST_NAMESPACE    a namespace that may be filled (default: etlkit-e2e), labelled etlkit.dev/resize=self
    ETLKIT_TEST_POD_PATCH    a YAML file merged into every pod: a volume and an interpreter by hostPath instead of an image

The platform set must have been applied (`etlkit manifest --platform | kubectl apply -f -`). Deferred needs a cluster of one node.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from etlkit.kube.watch import JobWatch
from etlkit.manifest.objects import as_data
from etlkit.manifest.order import Order
from etlkit.manifest.patch import merge
from tests.conformance.cluster import ClusterDriver
from tests.conformance.driver import eventually

from . import story as story_module
from .story import JOB, Story, told

KUBECONFIG, IMAGE = os.environ.get("ETLKIT_TEST_KUBECONFIG"), os.environ.get("ETLKIT_TEST_E2E_IMAGE")
pytestmark = [
    pytest.mark.skipif(not KUBECONFIG, reason="ETLKIT_TEST_KUBECONFIG is not set: no real cluster"),
    pytest.mark.skipif(not IMAGE, reason="ETLKIT_TEST_E2E_IMAGE is not set: no image with etlkit in it"),
]


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", KUBECONFIG)
    patch: dict[str, Any] = {}
    if place := os.environ.get("ETLKIT_TEST_POD_PATCH"):
        patch = yaml.safe_load(Path(place).read_text())
    with told(str(IMAGE), os.environ.get("ETLKIT_TEST_NAMESPACE", "etlkit-e2e"), patch=patch) as made:
        yield made


@pytest.mark.parametrize("shape", ["restart", "live", "rules"])
def test_it_starts_too_small_is_resized_and_finishes(story: Story, tmp_path: Path, shape: str) -> None:
    story_module.grows_and_finishes(story, tmp_path, shape)


def test_it_is_deferred_behind_a_blocker_and_then_granted(story: Story, tmp_path: Path) -> None:
    with ClusterDriver.connect(Path(str(KUBECONFIG))) as driver:
        story_module.is_deferred_and_then_granted(story, tmp_path, driver.fill)


ASK = """
import sys
from etlkit.kube.client import PodClient
from etlkit.kube.identity import PodIdentity, find_access
from etlkit.kube.pod import read_pod
for pod, size in (arg.split("=") for arg in sys.argv[2:]):
    client = PodClient(find_access(), PodIdentity(sys.argv[1], pod, "etl"))
    view = read_pod(client.get_pod().body, "etl")
    answer = client.resize_memory(int(size) << 20, view, dry_run=True)
    print("ASKED", pod, size, answer.status, answer.kind, answer.message, flush=True)
"""


def test_a_pod_resizes_itself_only_and_up_to_its_cap(story: Story) -> None:
    """By the pod's own token: itself, itself over its cap, another pod of the same account."""
    names = ("e2e-asks", "e2e-asked")
    documents = as_data(Order(names[0], story.image, JOB, namespace=story.namespace))
    account, binding, pod_template = documents[0], documents[1], documents[-1]["spec"]["template"]
    story.names += names
    for document in (account, binding):
        assert story.api.apply(document).ok
    for name, command in (
        (names[1], ["sleep", "600"]),
        (
            names[0],
            [*story.python, "-c", ASK, story.namespace, f"{names[0]}=600", f"{names[0]}=9000", f"{names[1]}=600"],
        ),
    ):
        spec = {"restartPolicy": "Never", "containers": [{"name": "etl", "command": command, "resizePolicy": []}]}
        body = merge({"apiVersion": "v1", "kind": "Pod", **pod_template}, {"metadata": {"name": name}, "spec": spec})
        body["spec"]["volumes"] = [v for v in body["spec"]["volumes"] if v["name"] in ("tmp", "api-access")]
        kept = {v["name"] for v in body["spec"]["volumes"]}
        container = body["spec"]["containers"][0]
        container["volumeMounts"] = [m for m in container["volumeMounts"] if m["name"] in kept]
        body = merge(body, story.patch_without_seed)
        assert story.api.create(body).ok
    try:
        watch, lines = JobWatch(story.api, names[0]), []

        def asked() -> bool:
            look = watch.look()
            lines.extend(line for pod in look.pods for line in pod.lines if line.startswith("ASKED"))
            return bool(look.condition)

        eventually("it has asked", asked, 120)
        itself, over, other = lines
        assert f"{names[0]} 600 200" in itself
        assert "ValidatingAdmissionPolicy" in over and "memory-max" in over
        assert "ValidatingAdmissionPolicy" in other and "itself only" in other
    finally:
        for name in names:
            story.api.delete("Pod", name)
