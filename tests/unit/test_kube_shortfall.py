"""What a refusal says could be had, out of a real API server's words."""

from __future__ import annotations

import pytest

from etlkit.kube.shortfall import most_bytes, shortfall_bytes
from etlkit.units import GIB, MIB


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (
            'pods "running" is forbidden: node didn\'t have enough allocatable resources: memory, requested: 966367641600,'
            " allocatable: 25171656704",
            966367641600 - 25171656704,
        ),
        ("Node didn't have enough capacity: memory, requested: 3000, capacity: 2000", 1000),
        ('pods "running" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi', GIB),
        (
            "[maximum memory usage per Container is 1Gi, but limit is 2Gi, maximum memory usage per Pod is 2560Mi, but"
            " limit is 4294967296]",
            4 * GIB - 2560 * MIB,
        ),
        (
            'pods "running" is forbidden: exceeded quota: q, requested: limits.memory=11136Mi, used: limits.memory=17184Mi,'
            " limited: limits.memory=12Gi",
            (11136 + 17184 - 12 * 1024) * MIB,
        ),
        (
            "exceeded quota: q, requested: limits.memory=100Mi,requests.memory=100Mi, used: limits.memory=950Mi,"
            "requests.memory=100Mi, limited: limits.memory=1Gi,requests.memory=1Gi",
            26 * MIB,
        ),
        (
            "the namespace's ResourceQuota has no room for this size (403: exceeded quota: q, requested: limits.memory=160Mi,"
            " used: limits.memory=96Mi, limited: limits.memory=160Mi)",
            96 * MIB,
        ),
        ("maximum cpu usage per Container is 1, but limit is 2", None),
        ("denied request: no more than 1Gi in this namespace", None),
        ("requested: limits.memory=what, used: limits.memory=1Gi, limited: limits.memory=1Gi", None),
        ("", None),
    ],
)
def test_the_number_in_a_refusal(message: str, short: int | None) -> None:
    assert shortfall_bytes(message) == short


def test_what_could_be_had_is_a_size_or_nothing() -> None:
    words = "memory, requested: 3221225472, allocatable: 1073741824"
    assert most_bytes(2560 * MIB, words) == 512 * MIB, "the pod's other containers take 512 MiB"
    assert most_bytes(GIB, words) is None, "nothing is left for this container"
    assert most_bytes(GIB, "no") is None
