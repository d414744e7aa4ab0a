"""Each lint rule: the manifest that ships, broken in one way, must be caught by that rule; and what is fine must pass."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from etlkit.manifest import rules_job, rules_pod, rules_safety
from etlkit.manifest.lint import RULES, lint
from etlkit.manifest.objects import as_data
from etlkit.manifest.order import Kind, Order, Shape
from etlkit.manifest.workload import Level, workloads
from tests.unit.test_manifest_overlays import MANIFESTS, build

Docs = list[dict[str, Any]]
ORDER = Order("part-revenue", "etlkit-jobs:0.1.0", "jobs/part_revenue.py")
POD, ETL = "template/spec", "template/spec/containers/0"


def docs_of(shape: str) -> Docs:
    if shape in ("indexed", "with-sidecar"):
        return copy.deepcopy(build(MANIFESTS / "overlays" / shape))
    if shape == "cronjob":
        return as_data(replace(ORDER, kind=Kind.CRONJOB))
    if shape == "shards":
        return as_data(replace(ORDER, shape=Shape.RULES, shards=4))
    if shape == "pod":
        return as_data(replace(ORDER, kind=Kind.POD, shape=Shape.RULES))
    return as_data(replace(ORDER, shape=Shape(shape)))


def put(path: str, value: Any, kind: str = "Job") -> Callable[[Docs], None]:
    """Set one thing of that document (below ``spec`` unless the path begins with a dot); None removes it."""

    def change(docs: Docs) -> None:
        doc = next(doc for doc in docs if doc["kind"] == kind)
        target: Any = doc if path.startswith(".") else doc["spec"]
        *way, last = [int(key) if key.isdigit() else key for key in path.lstrip(".").split("/")]
        for key in way:
            target = target[key]
        if value is None:
            del target[last]
        else:
            target[last] = value

    return change


def job(path: str, value: Any) -> Callable[[Docs], None]:
    return put(path, value)


def env(name: str, value: Any) -> Callable[[Docs], None]:
    def change(docs: Docs) -> None:
        doc = next(doc for doc in docs if doc["kind"] == "Job")
        entries = doc["spec"]["template"]["spec"]["containers"][0]["env"]
        entries[:] = [entry for entry in entries if entry["name"] != name]
        if isinstance(value, dict):
            entries.append({"name": name, **value})
        elif value is not None:
            entries.append({"name": name, "value": value})

    return change


def volume(at: int, value: dict[str, Any]) -> Callable[[Docs], None]:
    return job(f"{POD}/volumes/{at}", value)


def both(*changes: Callable[[Docs], None]) -> Callable[[Docs], None]:
    def change(docs: Docs) -> None:
        for one in changes:
            one(docs)

    return change


def capped(value: str) -> Callable[[Docs], None]:
    def change(docs: Docs) -> None:
        docs[-1]["spec"]["template"]["metadata"]["annotations"]["etlkit.dev/memory-max"] = value

    return change


FAIL, WARN = Level.FAIL, Level.WARN
SECRET = "hunter2-very-secret"
BREAKS: list[tuple[str, str, Level, Callable[[Docs], None]]] = [
    ("restart", "runs-for-ever", FAIL, put(".kind", "Deployment")),
    ("restart", "runs-for-ever", FAIL, job(f"{POD}/restartPolicy", None)),
    ("pod", "runs-for-ever", FAIL, put("restartPolicy", None, "Pod")),
    ("restart", "never-with-restart", FAIL, job(f"{POD}/restartPolicy", "Never")),
    ("restart", "room-for-resizes", FAIL, job("backoffLimit", 1)),
    ("restart", "room-for-resizes", FAIL, job("backoffLimit", 0)),
    ("restart", "room-for-resizes", WARN, job("backoffLimit", 3)),
    ("with-sidecar", "room-for-resizes", WARN, job("backoffLimit", 4)),
    ("restart", "room-for-resizes", FAIL, both(job("completionMode", "Indexed"), job("parallelism", 20))),
    ("restart", "backoff-limit-told", FAIL, job("backoffLimit", 20)),
    ("restart", "backoff-limit-told", FAIL, env("ETLKIT_BACKOFF_LIMIT", None)),
    ("restart", "failure-policy", FAIL, job("podFailurePolicy", {"rules": []})),
    ("live", "failure-policy", WARN, job("podFailurePolicy", None)),
    ("live", "failure-policy", WARN, job("podFailurePolicy/rules/1", {"action": "Count"})),
    ("live", "failure-policy", WARN, job("podFailurePolicy/rules/2", {"action": "Count"})),
    ("live", "failure-policy", WARN, job("podFailurePolicy/rules/0/onExitCodes/values", [2, 65])),
    ("live", "failure-policy", FAIL, job("podFailurePolicy/rules/0/onExitCodes/values", [2, 65, 75, 77, 78])),
    ("restart", "one-pod", FAIL, job("podReplacementPolicy", None)),
    ("live", "one-pod", FAIL, job("podReplacementPolicy", "TerminatingOrFailed")),
    ("restart", "one-pod", FAIL, job("parallelism", 2)),
    ("restart", "one-pod", FAIL, job("completionMode", "Indexed")),
    ("shards", "one-pod", FAIL, job("completions", 3)),
    ("shards", "one-pod", FAIL, job("completionMode", None)),
    ("shards", "claim", FAIL, put("accessModes", ["ReadWriteOncePod"], "PersistentVolumeClaim")),
    ("cronjob", "one-pod", FAIL, put("concurrencyPolicy", "Allow", "CronJob")),
    ("cronjob", "one-pod", FAIL, put("concurrencyPolicy", None, "CronJob")),
    ("rules", "restart-rules", FAIL, job(f"{ETL}/restartPolicy", None)),
    ("rules", "restart-rules", FAIL, job(f"{ETL}/restartPolicyRules/0/exitCodes/values", [143])),
    ("rules", "restart-rules", FAIL, job(f"{ETL}/restartPolicyRules/0/exitCodes/values", [0, 75])),
    ("restart", "exit-codes", FAIL, job(f"{ETL}/command", ["sh", "-c", "etlkit run jobs/x.py || true"])),
    ("restart", "exit-codes", FAIL, job(f"{ETL}/command", ["/usr/bin/env", "bash", "-c", "etlkit run jobs/x.py"])),
    ("restart", "grace", WARN, job(f"{POD}/terminationGracePeriodSeconds", 10)),
    ("restart", "grace", FAIL, job(f"{POD}/terminationGracePeriodSeconds", 0)),
    ("restart", "grace", WARN, job(f"{ETL}/lifecycle", {"preStop": {"sleep": {"seconds": 5}}})),
    ("restart", "memory-limit", FAIL, job(f"{ETL}/resources", {})),
    ("restart", "memory-limit", WARN, env("ETLKIT_MAX_MEMORY", None)),
    ("restart", "memory-limit", WARN, env("ETLKIT_MAX_MEMORY", "512Mi")),
    ("restart", "memory-limit", FAIL, env("ETLKIT_MAX_MEMORY", "lots")),
    ("restart", "request-is-limit", WARN, job(f"{ETL}/resources/requests/memory", "256Mi")),
    ("restart", "request-is-limit", FAIL, job(f"{ETL}/resources/requests/memory", "1Gi")),
    ("restart", "pinned-cpus", WARN, job(f"{ETL}/resources/requests/cpu", "2")),
    ("restart", "resize-policy", WARN, job(f"{ETL}/resizePolicy", None)),
    ("restart", "resize-policy", WARN, job(f"{ETL}/resizePolicy/1/restartPolicy", "RestartContainer")),
    ("restart", "identity", FAIL, job(f"{ETL}/name", "main")),
    ("restart", "identity", FAIL, env("ETLKIT_CONTAINER_NAME", None)),
    ("restart", "identity", FAIL, env("ETLKIT_POD_NAME", "part-revenue")),
    ("restart", "identity", FAIL, env("ETLKIT_POD_NAME", {"valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}})),
    ("restart", "identity", WARN, env("ETLKIT_POD_NAMESPACE", None)),
    ("restart", "annotations", WARN, job("template/metadata/annotations", None)),
    ("restart", "annotations", FAIL, (capped("1Gi"))),
    ("restart", "allocator", FAIL, env("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")),
    ("restart", "config-folder", WARN, job(f"{ETL}/volumeMounts/2/subPath", "etlkit.toml")),
    ("restart", "image", WARN, job(f"{ETL}/image", "etlkit-jobs")),
    ("restart", "image", WARN, job(f"{ETL}/image", "registry:5000/etlkit-jobs:latest")),
    ("restart", "image", WARN, job(f"{ETL}/imagePullPolicy", "Always")),
    ("restart", "own-processes", WARN, job(f"{POD}/shareProcessNamespace", True)),
    ("restart", "probes", WARN, job(f"{ETL}/livenessProbe", {"exec": {"command": ["true"]}})),
    ("restart", "state", FAIL, env("ETLKIT_STATE", None)),
    ("restart", "state", FAIL, env("ETLKIT_STATE", "/scratch/state")),
    ("restart", "state", FAIL, env("ETLKIT_STATE", "/tmp/state")),
    ("restart", "state", FAIL, volume(0, {"name": "data", "ephemeral": {"volumeClaimTemplate": {}}})),
    ("restart", "state", WARN, volume(0, {"name": "data", "hostPath": {"path": "/srv"}})),
    ("restart", "state", FAIL, job(f"{ETL}/command", ["etlkit", "run", "x.py", "--state", "/elsewhere"])),
    ("restart", "claim", WARN, put("accessModes", ["ReadWriteOnce"], "PersistentVolumeClaim")),
    ("restart", "claim", FAIL, put(".metadata/ownerReferences", [{"kind": "Job"}], "PersistentVolumeClaim")),
    ("indexed", "claim", FAIL, put("accessModes", ["ReadWriteOncePod"], "PersistentVolumeClaim")),
    ("restart", "files", FAIL, volume(1, {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})),
    ("restart", "files", WARN, volume(1, {"name": "tmp", "emptyDir": {}})),
    ("restart", "files", WARN, job(f"{POD}/securityContext/fsGroupChangePolicy", None)),
    ("restart", "account", WARN, job(f"{POD}/serviceAccountName", None)),
    ("restart", "account", WARN, job(f"{POD}/automountServiceAccountToken", None)),
    ("restart", "account", FAIL, job(f"{ETL}/volumeMounts/3", {"name": "tmp", "mountPath": "/x"})),
    ("restart", "role", WARN, lambda docs: docs.append(role(["pods"], ["get", "list"]))),
    ("restart", "role", WARN, lambda docs: docs.append(role(["*"], ["*"]))),
    ("restart", "restricted", WARN, job(f"{POD}/securityContext/runAsNonRoot", None)),
    ("restart", "restricted", WARN, job(f"{ETL}/securityContext/capabilities", None)),
    ("restart", "restricted", WARN, job(f"{ETL}/securityContext/readOnlyRootFilesystem", None)),
    ("restart", "restricted", FAIL, job(f"{POD}/hostPID", True)),
    ("restart", "secret", FAIL, env("AWS_SECRET_ACCESS_KEY", SECRET)),
    ("restart", "secret", FAIL, env("DATABASE", f"postgres://etl:{SECRET}@db/x")),
    ("restart", "secret", FAIL, job(f"{ETL}/command/2", f"--set=src=s3://key:{SECRET}@bucket/x")),
]  # fmt: skip


def role(resources: list[str], verbs: list[str]) -> dict[str, Any]:
    rule = {"apiGroups": [""], "resources": resources, "verbs": verbs}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": [rule]}


@pytest.mark.parametrize(("shape", "rule", "level", "change"), BREAKS)
def test_each_rule_catches_what_it_is_for(shape, rule, level, change):
    docs = docs_of(shape)
    assert lint(docs) == []
    change(docs)
    found = [finding for finding in lint(docs) if finding.rule == rule]
    assert found and max((f.level for f in found), key=lambda one: one is FAIL) is level
    for finding in found:
        assert finding.what and finding.why and finding.remedy and finding.place
        assert SECRET not in str(finding), "a finding must not repeat the secret"


def test_every_rule_has_been_seen_to_catch_something():
    seen = set()
    for shape, _, _, change in BREAKS:
        docs = docs_of(shape)
        change(docs)
        seen |= {rule for w in workloads(docs) for rule in RULES if list(rule(w))}
    assert set(RULES) == seen
    assert len(RULES) == len(rules_job.RULES) + len(rules_pod.RULES) + len(rules_safety.RULES)


@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ("restart", env("ETLKIT_STATE", "s3://bucket/state")),
        ("restart", env("AWS_SECRET_ACCESS_KEY", {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}})),
        ("restart", job(f"{ETL}/image", "registry:5000/etlkit@sha256:" + "0" * 64)),
        ("restart", lambda docs: docs.append(role(["pods", "secrets"][1:], ["get", "list"]))),
        ("restart", job(f"{ETL}/command", ["python", "-m", "etlkit", "run", "jobs/x.py"])),
        ("restart", env("TOKENIZERS_PARALLELISM", "false")),
        ("restart", env("GOOGLE_CREDENTIALS_FILE", "/var/run/secrets/gcp/key.json")),
        ("live", job("podReplacementPolicy", None)),
        ("shards", job(f"{ETL}/command", ["etlkit", "run", "x.py", "--state=/data/state/x-$(JOB_COMPLETION_INDEX)"])),
    ],
)
def test_what_is_fine_is_not_complained_about(shape, change):
    docs = docs_of(shape)
    change(docs)
    assert lint(docs) == []


def test_arguments_behind_an_entry_point_and_lists_are_found():
    docs = docs_of("restart")
    container = docs[-1]["spec"]["template"]["spec"]["containers"][0]
    container["args"] = container.pop("command")
    assert lint([{"apiVersion": "v1", "kind": "List", "items": docs}]) == []
    assert [w.name for w in workloads([{"apiVersion": "v1", "kind": "List", "items": docs}])] == ["part-revenue"]


def test_workloads_of_others_are_left_alone():
    other = {
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "web"}]}}},
    }
    assert lint([other]) == [] and list(workloads([other])) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_a_value_of_any_type_at_any_place_breaks_no_rule(data):
    """Wrong types are for the schemas to tell; the rules go on."""
    docs = docs_of(data.draw(st.sampled_from(["restart", "live", "rules", "cronjob", "pod"])))
    target: Any = docs[-1]["spec"]
    for _ in range(data.draw(st.integers(0, 7))):
        inner = [
            k
            for k, v in (target.items() if isinstance(target, dict) else enumerate(target))
            if isinstance(v, dict | list) and v
        ]
        if not inner:
            break
        target = target[data.draw(st.sampled_from(inner))]
    keys = list(target) if isinstance(target, dict) else list(range(len(target)))
    target[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    lint(docs)


# ── the verb ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_verb_reads_files_and_stdin_and_ends_by_what_it_finds(etlkit_command, tmp_path):
    fine, broken = tmp_path / "fine.yaml", tmp_path / "broken.yaml"
    fine.write_text(yaml.safe_dump_all(docs_of("restart")))
    docs = docs_of("restart")
    job("backoffLimit", 1)(docs)
    broken.write_text(yaml.safe_dump_all(docs))
    done = etlkit_command("lint", fine, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Job part-revenue: 0 that must be mended, 0 to consider\n")
    done = etlkit_command("lint", broken, cwd=tmp_path)
    assert done.returncode == 78 and "room for 0 restarts" in done.stdout and "F8" in done.stdout
    told = json.loads(etlkit_command("lint", broken, "--json", cwd=tmp_path).stdout)
    assert told["workloads"] == ["Job part-revenue"]
    assert {f["rule"] for f in told["findings"]} == {"room-for-resizes", "backoff-limit-told"}
    remedies = {f["rule"]: f["remedy"] for f in told["findings"]}
    assert "backoffLimit to 4 or more" in remedies["room-for-resizes"]
    assert 'ETLKIT_BACKOFF_LIMIT to "4", once' in remedies["backoff-limit-told"], "both can be followed"


@pytest.mark.parametrize(("text", "code"), [("a: [", 78), ("- x\n- y\n", 78), (None, 2), ("kind: Service\n", 0)])
def test_the_verb_says_what_is_wrong_with_the_file(etlkit_command, tmp_path, text, code):
    if text is not None:
        (tmp_path / "f.yaml").write_text(text)
    done = etlkit_command("lint", "f.yaml", cwd=tmp_path)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert "f.yaml" in done.stderr or done.stdout == "nothing here runs etlkit\n"
