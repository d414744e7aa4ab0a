"""What a manifest is made for: one frozen ``Order``, and the combinations that are refused.

Covers what can be known before anything is rendered: options that a cluster would refuse, or that would lose work. Each refusal has
its reason. What a finished manifest says is judged by the rules of ``lint.py``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import ConfigError
from ..units import format_bytes

SUPPORTED, POSSIBLE = 35, 33
"""Minor versions of Kubernetes: tested from the first on, resize exists from the second on."""
CONTAINER = "etl"
DATA = "/data"
"""Where the volume is mounted: state, and whatever the job reads and writes there."""
MOST_SHARDS = 1000
LEAST_MEMORY_BYTES = 96 << 20
"""Python, pyarrow and etlkit take about 90 MiB before the first batch."""
_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,?-]+")
_EGRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[0-9.]+))(?P<bits>/\d+)?(?::(?P<port>\d+))?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class Kind(StrEnum):
    JOB = "job"
    CRONJOB = "cronjob"
    POD = "pod"


class Shape(StrEnum):
    RESTART = "restart"
    """OnFailure and RestartContainer: a resize is SIGTERM, a checkpoint, a new process."""
    LIVE = "live"
    """Never and NotRequired: the limit changes in the running container, and no container is restarted."""
    RULES = "rules"
    """As live, but exit 75 starts the container again in place."""


@dataclass(frozen=True, slots=True)
class Order:
    name: str
    image: str
    target: str
    namespace: str = "etl"
    kind: Kind = Kind.JOB
    shape: Shape = Shape.RESTART
    parameters: tuple[str, ...] = ()
    """``k=v``, as ``--set`` takes them."""
    memory_bytes: int = 512 << 20
    max_memory_bytes: int = 4 << 30
    cpu_millis: int = 2000
    """The limit. The request is half of it, so that the pod is Burstable (F16, F26)."""
    resizes: int = 8
    """How many resizes with a restart the Job must survive (F8)."""
    crashes: int = 3
    """How many other restarts or failed pods it must survive."""
    grace_s: int = 60
    storage_bytes: int = 20 << 30
    storage_class: str | None = None
    claim: str | None = None
    """A claim that is there already; None: one is made."""
    schedule: str = "0 3 * * *"
    minor: int = SUPPORTED
    shards: int | None = None
    """Pods that share the work (an Indexed Job a round); None: one pod."""
    rounds: int = 1
    """Of a fan-out: one, and one more for each time that rows must meet (ADR 18)."""
    events: bool = False
    """May the pod create Kubernetes Events about its resizes?"""
    egress: tuple[str, ...] = ()
    """What the pod may reach, as CIDR or CIDR:PORT; with none given there is no NetworkPolicy."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Keys of ``etlkit.toml``."""
    command: str = ""
    """The call that prints the same again."""
    why: Mapping[str, str] = field(default_factory=dict)
    """Where a size came from: ``memory``, ``max_memory``, ``grace``. Printed beside it."""

    @property
    def resize_restarts(self) -> bool:
        return self.shape is Shape.RESTART

    @property
    def shards_or_one(self) -> int:
        return 1 if self.shards is None else self.shards

    @property
    def restart_policy(self) -> str:
        return "OnFailure" if self.resize_restarts else "Never"

    @property
    def backoff_limit(self) -> int:
        """F8. With OnFailure the Job is failed as soon as restarts reach it, so one more than must be survived. With Never only
        failed pods count, and those that ended with 75 or by a drain are ignored. The restarts of all pods of an Indexed Job are
        added up; where an index has a count of its own, this is that."""
        if self.resize_restarts:
            return (self.resizes + self.crashes) * self.shards_or_one + 1
        return self.crashes

    @property
    def backoff_limit_told(self) -> int:
        """What each pod may count on. Of an Indexed Job's limit that is its share, since it can't see the others, unless each
        index has its own."""
        if not self.resize_restarts:
            return self.backoff_limit
        return (self.backoff_limit - 1) // self.shards_or_one + 1

    @property
    def round_name(self) -> str:
        """The name of a round's Job, to be filled in."""
        return f"{self.name}-r{{}}" if self.rounds > 1 else self.name

    @property
    def claim_name(self) -> str:
        return self.claim or f"{self.name}-data"

    @property
    def account(self) -> str:
        return self.name

    @property
    def config_name(self) -> str:
        return f"{self.name}-config"

    @property
    def state(self) -> str:
        return f"{DATA}/state/{self.name}"


@dataclass(frozen=True, slots=True)
class Refusal:
    what: str
    why: str
    remedy: str


def refusals(order: Order) -> Iterator[Refusal]:
    """Everything about the order that can't work, with its reason."""
    if not _NAME.fullmatch(order.name) or len(order.name) > 52:
        why = "a Job's name becomes part of its pods' names and labels: lower-case letters, digits and '-', 52 at most"
        yield Refusal(f"the name '{order.name}'", why, "give another with --name")
    if not _NAME.fullmatch(order.namespace) or len(order.namespace) > 63:
        yield Refusal(f"the namespace '{order.namespace}'", "it is no DNS label", "give another with --namespace")
    if order.kind is Kind.POD and order.shape is Shape.RESTART:
        why = (
            "orchestrators run bare pods with restartPolicy Never, and there the API server refuses RestartContainer "
            "(422, F9); with Always a finished job would run again, for ever (F29)"
        )
        yield Refusal("--kind pod with --shape restart", why, "use --shape rules or --shape live")
    if order.shape is Shape.RULES and order.minor < SUPPORTED:
        why = "restartPolicyRules are off by default before 1.35, and exit 75 would fail the pod (F10)"
        yield Refusal(f"--shape rules on 1.{order.minor}", why, "use --shape restart or --shape live")
    if order.minor < POSSIBLE:
        why = "pods can't be resized in place before 1.33"
        yield Refusal(f"Kubernetes 1.{order.minor}", why, "upgrade the cluster to 1.35 or newer")
    if order.resize_restarts and order.resizes < 1:
        why = "each resize is a restart, and the Job is failed when restarts reach backoffLimit (F8)"
        yield Refusal("--shape restart with --resizes 0", why, "give --resizes 1 or more, or use --shape live")
    if order.kind is Kind.CRONJOB and not _is_schedule(order.schedule):
        why = "the API server takes five fields (minute, hour, day of month, month, day of week), or @daily and the like (422)"
        yield Refusal(f"--schedule '{order.schedule}'", why, "write it as '0 3 * * *'")
    for one in order.egress:
        if address_and_port(one) is None:
            why = "a NetworkPolicy names addresses, and host names are not resolved"
            yield Refusal(f"--egress '{one}'", why, "write it as 10.0.0.1/32:6443, 10.1.0.0/16 or [fd00::1]/128:443")
    if order.shards is not None:
        yield from _fan_out(order)
    yield from _sizes(order)


def _is_schedule(text: str) -> bool:
    """As the CronJob controller's parser has it, names of months and days included. Ranges are left to the server."""
    if text.startswith("@"):
        return text in ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
    fields = text.split()
    return len(fields) == 5 and all(_CRON_FIELD.fullmatch(one) for one in fields)


def address_and_port(text: str) -> tuple[str, int | None] | None:
    """CIDR and port of ``10.0.0.1/32:6443``, ``10.0.0.1``, ``[fd00::]/8:443``; None where it is neither."""
    found = _EGRESS.fullmatch(text)
    if found is None:
        return None
    try:
        network = ipaddress.ip_network((found["six"] or found["four"]) + (found["bits"] or ""))
    except ValueError:
        return None
    port = None if found["port"] is None else int(found["port"])
    return None if port is not None and not 0 < port < 65536 else (str(network), port)


def _fan_out(order: Order) -> Iterator[Refusal]:
    if not 1 <= order.shards_or_one <= MOST_SHARDS:
        yield Refusal(f"--shards {order.shards}", f"it is a count of pods, {MOST_SHARDS} at most", "give 2 or more")
    if order.kind is Kind.POD:
        why = "an index of its own is what an Indexed Job gives to its pods"
        yield Refusal("--shards with --kind pod", why, "use --kind job")
    if order.kind is Kind.CRONJOB and order.rounds > 1:
        why = f"the job needs {order.rounds} rounds, each a Job that waits for the one before, and a CronJob makes one"
        yield Refusal("--shards with --kind cronjob", why, "let a workflow submit it, or leave out --shards")


def _sizes(order: Order) -> Iterator[Refusal]:
    if order.memory_bytes < LEAST_MEMORY_BYTES:
        why = f"Python and pyarrow alone need about {format_bytes(LEAST_MEMORY_BYTES)}"
        yield Refusal(f"--memory {format_bytes(order.memory_bytes)}", why, "start with 192Mi or more")
    if order.max_memory_bytes < order.memory_bytes:
        what = f"--max-memory {format_bytes(order.max_memory_bytes)} with --memory {format_bytes(order.memory_bytes)}"
        yield Refusal(what, "there is nothing to ask for", "raise --max-memory, or lower --memory")
    if order.grace_s < 10:
        why = "the last checkpoint must be written between SIGTERM and SIGKILL (F3)"
        yield Refusal(f"--grace {order.grace_s}s", why, "give 30s or more")
    if order.crashes < 0:
        yield Refusal(f"--crashes {order.crashes}", "it is a count", "give 0 or more")
    if order.cpu_millis < 2:
        yield Refusal("--cpu 0", "half of it is requested, and a request of nothing is none", "give 100m or more")


def check(order: Order) -> None:
    """Errors: ConfigError with all that is wrong."""
    found = list(refusals(order))
    if found:
        text = "; ".join(f"{one.what}: {one.why}" for one in found)
        raise ConfigError(text, "; ".join(dict.fromkeys(one.remedy for one in found)))
