"""What ``etlkit manifest`` prints: each shape and kind against the schemas, our rules and the local node; and what it refuses."""

from __future__ import annotations

import copy
import re
import shlex
from dataclasses import replace

import pytest
import yaml

from etlkit.errors import ConfigError
from etlkit.manifest.lint import lint
from etlkit.manifest.objects import as_data, render
from etlkit.manifest.order import Kind, Order, Shape, check, refusals
from etlkit.manifest.patch import patch_workload
from etlkit.manifest.sizes import Forecast, Learned, choose
from etlkit.manifest.workload import workloads
from etlkit.manifest.yaml import documents
from etlkit.node import job as node_job
from etlkit.node import spec as node_spec
from etlkit.node.indexed import evaluate_indexed
from etlkit.settings import load as load_settings
from etlkit.units import GIB, MIB
from tests.conftest import REPOSITORY
from tests.unit.schemas import fits

JOB = "jobs/part_revenue.py"
ORDER = Order(
    "part-revenue",
    "etlkit-jobs:0.1.0",
    JOB,
    parameters=("src=/data/in",),
    events=True,
    egress=("10.0.0.1/32:6443", "[fd00::]/8"),
)
ORDERS = [
    replace(ORDER, kind=kind, shape=shape)
    for kind in Kind
    for shape in Shape
    if (kind, shape) != (Kind.POD, Shape.RESTART)
]
ORDERS += [replace(ORDER, shape=shape, shards=4, rounds=rounds) for shape in Shape for rounds in (1, 3)]


def _id(order: Order) -> str:
    return f"{order.kind}-{order.shape}" + (f"-{order.shards}-in-{order.rounds}" if order.shards else "")


each_order = pytest.mark.parametrize("order", ORDERS, ids=_id)


@each_order
def test_every_shape_fits_the_schemas_strictly(order):
    # restartPolicyRules came with 1.34, behind a gate.
    fits(as_data(order), 34 if order.shape is Shape.RULES else 33)


@each_order
def test_every_shape_keeps_our_own_rules(order):
    assert lint(as_data(order)) == []
    assert len(list(workloads(as_data(order)))) == order.rounds


@each_order
def test_what_is_printed_is_what_is_applied(order):
    assert list(yaml.safe_load_all(documents(render(order)))) == as_data(order)


@each_order
def test_the_local_node_would_take_pod_and_job(order):
    w = next(workloads(as_data(order)))
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "etl"}, "spec": w.pod}
    pod = node_spec.create(copy.deepcopy(manifest), node_name="node", address="127.0.0.1")
    assert node_spec.qos_class(pod["spec"]) == "Burstable"
    if w.is_job:
        rules = tuple((w.spec.get("podFailurePolicy") or {}).get("rules") or ())
        node_job.check(node_job.JobSpec(w.restart_policy, w.backoff_limit, rules), w.name)


@each_order
def test_a_job_survives_as_many_resizes_and_crashes_as_were_asked_for(order):
    """F8, by the arithmetic that was recorded from a cluster."""
    if order.kind is Kind.POD:
        return
    if order.shards is not None:
        return _each_index_survives_them(order)
    w = next(workloads(as_data(replace(order, resizes=5, crashes=2))))
    rules = tuple((w.spec.get("podFailurePolicy") or {}).get("rules") or ())
    job = node_job.JobSpec(w.restart_policy, w.backoff_limit, rules)

    def alive(restarts: int, failed: int) -> bool:
        pods = [node_job.PodFacts(f"f{n}", "Failed", exit_codes=(("etl", 137),)) for n in range(failed)]
        pods.append(node_job.PodFacts("p", "Running", restarts=restarts))
        return node_job.evaluate(job, pods).condition == ""

    if order.shape is Shape.RESTART:
        assert alive(restarts=7, failed=0) and not alive(restarts=8, failed=0)
    else:
        assert alive(restarts=0, failed=2) and not alive(restarts=0, failed=3)
        drained = node_job.PodFacts("d", "Failed", exit_codes=(("etl", 75),))
        evicted = node_job.PodFacts("e", "Failed", exit_codes=(("etl", 137),), conditions=("DisruptionTarget",))
        assert node_job.evaluate(job, [drained] * 9 + [evicted] * 9).condition == ""
        hopeless = node_job.PodFacts("h", "Failed", exit_codes=(("etl", 65),))
        assert node_job.evaluate(job, [hopeless]).reason == "PodFailurePolicy"


def _each_index_survives_them(order: Order) -> None:
    w = next(workloads(as_data(replace(order, resizes=5, crashes=2))))
    rules = tuple((w.spec.get("podFailurePolicy") or {}).get("rules") or ())
    own = w.spec.get("backoffLimitPerIndex")
    limit = None if own is not None else w.backoff_limit
    job = node_job.JobSpec(w.restart_policy, limit, rules, completions=4, parallelism=4, backoff_limit_per_index=own)

    def alive(restarts: int, failed: int) -> bool:
        pods = [
            node_job.PodFacts(f"f{n}-{i}", "Failed", exit_codes=(("etl", 137),), index=i)
            for n in range(failed)
            for i in range(4)
        ]
        pods += [node_job.PodFacts(f"p{i}", "Running", restarts=restarts, index=i) for i in range(4)]
        return evaluate_indexed(job, pods).condition == ""

    if order.shape is Shape.RESTART:
        assert alive(restarts=7, failed=0) and not alive(restarts=8, failed=0)
    else:
        assert alive(restarts=0, failed=2) and not alive(restarts=0, failed=3)


def test_the_rules_shape_starts_75_again_and_nothing_else():
    container = next(workloads(as_data(replace(ORDER, shape=Shape.RULES)))).container
    assert node_job.restart("Never", dict(container), 75) == node_job.RestartDecision(True, by_rule=True)
    for code in (0, 1, 2, 65, 73, 77, 78, 137):
        assert not node_job.restart("Never", dict(container), code).again


def test_identity_and_settings_are_there():
    order = replace(
        ORDER, memory_bytes=128 * MIB, max_memory_bytes=GIB, grace_s=45, settings={"checkpoint_every": "5s"}
    )
    docs = as_data(order)
    w = next(workloads(docs))
    assert w.env("ETLKIT_CONTAINER_NAME") == w.container["name"] == "etl"
    assert w.env("ETLKIT_MAX_MEMORY") == w.annotations["etlkit.dev/memory-max"] == "1Gi"
    assert w.env("ETLKIT_BACKOFF_LIMIT") == "12"
    assert w.pod["terminationGracePeriodSeconds"] == 45
    config = next(doc for doc in docs if doc["kind"] == "ConfigMap")
    volume = next(v for v in w.pod["volumes"] if v["name"] == "config")
    assert volume["configMap"]["name"] == config["metadata"]["name"]


def test_a_fan_out_is_an_indexed_job_a_round_and_only_the_first_may_start():
    found = list(workloads(as_data(replace(ORDER, shape=Shape.RULES, shards=4, rounds=3))))
    assert [w.name for w in found] == ["part-revenue-r0", "part-revenue-r1", "part-revenue-r2"]
    assert [w.spec.get("suspend", False) for w in found] == [False, True, True]
    for number, w in enumerate(found):
        assert w.indexed and w.spec["completions"] == w.spec["parallelism"] == w.shards == 4
        assert f"--round={number}" in w.command
        assert w.state == "/data/state/part-revenue", "the run's; each index makes its own folder below it"
        assert "backoffLimit" not in w.spec and w.spec["backoffLimitPerIndex"] == 3
    claim = next(doc for doc in as_data(replace(ORDER, shards=4)) if doc["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    # Restarts of all indexes are added up (F8), and each pod is told the Job's number.
    w = next(workloads(as_data(replace(ORDER, shape=Shape.RESTART, shards=4, resizes=8, crashes=3))))
    assert w.spec["backoffLimit"] == 4 * 11 + 1 and w.env("ETLKIT_BACKOFF_LIMIT") == "12"
    assert "--round" not in " ".join(w.command), "there is one round"


def test_the_rounds_are_the_jobs_own(etlkit_command):
    sizes = ("--memory", "256Mi", "--max-memory", "1Gi", "--set", "src=/data/in", "--set", "out=/data/out")
    for job, rounds in (("jobs/clean_lineitem.py", 1), (JOB, 2)):
        done = etlkit_command("manifest", job, "--image", "i:1", *sizes, "--shards", "3", cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
        assert len(list(workloads(list(yaml.safe_load_all(done.stdout))))) == rounds


def test_the_config_map_is_a_file_that_etlkit_reads(tmp_path):
    order = replace(ORDER, grace_s=45, settings={"checkpoint_every": "5s"})
    config = next(doc for doc in as_data(order) if doc["kind"] == "ConfigMap")
    (tmp_path / "etlkit.toml").write_text(config["data"]["etlkit.toml"])
    settings = load_settings({}, {"ETLKIT_CONFIG": str(tmp_path / "etlkit.toml")}, tmp_path)
    assert settings.checkpoint_every_s == 5.0
    assert settings.lock_wait_s == 75.0


def test_an_existing_claim_is_used_and_none_is_made():
    docs = as_data(replace(ORDER, claim="shared"))
    assert not [doc for doc in docs if doc["kind"] == "PersistentVolumeClaim"]
    assert next(workloads(docs)).pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "shared"


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"kind": Kind.POD}, "F9"),
        ({"kind": Kind.POD}, "F29"),
        ({"shape": Shape.RULES, "minor": 34}, "F10"),
        ({"minor": 32}, "1.33"),
        ({"resizes": 0}, "F8"),
        ({"memory_bytes": 64 * MIB}, "pyarrow"),
        ({"max_memory_bytes": 256 * MIB}, "nothing to ask for"),
        ({"grace_s": 5}, "F3"),
        ({"name": "Part_Revenue"}, "lower-case"),
        ({"name": "x" * 53}, "52"),
        ({"namespace": "a.b"}, "DNS"),
        ({"crashes": -1}, "count"),
        ({"cpu_millis": 0}, "requested"),
        ({"shards": 0}, "count of pods"),
        ({"kind": Kind.POD, "shape": Shape.RULES, "shards": 4}, "Indexed"),
        ({"kind": Kind.CRONJOB, "shards": 4, "rounds": 2}, "2 rounds"),
        *(
            ({"kind": Kind.CRONJOB, "schedule": text}, "five fields")
            for text in ("x", "* * * *", "@often", "0 3 * * $")
        ),
        *(
            ({"egress": (text,)}, "host names")
            for text in ("db", "10.0.0.0/33", "10.0.0.1:0", "10.0.0.1/16", "fd00::1", "")
        ),
    ],
)
def test_what_can_not_work_is_refused_with_its_reason(change, fact):
    order = replace(ORDER, **change)
    with pytest.raises(ConfigError) as raised:
        check(order)
    assert fact in raised.value.message
    assert raised.value.remedy


def test_what_can_work_is_not_refused():
    assert [list(refusals(order)) for order in ORDERS] == [[]] * len(ORDERS)


def test_what_the_network_policy_lets_out_is_dns_and_what_was_given():
    assert not [doc for doc in as_data(replace(ORDER, egress=())) if doc["kind"] == "NetworkPolicy"]
    policy = next(doc for doc in as_data(ORDER) if doc["kind"] == "NetworkPolicy")["spec"]
    assert (
        policy["podSelector"]["matchLabels"].items()
        <= as_data(ORDER)[-1]["spec"]["template"]["metadata"]["labels"].items()
    )
    assert policy["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in policy
    assert [rule["ports"][0]["port"] for rule in policy["egress"][:1]] == [53]
    assert policy["egress"][1:] == [
        {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"protocol": "TCP", "port": 6443}]},
        {"to": [{"ipBlock": {"cidr": "fd00::/8"}}]},
    ]


# ── sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sizes_given_beat_sizes_learned_beat_the_plan():
    forecast, learned = Forecast(900 * MIB, 100 * MIB), Learned(400 * MIB, 6.0)
    given = choose(memory_bytes=GIB, max_memory_bytes=2 * GIB, grace_s=33, forecast=forecast, learned=learned)
    assert (given.memory_bytes, given.max_memory_bytes, given.grace_s) == (GIB, 2 * GIB, 33)
    known = choose(forecast=forecast, learned=learned)
    assert 400 * MIB < known.memory_bytes < 600 * MIB and known.grace_s == 48
    assert "Learned" in known.why["memory"] and known.why["grace"]
    planned = choose(forecast=forecast)
    assert planned.memory_bytes == 192 * MIB and planned.grace_s == 60
    assert planned.max_memory_bytes >= 900 * MIB * 1.15 and planned.max_memory_bytes % (256 * MIB) == 0
    guess = choose()
    assert (guess.memory_bytes, guess.max_memory_bytes) == (512 * MIB, 4 * GIB) and "guess" in guess.why["memory"]


def test_a_job_that_can_not_fit_under_its_cap_is_refused():
    with pytest.raises(ConfigError, match="needs at least 2 GiB"):
        choose(max_memory_bytes=GIB, forecast=Forecast(8 * GIB, 2 * GIB))


def test_the_first_size_is_never_over_the_cap():
    assert choose(max_memory_bytes=300 * MIB, learned=Learned(900 * MIB)).memory_bytes == 300 * MIB
    assert choose(learned=Learned(20 * MIB)).memory_bytes == 192 * MIB, "with less it could not even start"
    assert choose(max_memory_bytes=300 * MIB).memory_bytes == 300 * MIB


@pytest.mark.parametrize(("slowest_s", "grace_s"), [(0.01, 30), (5.0, 40), (1000.0, 600)])
def test_the_grace_follows_the_slowest_checkpoint(slowest_s, grace_s):
    assert choose(learned=Learned(None, slowest_s)).grace_s == grace_s


# ── the pod patch ───────────────────────────────────────────────────────────────────────────────────────────────────

PATCH = {
    "spec": {
        "nodeSelector": {"disk": "ssd"},
        "containers": [{"name": "etl", "env": [{"name": "X", "value": "1"}, {"name": "ETLKIT_STATE", "value": "/s"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": None, "hostPath": {"path": "/srv"}}],
        "enableServiceLinks": None,
    }
}


@pytest.mark.parametrize("kind", list(Kind))
def test_a_pod_patch_reaches_the_pod_of_every_kind(kind):
    order = replace(ORDER, kind=kind, shape=Shape.LIVE)
    before = as_data(order)[-1]
    after = patch_workload(before, PATCH)
    w = next(workloads([after]))
    assert w.pod["nodeSelector"] == {"disk": "ssd"} and "enableServiceLinks" not in w.pod
    assert w.env("X") == "1" and w.env("ETLKIT_STATE") == "/s" and w.env("ETLKIT_CONTAINER_NAME") == "etl"
    assert w.pod["volumes"][0] == {"name": "data", "hostPath": {"path": "/srv"}}
    assert len(w.pod["containers"]) == 1 and before == as_data(order)[-1]


def test_the_patch_that_stands_in_for_an_image_keeps_the_rules_and_fits():
    patch = yaml.safe_load((REPOSITORY / "tests" / "e2e" / "cluster" / "pod-patch.yaml").read_text())
    docs = as_data(replace(ORDER, shape=Shape.LIVE))
    seed = {"spec": {"initContainers": [{"name": "seed", "command": ["python"]}]}}
    docs[-1] = patch_workload(patch_workload(docs[-1], seed), patch)
    fits(docs)
    assert lint(docs) == []
    container = docs[-1]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "debian:12-slim" and len(container["volumeMounts"]) == 5 and len(container["env"]) > 6


def test_a_pod_patch_of_something_else_is_refused():
    with pytest.raises(ConfigError, match="template"):
        patch_workload(as_data(ORDER)[-1], {"template": {}})


# ── the verb ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_one_that_ships_is_what_its_first_lines_say_prints_it(etlkit_command):
    for path, call in (
        ("manifests/base/job.yaml", None),
        ("manifests/overlays/cronjob/cronjob.yaml", None),
        ("manifests/overlays/indexed/indexed.yaml", None),
        ("manifests/platform.yaml", "manifest --platform"),
    ):
        shipped = (REPOSITORY / path).read_text()
        words = call or re.search(r"^#   etlkit (.*) > THIS_FILE$", shipped, re.M)[1]
        done = etlkit_command(*shlex.split(words), cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
        assert done.stdout == shipped


def test_the_verb_plans_the_job_and_says_where_sizes_come_from(etlkit_command, lineitem):
    done = etlkit_command(
        "manifest", JOB, "--image", "i:1", "--set", f"src={lineitem}", "--set", "out=/data/o", cwd=REPOSITORY
    )
    assert done.returncode == 0 and done.stderr == ""
    assert "From the plan" in done.stdout
    w = next(workloads(list(yaml.safe_load_all(done.stdout))))
    assert w.size("limits", "memory") == 192 * MIB


def test_an_output_that_would_not_be_kept_is_told(etlkit_command):
    # Not below /data, and not here: `make demo` makes data/tpch in this folder.
    done = etlkit_command("manifest", JOB, "--image", "i:1", "--set", "src=nowhere", cwd=REPOSITORY)
    assert done.returncode == 0
    assert "'out/part_revenue' is not below /data" in done.stderr and "guess" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "TARGET is missing"),
        ((JOB,), 2, "--image is missing"),
        ((JOB, "--image", "i:1", "--kind", "pod", "--shape", "restart"), 78, "F9"),
        ((JOB, "--image", "i:1", "--memory", "lots"), 2, "not a quantity"),
        ((JOB, "--image", "i:1", "--set", "max_qyt=3"), 2, "max_qty"),
        ((JOB, "--image", "i:1", "--kubernetes", "2"), 2, "no version"),
        ((JOB, "--image", "i:1", "--pod-patch", "nowhere.yaml"), 2, "can't be read"),
    ],
)
def test_the_verb_refuses_with_the_codes_of_the_contract(etlkit_command, words, code, said):
    done = etlkit_command("manifest", *words, cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_patch_that_breaks_a_rule_is_refused(etlkit_command, tmp_path):
    patch = tmp_path / "patch.yaml"
    patch.write_text("spec:\n  volumes:\n  - {name: data, persistentVolumeClaim: null, emptyDir: {}}\n")
    done = etlkit_command("manifest", JOB, "--image", "i:1", "--pod-patch", patch, cwd=REPOSITORY)
    assert done.returncode == 78 and "is on an emptyDir" in done.stderr and done.stdout == ""
