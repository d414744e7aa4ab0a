"""The admission policy: every clause evaluated as CEL, on resizes that it must let pass and on one that it alone refuses.

The evaluator is common-expression-language; what Kubernetes adds to the language (``quantity``, ``isQuantity``) is added here by the
local node's own quantities. That a real API server compiles the same expressions is shown on a cluster, by tests/e2e/cluster.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etlkit.kube.answer import Kind, read_answer
from etlkit.manifest.objects import as_data
from etlkit.manifest.order import Order
from etlkit.manifest.platform import (
    CEILING,
    CLAUSES,
    CLUSTER_ROLE,
    EVENTS_ROLE,
    LABEL,
    POD_UID,
    VARIABLES,
    render_platform,
)
from etlkit.manifest.workload import workloads
from etlkit.manifest.yaml import plain
from etlkit.node import quantity
from etlkit.node.admission import Policy, User
from etlkit.node.answers import Json
from tests.conftest import REPOSITORY
from tests.unit.schemas import fits

cel = pytest.importorskip("cel", reason="common-expression-language evaluates the policy's expressions")

UID = "6f2c1f0e-0000-4000-8000-000000000001"
CEILINGS = {"memory": "4Gi", "cpu": "8"}


# ── the evaluator ───────────────────────────────────────────────────────────────────────────────────────────────────


def is_quantity(text: Any) -> bool:
    try:
        quantity.parse(text)
    except (quantity.QuantityError, TypeError):
        return False
    return True


def evaluate(request: Json, old: Json, new: Json, params: Json) -> list[str]:
    """Names of the clauses that refuse. An expression that can't be evaluated refuses, too: failurePolicy Fail."""
    context = cel.Context()
    context.add_function("quantity", lambda text: quantity.parse(text)[0])
    context.add_function("isQuantity", is_quantity)
    context.add_function("compareTo", lambda a, b: (a > b) - (a < b))
    for name, value in (("request", request), ("oldObject", old), ("object", new), ("params", params)):
        context.add_variable(name, value)
    variables: dict[str, Any] = {}
    for name, expression in VARIABLES:
        context.add_variable("variables", dict(variables))
        variables[name] = cel.evaluate(expression, context)
    context.add_variable("variables", variables)
    refused = []
    for clause in CLAUSES:
        try:
            allowed = cel.evaluate(clause.expression, context)
        except Exception:
            allowed = False
        if allowed is not True:
            refused.append(clause.name)
    return refused


def caller(uid: str | None = UID) -> Json:
    user: Json = {"username": "system:serviceaccount:etl:part-revenue"}
    if uid is not None:
        user["extra"] = {POD_UID: [uid]}
    return {"userInfo": user}


@pytest.fixture
def pod() -> Json:
    """The pod of our own manifest, with a sidecar, as an API server stores it."""
    order = Order("part-revenue", "jobs:1", "jobs/part_revenue.py")
    w = next(workloads(as_data(order)))
    sidecar = {"name": "log", "image": "log:1", "restartPolicy": "Always", "resources": {"limits": {"memory": "32Mi"}}}
    other = {"name": "proxy", "image": "proxy:1", "resources": {"limits": {"memory": "64Mi"}}}
    spec = copy.deepcopy(dict(w.pod)) | {"initContainers": [sidecar]}
    spec["containers"].append(other)
    return {"metadata": {"name": "p", "uid": UID, **copy.deepcopy(dict(w.metadata))}, "spec": spec}


def resized(pod: Json, change: Callable[[Json], None] = lambda new: None, memory: str = "2Gi") -> Json:
    new = copy.deepcopy(pod)
    for side in ("limits", "requests"):
        new["spec"]["containers"][0]["resources"][side]["memory"] = memory
    change(new)
    return new


def judge(pod: Json, new: Json, request: Json | None = None, params: Json | None = None) -> list[str]:
    return evaluate(request or caller(), pod, new, {"data": CEILINGS} if params is None else params)


# ── what it lets pass ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("memory", ["2Gi", "4Gi", "4096Mi", "128Mi", "1e9", "1234567"])
def test_a_pod_resizes_its_own_container_within_its_cap(pod, memory):
    assert judge(pod, resized(pod, memory=memory)) == []


def test_a_pod_without_sidecars_and_pod_level_resources(pod):
    del pod["spec"]["initContainers"]
    assert judge(pod, resized(pod)) == []


def test_pod_level_resources_and_cpu_that_stay_or_fit(pod):
    pod["spec"]["resources"] = {"limits": {"memory": "8Gi"}}

    def cpu(new: Json) -> None:
        new["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "8"

    assert judge(pod, resized(pod, cpu)) == []


# ── what each clause refuses ────────────────────────────────────────────────────────────────────────────────────────


def _set(path: str, value: Any) -> Callable[[Json], None]:
    def change(target: Json) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split("|")]
        for part in way:
            target = target[part]
        if value is None:
            del target[last]
        else:
            target[last] = value

    return change


_ETL = "spec|containers|0|resources"
NEGATIVE: list[tuple[str, Callable[[Json], None], Callable[[Json], None], Json | None]] = [
    # the clause that alone refuses; a change of the pod before; a change of what is asked; who asks
    ("self", lambda old: None, lambda new: None, caller("6f2c1f0e-0000-4000-8000-000000000002")),
    ("self", lambda old: None, lambda new: None, caller(None)),
    ("self", lambda old: None, lambda new: None, {"userInfo": {"username": "system:serviceaccount:x:y", "extra": {}}}),
    ("self", lambda old: None, lambda new: None, {"userInfo": {"username": "system:serviceaccount:x:y", "extra": {POD_UID: []}}}),
    ("other-containers", lambda old: None, _set("spec|containers|1|resources|limits|memory", "128Mi"), None),
    ("other-containers", lambda old: None, _set("spec|containers|1|resources", None), None),
    ("sidecars", lambda old: None, _set("spec|initContainers|0|resources|limits|memory", "64Mi"), None),
    ("sidecars", lambda old: None, _set("spec|initContainers", None), None),
    ("pod-level", lambda old: None, _set("spec|resources", {"limits": {"memory": "1Ti"}}), None),
    ("pod-level", _set("spec|resources", {"limits": {"memory": "1Gi"}}), _set("spec|resources", {"limits": {"memory": "2Gi"}}), None),
    ("resize-policy", lambda old: None, _set("spec|containers|0|resizePolicy|0|restartPolicy", "NotRequired"), None),
    ("annotations", lambda old: None, _set("metadata|annotations|etlkit.dev/memory-max", "8Gi"), None),
    ("annotations", lambda old: None, _set("metadata|annotations", None), None),
    ("memory-max", _set("metadata|annotations|etlkit.dev/memory-max", "1Gi"), lambda new: None, None),
    ("memory-max", _set("metadata|annotations|etlkit.dev/memory-max", "1Gi"), _set(f"{_ETL}|limits|memory", "1Gi"), None),
    ("memory-max", _set("metadata|annotations|etlkit.dev/memory-max", "1Gi"), _set(f"{_ETL}|requests|memory", "1Gi"), None),
    ("memory-ceiling", _set("metadata|annotations|etlkit.dev/memory-max", "64Gi"), _set(f"{_ETL}|limits|memory", "5Gi"), None),
    ("memory-ceiling", _set("metadata|annotations|etlkit.dev/memory-max", "64Gi"), _set(f"{_ETL}|requests|memory", "5Gi"), None),
    ("cpu-ceiling", lambda old: None, _set(f"{_ETL}|limits|cpu", "8001m"), None),
    ("cpu-ceiling", lambda old: None, _set(f"{_ETL}|requests|cpu", "9"), None),
]  # fmt: skip


@pytest.mark.parametrize(("clause", "before", "asked", "request_"), NEGATIVE)
def test_each_clause_refuses_what_it_is_for_and_it_alone_does(pod, clause, before, asked, request_):
    before(pod)
    memory = "512Mi" if clause in ("self",) else "2Gi"
    assert judge(pod, resized(pod, asked, memory), request_) == [clause]


def test_a_pod_without_our_annotations_is_refused(pod):
    del pod["metadata"]["annotations"]["etlkit.dev/memory-max"]
    assert judge(pod, resized(pod)) == ["capped", "memory-max"]
    del pod["metadata"]["annotations"]
    assert {"annotated", "capped", "memory-max", "other-containers"} == set(judge(pod, resized(pod)))


@pytest.mark.parametrize("name", ["nobody", "log", ""])
def test_an_annotation_that_names_no_container_is_refused(pod, name):
    pod["metadata"]["annotations"]["etlkit.dev/container"] = name
    assert "annotated" in judge(pod, resized(pod))


@pytest.mark.parametrize("cap", ["lots", "", "4Gb", "-"])
def test_a_cap_that_is_no_quantity_is_refused(pod, cap):
    pod["metadata"]["annotations"]["etlkit.dev/memory-max"] = cap
    assert {"capped", "memory-max"} <= set(judge(pod, resized(pod)))


def test_a_ceiling_that_says_nothing_refuses(pod):
    assert set(judge(pod, resized(pod), params={"data": {}})) == {"memory-ceiling", "cpu-ceiling"}
    assert set(judge(pod, resized(pod), params={})) == {"memory-ceiling", "cpu-ceiling"}


def test_every_clause_has_been_seen_to_refuse():
    assert {clause for clause, *_ in NEGATIVE} | {"annotated", "capped"} == {clause.name for clause in CLAUSES}


# ── on the local node ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def policy() -> Policy:
    messages = {clause.name: clause.message for clause in CLAUSES}

    def refuses(user: User, old: Json, new: Json) -> str | None:
        request: Json = {"userInfo": {"username": user.name}}
        if not user.name.startswith("system:serviceaccount:"):
            return None
        if user.pod_uid is not None:
            request["userInfo"]["extra"] = {POD_UID: [user.pod_uid]}
        found = evaluate(request, old, new, {"data": CEILINGS})
        return messages[found[0]] if found else None

    return Policy("etlkit-resize-self", refuses, "Forbidden")


@pytest.fixture
def two_pods(policy: Policy, tmp_path: Path) -> Iterator[Any]:
    from etlkit.node.node import Node
    from etlkit.node.spec import pod_manifest
    from etlkit.units import GIB

    with Node(8 * GIB, enforcement="sampling") as node:
        node.rules.policies.append(policy)
        for name in ("mine", "other"):
            manifest = pod_manifest(
                name, ["sleep", "60"], memory="64Mi", restart_policy="Never", resize_policy="NotRequired"
            )
            manifest["metadata"]["annotations"] = {"etlkit.dev/container": "etl", "etlkit.dev/memory-max": "1Gi"}
            node.start_pod(manifest)
        yield node


def test_on_the_local_node_a_pod_resizes_itself_and_no_other(two_pods):
    import json
    import ssl
    import urllib.error
    import urllib.request

    host, port = two_pods.address
    token = (two_pods.service_account("mine") / "token").read_text()
    context = ssl.create_default_context(cafile=str(two_pods.ca_file))

    def patch(name: str, memory: str) -> tuple[int, bytes]:
        resources = {side: {"memory": memory} for side in ("limits", "requests")}
        body = {"spec": {"containers": [{"name": "etl", "resources": resources}]}}
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/strategic-merge-patch+json"}
        url = f"https://{host}:{port}/api/v1/namespaces/etl/pods/{name}/resize"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="PATCH")
        try:
            with urllib.request.urlopen(request, context=context, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    assert patch("mine", "128Mi")[0] == 200
    status, body = patch("other", "128Mi")
    assert (status, read_answer(status, body).kind) == (403, Kind.POLICY) and b"resize itself only" in body
    status, body = patch("mine", "2Gi")
    assert read_answer(status, body).kind is Kind.POLICY and b"memory-max" in body


# ── the documents around it ─────────────────────────────────────────────────────────────────────────────────────────


def documents() -> dict[tuple[str, str], Json]:
    return {(d["kind"], d["metadata"]["name"]): d for d in (plain(one) for one in render_platform("16Gi", "8"))}


def test_the_documents_fit_the_schemas():
    fits(documents().values())


def test_the_role_is_the_least_and_whoever_binds_it_may_bind_no_other():
    docs = documents()
    rules = docs["ClusterRole", CLUSTER_ROLE]["rules"]
    granted = {(r, v) for rule in rules for r in rule["resources"] for v in rule["verbs"]}
    assert granted == {("pods", "get"), ("pods/resize", "patch")}
    assert [(r["resources"], r["verbs"]) for r in docs["ClusterRole", EVENTS_ROLE]["rules"]] == [
        (["events"], ["create"])
    ]
    binder = docs["ClusterRole", "etlkit-resize-grant"]["rules"]
    assert [(r["resourceNames"], r["verbs"]) for r in binder] == [([CLUSTER_ROLE, EVENTS_ROLE], ["bind"])]


def test_the_policy_is_for_every_service_account_and_fails_closed():
    docs = documents()
    spec = docs["ValidatingAdmissionPolicy", "etlkit-resize-self"]["spec"]
    assert spec["failurePolicy"] == "Fail"
    assert spec["matchConstraints"]["resourceRules"][0]["resources"] == ["pods/resize"]
    (condition,) = spec["matchConditions"]
    for user, matched in (("system:serviceaccount:any:name", True), ("alice", False), ("system:node:n1", False)):
        context = cel.Context()
        context.add_variable("request", {"userInfo": {"username": user}})
        assert cel.evaluate(condition["expression"], context) is matched
    binding = docs["ValidatingAdmissionPolicyBinding", "etlkit-resize-self"]["spec"]
    assert binding["paramRef"]["parameterNotFoundAction"] == "Deny" and "Deny" in binding["validationActions"]
    assert binding["matchResources"]["namespaceSelector"] == {"matchLabels": {LABEL: "self"}}
    ceiling = docs["ConfigMap", CEILING]["metadata"]
    assert (ceiling["name"], ceiling["namespace"]) == (binding["paramRef"]["name"], binding["paramRef"]["namespace"])


def test_messages_are_short_enough_and_name_what_to_do():
    for clause in CLAUSES:
        assert len(clause.message) < 200 and "\n" not in clause.message
        assert re.search(r"itself|annotation|ceiling", clause.message)


def test_a_manifest_binds_the_role_that_the_platform_makes():
    for events, roles in ((False, [CLUSTER_ROLE]), (True, [CLUSTER_ROLE, EVENTS_ROLE])):
        docs = as_data(Order("x", "i:1", "jobs/part_revenue.py", events=events))
        bound = [doc["roleRef"]["name"] for doc in docs if doc["kind"] == "RoleBinding"]
        assert bound == roles and {("ClusterRole", role) for role in roles} <= set(documents())
    assert (REPOSITORY / "manifests" / "platform.yaml").read_text().count("kind: ValidatingAdmissionPolicy\n") == 1
