"""The manifests: Kubernetes' own schemas, and the rules that the facts about resize (F…) make.

Each rule is a function from documents to complaints, and is itself tested: the manifest broken in that way must be caught.
"""

from __future__ import annotations

import argparse
import copy
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from etlkit.cli import manifest
from etlkit.memory.allocation import allocator_environment
from etlkit.node import spec as node_spec
from etlkit.units import parse_bytes
from tests.conftest import REPOSITORY

MANIFESTS = sorted((REPOSITORY / "manifests").glob("*.yaml"))
Doc = dict[str, Any]
ROOM_FOR_RESIZES = 3


def load(path) -> list[Doc]:
    return [doc for doc in yaml.safe_load_all(path.read_text()) if doc is not None]


def of_kind(docs: list[Doc], kind: str) -> list[Doc]:
    return [doc for doc in docs if doc["kind"] == kind]


def job_specs(docs: list[Doc]) -> Iterator[Doc]:
    for doc in docs:
        if doc["kind"] == "Job":
            yield doc["spec"]
        elif doc["kind"] == "CronJob":
            yield doc["spec"]["jobTemplate"]["spec"]


def etl(job: Doc) -> Doc:
    """The job's own container: the one that runs etlkit."""
    found = [one for one in job["template"]["spec"]["containers"] if "etlkit" in one.get("command", [])[:1]]
    assert len(found) == 1
    return found[0]


def environ(container: Doc) -> dict[str, Doc]:
    return {entry["name"]: entry for entry in container.get("env", [])}


def policy(container: Doc, resource: str) -> str | None:
    return {one["resourceName"]: one["restartPolicy"] for one in container.get("resizePolicy", [])}.get(resource)


# ── the rules ───────────────────────────────────────────────────────────────────────────────────────────────────────


def there_is_a_job_and_no_bare_pod(docs):
    """F29: a Pod with the default restartPolicy runs the finished job again, for ever."""
    if of_kind(docs, "Pod") or not list(job_specs(docs)):
        yield "a bare Pod, or nothing to run"


def resizes_fit_into_the_backoff_limit(docs):
    """F8: resizes available are backoffLimit - 1 - restarts so far."""
    for job in job_specs(docs):
        limit = job.get("backoffLimit", 6)
        if policy(etl(job), "memory") == "RestartContainer" and limit - 1 < ROOM_FOR_RESIZES:
            yield f"backoffLimit {limit} leaves no room for resizes"
        if environ(etl(job)).get("ETLKIT_BACKOFF_LIMIT", {}).get("value") != str(limit):
            yield "the pod is told another backoffLimit"


def restart_policies_go_together(docs):
    """F9, F25: Never forbids RestartContainer; podFailurePolicy needs Never."""
    for job in job_specs(docs):
        restart = job["template"]["spec"].get("restartPolicy")
        if restart not in ("OnFailure", "Never"):
            yield "a Job needs OnFailure or Never"
        if restart == "Never" and policy(etl(job), "memory") != "NotRequired":
            yield "restartPolicy Never with RestartContainer is refused (422)"
        if restart == "OnFailure" and "podFailurePolicy" in job:
            yield "podFailurePolicy needs restartPolicy Never"


def memory_restarts_and_cpu_does_not(docs):
    for job in job_specs(docs):
        if policy(etl(job), "memory") not in ("RestartContainer", "NotRequired"):
            yield "no resizePolicy for memory is said"
        if policy(etl(job), "cpu") != "NotRequired":
            yield "cpu can be resized live"


def exit_codes_and_signals_reach_their_end(docs):
    """F12, F3: exit 0 with work left completes the Job; a shell between may do that. preStop uses the grace up."""
    for job in job_specs(docs):
        container = etl(job)
        if container["command"][:2] != ["etlkit", "run"]:
            yield "the command is not `etlkit run` itself"
        if "preStop" in container.get("lifecycle", {}):
            yield "preStop uses up the grace period"
        if job["template"]["spec"].get("terminationGracePeriodSeconds", 30) < 30:
            yield "too little grace for a checkpoint"


def two_pods_never_write(docs):
    """F24"""
    for job in job_specs(docs):
        if job.get("podReplacementPolicy") != "Failed":
            yield "the replacement starts while the old pod still writes"
        if job.get("parallelism", 1) != 1:
            yield "several pods on one state"
    for claim in of_kind(docs, "PersistentVolumeClaim"):
        if claim["spec"]["accessModes"] != ["ReadWriteOncePod"]:
            yield "the volume can be mounted by two pods"


def the_pod_knows_itself(docs):
    """F28: the container's own name is a literal; the others come by the downward API."""
    for job in job_specs(docs):
        given = environ(etl(job))
        if given.get("ETLKIT_CONTAINER_NAME", {}).get("value") != etl(job)["name"]:
            yield "ETLKIT_CONTAINER_NAME is not the container's name"
        for name, path in (("ETLKIT_POD_NAME", "metadata.name"), ("ETLKIT_POD_NAMESPACE", "metadata.namespace")):
            if given.get(name, {}).get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") != path:
                yield f"{name} does not come from {path}"


def memory_can_grow(docs):
    """F16: the class must stay what it is; requests and limits of memory move together."""
    for job in job_specs(docs):
        resources = etl(job)["resources"]
        if resources["requests"]["memory"] != resources["limits"]["memory"]:
            yield "what is granted would not be reserved"
        if parse_bytes(environ(etl(job))["ETLKIT_MAX_MEMORY"]["value"]) <= parse_bytes(resources["limits"]["memory"]):
            yield "nothing to ask for"


def the_allocator_is_set_before_the_process_starts(docs):
    for job in job_specs(docs):
        limit = parse_bytes(etl(job)["resources"]["limits"]["memory"])
        for name, value in allocator_environment(limit).items():
            if environ(etl(job)).get(name, {}).get("value") != value:
                yield f"{name} should be {value}"


def the_account_may_do_what_is_needed_and_no_more(docs):
    """F23"""
    rules = [rule for role in of_kind(docs, "Role") for rule in role["rules"]]
    allowed = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    if allowed != {("pods", "get"), ("pods/resize", "patch")}:
        yield f"the role allows {sorted(allowed)}"
    if of_kind(docs, "ClusterRole") or of_kind(docs, "ClusterRoleBinding"):
        yield "nothing here is for the whole cluster"
    accounts = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in of_kind(docs, "ServiceAccount")}
    roles = {one["metadata"]["name"] for one in of_kind(docs, "Role")}
    for binding in of_kind(docs, "RoleBinding"):
        if {(one["namespace"], one["name"]) for one in binding["subjects"]} != accounts:
            yield "the role is bound to another account"
        if binding["roleRef"]["name"] not in roles:
            yield "another role is bound"
    for job in job_specs(docs):
        if job["template"]["spec"].get("serviceAccountName") not in {name for _, name in accounts}:
            yield "the pod runs as another account"


def the_token_is_projected(docs):
    for job in job_specs(docs):
        pod = job["template"]["spec"]
        if pod.get("automountServiceAccountToken") is not False:
            yield "a second token is mounted"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        at = [m["name"] for m in etl(job)["volumeMounts"] if m["mountPath"].endswith("/kubernetes.io/serviceaccount")]
        sources = volumes[at[0]].get("projected", {}).get("sources", []) if at else []
        paths = {source["serviceAccountToken"]["path"] for source in sources if "serviceAccountToken" in source}
        for source in sources:
            for kind in ("configMap", "downwardAPI"):
                paths |= {item["path"] for item in source.get(kind, {}).get("items", [])}
        if paths != {"token", "ca.crt", "namespace"}:
            yield f"the account's folder holds {sorted(paths)}"


def it_is_restricted(docs):
    """The restricted Pod Security Standard."""
    for job in job_specs(docs):
        pod = job["template"]["spec"]
        around = pod.get("securityContext", {})
        if not around.get("runAsNonRoot") or around.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield "the pod is not restricted"
        for container in pod["containers"]:
            inside = container.get("securityContext", {})
            if inside.get("allowPrivilegeEscalation") is not False or inside.get("capabilities") != {"drop": ["ALL"]}:
                yield "the container is not restricted"
            if not inside.get("readOnlyRootFilesystem"):
                yield "the root filesystem can be written"


def the_state_outlives_the_pod(docs):
    for job in job_specs(docs):
        pod = job["template"]["spec"]
        state = environ(etl(job))["ETLKIT_STATE"]["value"]
        claims = {v["name"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
        mounts = [m["mountPath"] for m in etl(job)["volumeMounts"] if m["name"] in claims]
        if not any(state.startswith(f"{path}/") for path in mounts):
            yield "the state is not on a claimed volume"
        if any(volume.get("emptyDir", {}).get("medium") == "Memory" for volume in pod["volumes"]):
            yield "files in memory count against the limit"


RULES: list[Callable[[list[Doc]], Iterator[str]]] = [
    there_is_a_job_and_no_bare_pod,
    resizes_fit_into_the_backoff_limit,
    restart_policies_go_together,
    memory_restarts_and_cpu_does_not,
    exit_codes_and_signals_reach_their_end,
    two_pods_never_write,
    the_pod_knows_itself,
    memory_can_grow,
    the_allocator_is_set_before_the_process_starts,
    the_account_may_do_what_is_needed_and_no_more,
    the_token_is_projected,
    it_is_restricted,
    the_state_outlives_the_pod,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_keep_the_rules(path, rule):
    assert list(rule(load(path))) == []


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_fit_kubernetes_own_schemas(path):
    """Strictly: an unknown field is an error, as `kubectl apply` has it."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for version in ("1.33", kubernetes_validate.latest_version()):
        for doc in load(path):
            kubernetes_validate.validate(doc, version, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_pod_would_be_taken_by_the_local_node(path):
    for job in job_specs(load(path)):
        template = copy.deepcopy(job["template"])
        template["metadata"] |= {"name": "x", "namespace": "etl"}
        pod = node_spec.create({"apiVersion": "v1", "kind": "Pod", **template}, node_name="node", address="127.0.0.1")
        assert node_spec.qos_class(pod["spec"]) == "Burstable"


def _set(path: str, value: Any) -> Callable[[list[Doc]], None]:
    """Change one thing of the Job (below ``spec``) or, with ``KIND:``, of another document."""

    def change(docs: list[Doc]) -> None:
        kind, _, keys = path.rpartition(":")
        target: Any = of_kind(docs, kind)[0] if kind else next(job_specs(docs))
        *way, last = [int(key) if key.isdigit() else key for key in keys.split(".")]
        for key in way:
            target = target[key]
        if value is None:
            del target[last]
        else:
            target[last] = value

    return change


_POD = "template.spec"
_ETL = f"{_POD}.containers.0"
BREAKS = [
    (there_is_a_job_and_no_bare_pod, _set("Job:kind", "Pod")),
    (resizes_fit_into_the_backoff_limit, _set("backoffLimit", 1)),
    (resizes_fit_into_the_backoff_limit, _set("backoffLimit", 20)),
    (restart_policies_go_together, _set(f"{_POD}.restartPolicy", "Never")),
    (restart_policies_go_together, _set("podFailurePolicy", {"rules": []})),
    (restart_policies_go_together, _set(f"{_POD}.restartPolicy", None)),
    (memory_restarts_and_cpu_does_not, _set(f"{_ETL}.resizePolicy", None)),
    (exit_codes_and_signals_reach_their_end, _set(f"{_ETL}.command", ["etlkit", "doctor"])),
    (exit_codes_and_signals_reach_their_end, _set(f"{_ETL}.lifecycle", {"preStop": {}})),
    (two_pods_never_write, _set("podReplacementPolicy", None)),
    (two_pods_never_write, _set("PersistentVolumeClaim:spec.accessModes", ["ReadWriteOnce"])),
    (the_pod_knows_itself, _set(f"{_ETL}.name", "main")),
    (the_pod_knows_itself, _set(f"{_ETL}.env.0.valueFrom.fieldRef.fieldPath", "metadata.uid")),
    (memory_can_grow, _set(f"{_ETL}.resources.requests.memory", "256Mi")),
    (memory_can_grow, _set(f"{_ETL}.env.3.value", "512Mi")),
    (the_allocator_is_set_before_the_process_starts, _set(f"{_ETL}.env.6", {"name": "X", "value": "y"})),
    (the_account_may_do_what_is_needed_and_no_more, _set("Role:rules.0.verbs", ["get", "list"])),
    (the_account_may_do_what_is_needed_and_no_more, _set("RoleBinding:subjects.0.namespace", "default")),
    (the_account_may_do_what_is_needed_and_no_more, _set(f"{_POD}.serviceAccountName", "default")),
    (the_token_is_projected, _set(f"{_POD}.automountServiceAccountToken", None)),
    (the_token_is_projected, _set(f"{_POD}.volumes.2.projected.sources.0", {"secret": {"name": "x"}})),
    (it_is_restricted, _set(f"{_POD}.securityContext.runAsNonRoot", None)),
    (it_is_restricted, _set(f"{_ETL}.securityContext.capabilities", None)),
    (the_state_outlives_the_pod, _set(f"{_POD}.volumes.0", {"name": "data", "emptyDir": {}})),
    (the_state_outlives_the_pod, _set(f"{_POD}.volumes.1.emptyDir.medium", "Memory")),
]


@pytest.mark.parametrize(("rule", "change"), BREAKS)
def test_each_rule_catches_what_it_is_for(rule, change):
    docs = load(REPOSITORY / "manifests" / "etlkit-job.yaml")
    change(docs)
    assert list(rule(docs))


# ── what `etlkit manifest` prints ───────────────────────────────────────────────────────────────────────────────────

JOB = str(REPOSITORY / "jobs" / "part_revenue.py")


def printed(**options: Any) -> str:
    parser = argparse.ArgumentParser()
    manifest.add_arguments(parser)
    known = vars(parser.parse_args(["jobs/part_revenue.py", "--image", "jobs:1"]))
    return manifest.text({**known, **options}, "part_revenue")


def test_the_one_that_ships_is_what_its_first_lines_say_prints_it(etlkit_command):
    shipped = (REPOSITORY / "manifests" / "etlkit-job.yaml").read_text()
    call = re.search(r"^#   etlkit (.*) > job.yaml$", shipped, re.M)
    done = etlkit_command(*shlex.split(call[1]), cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shipped


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory": "96Mi", "max_memory": "1e9", "cpu": "1", "backoff_limit": 40, "grace": "2m", "storage": "1Ti"},
        {"resize_policy": "NotRequired", "backoff_limit": 0, "cpu": "500m"},
        {"name": "on", "namespace": "123", "set": ["a=1", "b=x y: #z", "c='\"\\n"]},
    ],
    ids=["defaults", "other sizes", "live", "odd names"],
)
def test_what_is_printed_keeps_the_rules(rule, options):
    docs = list(yaml.safe_load_all(printed(**options)))
    assert list(rule(docs)) == []
    assert etl(next(job_specs(docs)))["command"][3:-1] == [f"--set={pair}" for pair in options.get("set", [])]
    if "name" in options:
        assert of_kind(docs, "Job")[0]["metadata"] | {"labels": 0} == {"name": "on", "namespace": "123", "labels": 0}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example(".5")
@example("-5")
@example("1e3")
@example("No")
@example("a: b")
@example("2026-11-24")
@example("0o17")
@example("12:30:45")
def test_any_text_comes_out_of_yaml_as_it_went_in(value):
    assert yaml.safe_load(f"- {manifest._scalar(value)}") == [value]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--memory", "2Gi", "--max-memory", "1Gi"), "less than --memory"),
        (("--memory", "lots"), "not a quantity"),
        (("--backoff-limit", "1"), "no room for a resize"),
        (("--name", "Part_Revenue"), "no name for Kubernetes"),
        (("--set", "max_qyt=3"), "did you mean 'max_qty'"),
    ],
)
def test_a_manifest_that_could_not_work_is_refused(etlkit_command, tmp_path, options, words):
    done = etlkit_command("manifest", JOB, "--image", "jobs:1", *options, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr
    assert done.stdout == ""


def test_every_rule_has_been_seen_to_catch_something():
    assert {rule for rule, _ in BREAKS} == set(RULES)
