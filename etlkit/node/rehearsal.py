"""``etlkit local --rehearse WHAT``: a cluster's bad days and rules by name, so that a job can be seen to bear them.

Covers what each name sets on a node (faults of the API server and the kubelet, rules of a namespace, other pods) and the words that
explain it. What then happens is the node's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..units import parse_bytes, parse_seconds, quantity_bytes
from .admission import LimitRange, Quota, only_itself

if TYPE_CHECKING:
    from .node import Node

NEIGHBOUR = "neighbour"


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """``value``: what may follow the name. None: nothing; in brackets: may be left out."""

    value: str | None
    words: str
    set_on: Callable[[Node, str, int], None]


def _times(text: str) -> int:
    if text and not text.isdigit():
        raise UsageError(f"'{text}' is no number of times", "write a whole number, such as 3")
    return int(text or 1)


def _answers(code: int) -> Rehearsal:
    def set_on(node: Node, value: str, memory_bytes: int) -> None:
        node.faults.answer(code, times=_times(value))

    return Rehearsal("[N]", f"the next N resizes (1) are answered with {code}", set_on)


def _full(node: Node, value: str, memory_bytes: int) -> None:
    others = node.capacity_bytes - memory_bytes
    if others <= 0 or not node.add_pod(NEIGHBOUR, quantity_bytes(others)):
        return
    if value:
        timer = threading.Timer(parse_seconds(value), lambda: None if node.closed else node.remove_pod(NEIGHBOUR))
        timer.daemon = True
        timer.start()


def _limit_range(node: Node, value: str, memory_bytes: int) -> None:
    node.rules.limit_range = LimitRange(maximum={"memory": quantity_bytes(parse_bytes(value))})


def _quota(node: Node, value: str, memory_bytes: int) -> None:
    node.rules.quotas.append(Quota("rehearsed", {"limits.memory": quantity_bytes(parse_bytes(value))}))


def _lag(node: Node, value: str, memory_bytes: int) -> None:
    node.faults.status_lag_s = parse_seconds(value)


def _flip_back(node: Node, value: str, memory_bytes: int) -> None:
    node.faults.flip_back = True


def _stale_limit(node: Node, value: str, memory_bytes: int) -> None:
    node.faults.stale_pod_limit = True


def _no_permission(node: Node, value: str, memory_bytes: int) -> None:
    node.rules.denied.add(("patch", "pods/resize"))


def _before_1_36(node: Node, value: str, memory_bytes: int) -> None:
    node.rules.capacity_at_admission = False


REHEARSALS: dict[str, Rehearsal] = {
    "full": Rehearsal("[T]", "other pods fill the node, for T (for good): resizes are Deferred", _full),
    "limit-range": Rehearsal("SIZE", "a LimitRange allows a container no more", _limit_range),
    "quota": Rehearsal("SIZE", "a ResourceQuota allows the namespace no more", _quota),
    "policy": Rehearsal(
        "SIZE",
        "an admission policy refuses more",
        lambda node, value, memory_bytes: node.rules.policies.append(only_itself(quantity_bytes(parse_bytes(value)))),
    ),
    "no-permission": Rehearsal(None, "the service account may not resize (403)", _no_permission),
    "infeasible": Rehearsal(None, "Kubernetes before 1.36: too large is taken, then Infeasible", _before_1_36),
    "401": _answers(401),
    "409": _answers(409),
    "429": _answers(429),
    "500": _answers(500),
    "late": Rehearsal(
        "T", "the next resize is answered after T", lambda node, value, _: node.faults.late(parse_seconds(value))
    ),
    "never": Rehearsal(
        "[N]", "the next N resizes are never answered", lambda node, value, _: node.faults.never(times=_times(value))
    ),
    "drop": Rehearsal(
        "[N]",
        "the connection of the next N resizes breaks once they are taken",
        lambda node, value, _: node.faults.drop(times=_times(value), after=True),
    ),
    "lag": Rehearsal("T", "the pod's status follows T late", _lag),
    "flip-back": Rehearsal(None, "the status shows the old size once more after a resize", _flip_back),
    "stale-limit": Rehearsal(None, "an exit between PATCH and grant meets the pod's old limit (F15)", _stale_limit),
}


def explain() -> str:
    """For ``--help``."""
    lines = []
    for name, one in REHEARSALS.items():
        value = "" if one.value is None else f"[={one.value[1:-1]}]" if one.value.startswith("[") else f"={one.value}"
        lines.append(f"  {name + value:<18} {one.words}")
    return "\n".join(["what --rehearse knows, and may be given more than once:", *lines])


def read(texts: Sequence[str]) -> list[tuple[Rehearsal, str]]:
    """The names and values; UsageError for what is not known, lacks its value or has one too many."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        one = REHEARSALS.get(name)
        if one is None:
            raise UsageError(f"--rehearse {text}: there is no '{name}'", f"one of {', '.join(REHEARSALS)}")
        if equals and one.value is None:
            raise UsageError(f"--rehearse {text}: '{name}' takes no value", f"write --rehearse {name}")
        if not value and one.value is not None and not one.value.startswith("["):
            raise UsageError(f"--rehearse {text}: a value is missing", f"write --rehearse {name}={one.value}")
        if value and one.value in ("T", "[T]"):
            parse_seconds(value)
        elif value and one.value == "SIZE":
            parse_bytes(value)
        elif value:
            _times(value)
        found.append((one, value))
    return found


def set_on(node: Node, asked: Sequence[tuple[Rehearsal, str]], memory_bytes: int) -> None:
    """``memory_bytes``: the pod's own size, which stays free beside its neighbours."""
    for one, value in asked:
        one.set_on(node, value, memory_bytes)
