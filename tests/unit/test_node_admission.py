"""Quantities, QoS classes and admission of a resize, without a server. The recorded words are in tests/conformance."""

from __future__ import annotations

from fractions import Fraction

import pytest

from etlkit.node import quantity, spec
from etlkit.node.admission import LimitRange, Quota, Rules, User, go_print, only_itself, resize
from etlkit.node.answers import ApiError, Json
from etlkit.units import GIB

ADMIN = User("kubernetes-admin")


def pod(memory: str = "128Mi", cpu: str | None = "100m", **options: object) -> Json:
    manifest = spec.pod_manifest("p", ["true"], memory=memory, cpu=cpu, **options)  # type: ignore[arg-type]
    return spec.create(manifest, node_name="node1", address="127.0.0.1")


def asked(values: Json) -> Json:
    return {"spec": {"containers": [{"name": "etl", "resources": values}]}}


def admitted(old: Json, values: Json, rules: Rules | None = None, user: User = ADMIN) -> Json:
    new = resize(old, asked(values), rules=rules or Rules(), user=user, allocatable_bytes=4 * GIB, neighbours=[old])
    found: Json = new["spec"]["containers"][0]["resources"]
    return found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1024Mi", "1Gi"),
        ("0.5Gi", "512Mi"),
        ("1536Mi", "1536Mi"),
        ("134217728", "134217728"),
        ("1000M", "1G"),
        ("1e3", "1k"),
        ("0.5", "500m"),
        ("2000m", "2"),
        ("1500m", "1500m"),
        ("0", "0"),
        ("512", "512"),
        ("1.5Ki", "1536"),
    ],
)
def test_quantities_are_shown_in_canonical_form(text: str, shown: str) -> None:
    assert quantity.canonical(text) == shown
    assert quantity.parse(shown)[0] == quantity.parse(text)[0]


@pytest.mark.parametrize("text", ["", "abc", "1Xi", "Mi", "1 Mi", "--1"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(quantity.QuantityError):
        quantity.canonical(text)


def test_sums_keep_the_first_ones_format() -> None:
    assert quantity.total(["128Mi", "64Mi"]) == "192Mi"
    assert quantity.total(["100m", "100m"]) == "200m"
    assert quantity.total(["67108864", "64Mi"]) == "134217728"
    assert quantity.parse("1k")[0] == Fraction(1000)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"memory": "1Gi", "cpu": "1"}, "Guaranteed"),
        ({"memory": "1Gi", "cpu": None}, "Burstable"),
        ({"memory": "1Gi", "cpu": "1", "request_memory": "512Mi"}, "Burstable"),
        ({"memory": "1Gi", "cpu": "1", "request_memory": "1024Mi"}, "Guaranteed"),
    ],
)
def test_qos_class(options: Json, expected: str) -> None:
    assert pod(**options)["status"]["qosClass"] == expected


def test_a_sidecar_without_limits_makes_a_pod_burstable() -> None:
    sidecar: Json = {"name": "s", "image": "s", "restartPolicy": "Always"}
    assert pod(sidecars=[sidecar])["status"]["qosClass"] == "Burstable"


def test_an_ordinary_init_container_is_refused() -> None:
    with pytest.raises(ApiError, match="sidecars only"):
        pod(sidecars=[{"name": "s", "image": "s"}])


def test_only_what_is_named_moves() -> None:
    old = pod(cpu=None)
    assert admitted(old, {"limits": {"memory": "1024Mi"}}) == {
        "limits": {"memory": "1Gi"},
        "requests": {"memory": "128Mi"},
    }
    assert old["spec"]["containers"][0]["resources"]["limits"]["memory"] == "128Mi"


def test_other_fields_of_the_container_are_left_alone() -> None:
    body: Json = {
        "spec": {"containers": [{"name": "etl", "image": "evil", "resources": {"limits": {"memory": "1Gi"}}}]}
    }
    new = resize(pod(cpu=None), body, rules=Rules(), user=ADMIN, allocatable_bytes=4 * GIB)
    assert new["spec"]["containers"][0]["image"] == "etlkit"


def test_a_sidecar_is_found_among_the_init_containers() -> None:
    old = pod(sidecars=[spec.sidecar_manifest("s", ["true"], memory="32Mi")])
    body: Json = {"spec": {"initContainers": [{"name": "s", "resources": {"limits": {"memory": "64Mi"}}}]}}
    new = resize(old, body, rules=Rules(), user=ADMIN, allocatable_bytes=4 * GIB)
    assert new["spec"]["initContainers"][0]["resources"]["limits"]["memory"] == "64Mi"


def test_a_pod_that_is_too_large_already_may_shrink() -> None:
    old = pod(memory="8Gi")
    both = {"memory": "6Gi"}
    assert admitted(old, {"limits": both, "requests": both})["limits"]["memory"] == "6Gi"


@pytest.mark.parametrize(
    ("rules", "memory", "words"),
    [
        (
            Rules(limit_range=LimitRange(minimum={"memory": "64Mi"})),
            "32Mi",
            "minimum memory usage per Container is 64Mi",
        ),
        (Rules(limit_range=LimitRange(maximum={"memory": "1Gi"})), "2Gi", "but limit is 2Gi"),
        (Rules(quotas=[Quota("q", {"requests.memory": "256Mi"})]), "512Mi", "requested: requests.memory=384Mi"),
        (Rules(policies=[only_itself("256Mi")]), "512Mi", "over the cap of 256Mi"),
    ],
)
def test_rules_refuse_in_words(rules: Rules, memory: str, words: str) -> None:
    both = {"memory": memory}
    with pytest.raises(ApiError, match=words):
        admitted(pod(), {"limits": both, "requests": both}, rules)


def test_a_quota_does_not_refuse_a_shrink() -> None:
    both = {"memory": "64Mi"}
    admitted(pod(), {"limits": both, "requests": both}, Rules(quotas=[Quota("q", {"limits.memory": "1Mi"})]))


def test_a_policy_knows_the_pod_by_its_uid() -> None:
    old, both = pod(), {"memory": "192Mi"}
    rules = Rules(policies=[only_itself()])
    me = User("system:serviceaccount:etl:etlkit", pod_uid=old["metadata"]["uid"], pod_name="p")
    admitted(old, {"limits": both, "requests": both}, rules, me)
    stranger = User("system:serviceaccount:etl:etlkit", pod_uid="another", pod_name="p")
    with pytest.raises(ApiError, match="only itself"):
        admitted(old, {"limits": both, "requests": both}, rules, stranger)


def test_validation_comes_before_the_rules() -> None:
    with pytest.raises(ApiError) as refused:
        admitted(pod(), {"limits": {"memory": "2Gi"}}, Rules(limit_range=LimitRange(maximum={"memory": "1Gi"})))
    assert refused.value.code == 422


def test_values_are_printed_as_go_does() -> None:
    assert go_print({"b": [1, {"c": None}], "a": True}) == "map[a:true b:[1 map[c:<nil>]]]"
