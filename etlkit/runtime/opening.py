"""What a start finds, and what it does about it.

    state            same run            another run
    ─────────────    ────────────────    ──────────────────────────────
    none             begin               begin
    unfinished       resume              refused (78), unless --restart
    failed for good  fails fast again    refused (78), unless --restart
    done             exit 0, untouched   begin

"The same run" is the same run id and fingerprint. Covers identity, recovery of the sinks and the attempt's record; the loop
runs what this opens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..checkpoint import Phase, Snapshot, StateDir, open_store
from ..engine import growth
from ..engine.extent import Extent
from ..engine.planner import lower
from ..engine.splits import probes_of
from ..engine.stages import ExchangeOutput, Plan, ScanInput
from ..errors import ConfigError, EtlkitError, error_for
from ..io.sink import Part
from ..io.source import Growing
from ..lazyclass import dataclass
from ..plan import nodes
from ..plan.fingerprint import changed_files, changed_parameters, differences, digest, fingerprint, run_id
from ..plan.pipeline import Pipeline
from . import learned, notes
from .discarding import discard
from .learned import Learned
from .shard import Shard

MAX_LISTED_FILES = 10_000
"""Up to so many input files are recorded one by one, so that a refusal can name the changed one."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be run, before anything was opened."""

    job: str
    target: str
    parameters: Mapping[str, object]
    pipelines: tuple[Pipeline, ...]
    state: str
    run_id: str | None = None
    restart: bool = False
    lock_wait_s: float = 0.0
    keep: int = 2
    shard: Shard | None = None
    """A share of a fan-out; ``state`` is that share's own."""


@dataclass(slots=True)
class Opened:
    """A run that is ours: its plan, its state, and where it stands. ``snapshot`` is the newest commit."""

    plan: Plan
    state_dir: StateDir
    snapshot: Snapshot
    resumed_from: int | None
    """The checkpoint that this attempt goes on from; None at the beginning."""
    attempts: list[dict[str, Any]]
    learned: Learned
    """What earlier runs and attempts of this job have measured."""
    extent: Extent
    """What of the plan runs here."""
    hand_over: Callable[[], Sequence[Part] | None] | None = None
    """In place of publishing, for a share."""

    @property
    def attempt(self) -> int:
        return len(self.attempts)


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """The same run, done before: nothing was touched."""

    run_id: str
    rows_out: int


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def open_run(request: Request, limit_bytes: int | None, ended: Mapping[str, object] | None) -> Opened | AlreadyDone:
    """Plan the job, open its state and claim it.

    ``ended``: what the cluster says about how the attempt before this one ended (``exit_code``, ``ended_by``).
    Errors: PlanError, InputError, StateBusyError, StateError; ConfigError where another run is unfinished.
    """
    plan = lower(request.pipelines, _watched_before(request))
    inventory = input_files(plan)
    parts = fingerprint(request.job, request.parameters, request.pipelines, inventory)
    identity = request.run_id or run_id(parts)
    if not request.restart and (done := _done_before(request.state, identity)) is not None:
        return done
    store = open_store(request.state)
    state_dir = StateDir.open(store, request.lock_wait_s, keep=request.keep, discard=request.restart)
    try:
        with state_dir.or_fenced():
            if request.restart:
                state_dir.still_ours()
                discard(store, plan.sinks, keep=identity)
            return _take(request, plan, state_dir, identity, parts, inventory, limit_bytes, ended)
    except BaseException:
        state_dir.close()
        raise


def _watched_before(request: Request) -> Mapping[str, Any]:
    """What the state says of watched folders, so that a run that goes on need not wait for their first file."""
    if request.restart or not any(
        isinstance(node, nodes.Watch) for one in request.pipelines for node in nodes.walk(one.node)
    ):
        return {}
    if "://" not in request.state and not Path(request.state).is_dir():
        return {}
    found = StateDir.open(open_store(request.state), read_only=True).snapshot
    return {} if found is None else found.facts


def input_files(plan: Plan) -> list[tuple[str, int, str]]:
    """The input files; of a watched folder only the folder, for its files are not known yet."""
    found: list[tuple[str, int, str]] = []
    for source in plan.sources:
        if isinstance(source, Growing):
            found.append((str(source.describe().get("path", "")), 0, digest(source.describe())))
        else:
            found += [(record.path, record.size_bytes, record.version) for record in source.inventory()]
    return found


def _done_before(state: str, identity: str) -> AlreadyDone | None:
    """The same run, done: told without a lock and without touching a file."""
    if "://" not in state and not Path(state).is_dir():
        return None
    found = StateDir.open(open_store(state), read_only=True).snapshot
    if found is None or found.phase is not Phase.DONE or found.run_id != identity:
        return None
    return AlreadyDone(identity, sum(stage.rows_out for stage in found.stages.values()))


def _take(
    request: Request,
    plan: Plan,
    state_dir: StateDir,
    identity: str,
    parts: dict[str, str],
    inventory: Sequence[tuple[str, int, str]],
    limit_bytes: int | None,
    ended: Mapping[str, object] | None,
) -> Opened:
    found = state_dir.snapshot
    same = found is not None and found.run_id == identity and dict(found.fingerprint) == parts
    if found is not None and not request.restart:
        if found.phase is not Phase.DONE and not same:
            raise refused(request, found, parts, identity, inventory)
        if found.phase is Phase.FAILED:
            raise failed_before(found)
        if found.phase is not Phase.DONE:
            opened = resume(request, plan, state_dir, found, limit_bytes, ended)
            notes.remove(request.state, notes.ASKED)
            return opened
    opened = begin(request, plan, state_dir, identity, parts, inventory, limit_bytes)
    notes.remove(request.state, notes.ASKED)
    return opened


def begin(
    request: Request,
    plan: Plan,
    state_dir: StateDir,
    identity: str,
    parts: dict[str, str],
    inventory: Sequence[tuple[str, int, str]],
    limit_bytes: int | None,
) -> Opened:
    earlier = state_dir.snapshot
    if growing(plan) and earlier is not None and growth.FACT in earlier.facts:
        plan = lower(request.pipelines)  # a new run takes up nothing of the one before
    for sink in plan.sinks:
        state_dir.still_ours()  # preparing removes what lies in staging: after a sleep, that may be a successor's
        sink.prepare(identity, resuming=False)
    attempts = [_attempt(1, limit_bytes, None)]
    before = state_dir.snapshot
    known: Mapping[str, Any] = before.facts.get("learned") or {} if before is not None else {}
    facts: dict[str, Any] = {
        "job": request.job,
        "target": request.target,
        "parameters": {name: str(value) for name, value in request.parameters.items()},
        "plan": planned(plan),
        "sinks": [sink.describe() for sink in plan.sinks],
        "inventory": [list(one) for one in inventory] if len(inventory) <= MAX_LISTED_FILES else None,
        "attempts": attempts,
        "resizes": [_settled(one, limit_bytes) for one in _asked_before_start(request.state)],
        "learned": dict(known) or notes.read(request.state, notes.LEARNED) or {},
        "ended": {},
        "failure": None,
        **growth.first_facts(plan),
    }
    snapshot = state_dir.begin(identity, parts, facts)
    state_dir.collect()
    for sink in plan.sinks:
        state_dir.still_ours()
        sink.recover([])
    known_of_job = learned.of_job(snapshot.facts, request.job)
    return Opened(plan, state_dir, snapshot, None, attempts, known_of_job, Extent(state_dir))


def resume(
    request: Request,
    plan: Plan,
    state_dir: StateDir,
    found: Snapshot,
    limit_bytes: int | None,
    ended: Mapping[str, object] | None,
) -> Opened:
    if growing(plan):
        plan = lower(request.pipelines, found.facts)  # what was taken, as it is now that the state is locked
        if changed := growth.changed_unfinished(plan, found):
            raise ConfigError(
                f"files that this run took and has not finished are not as they were: {'; '.join(changed[:3])}"
                + (f" and {len(changed) - 3} more" if len(changed) > 3 else ""),
                "put them back as they were to go on, or discard the unfinished run with --restart",
            )
    recorded, here = found.facts.get("plan"), planned(plan)
    if recorded != here:
        raise ConfigError(
            "this version of etlkit cuts the job into other splits or partitions than the one that began the run",
            "finish it with the version that began it, or discard it with --restart",
        )
    attempts: list[dict[str, Any]] = [dict(one) for one in found.facts.get("attempts") or []]
    if attempts and attempts[-1].get("ended_at") is None:
        attempts[-1] |= {"ended_at": now(), "exit_code": None, "ended_by": "killed", **(ended or {})}
    attempts.append(_attempt(len(attempts) + 1, limit_bytes, found.id))
    known = [dict(one) for one in found.facts.get("resizes") or []]
    written = {one.get("at") for one in known}
    known += [one for one in _asked_before_start(request.state) if one.get("at") not in written]
    resizes = [_settled(one, limit_bytes) for one in known]
    snapshot = state_dir.claim({"attempts": attempts, "resizes": resizes})
    state_dir.collect()
    for number, sink in enumerate(plan.sinks):
        state_dir.still_ours()
        sink.prepare(found.run_id, resuming=True)
        sink.recover([part for at, part in parts_of(snapshot) if at == number])
    known_of_job = learned.of_job(snapshot.facts, request.job)
    return Opened(plan, state_dir, snapshot, found.id, attempts, known_of_job, Extent(state_dir))


def _attempt(number: int, limit_bytes: int | None, resumed_from: int | None) -> dict[str, Any]:
    return {
        "number": number,
        "started_at": now(),
        "ended_at": None,
        "exit_code": None,
        "ended_by": None,
        "limit_bytes": limit_bytes,
        "peak_bytes": None,
        "resumed_from": resumed_from,
        "pid": os.getpid(),
    }


def _asked_before_start(state: str) -> list[dict[str, Any]]:
    """Intents of starts that could not open the state yet (``first_ask``)."""
    note = notes.read(state, notes.ASKED)
    return [one for one in note if isinstance(one, dict) and "to_bytes" in one] if isinstance(note, list) else []


def _settled(resize: dict[str, Any], limit_bytes: int | None) -> dict[str, Any]:
    """A resize that was in flight when the attempt before ended: the limit we woke up with says what became of it."""
    if resize.get("outcome") in ("requested", "in_progress", "deferred", "error"):
        if limit_bytes is not None and abs(limit_bytes - int(resize["to_bytes"])) <= 64 * 1024:
            began = datetime.fromisoformat(str(resize["at"]))
            took = (datetime.now(UTC) - began).total_seconds()
            resize |= {"outcome": "actuated", "requested_to_actuated_s": round(took, 3)}
        else:
            resize |= {"pending_at_restart": True}
    return resize


def growing(plan: Plan) -> bool:
    """Whether files may arrive while the job runs."""
    return any(isinstance(source, Growing) for source in plan.sources)


def planned(plan: Plan) -> list[dict[str, Any]]:
    """What a resumed run must find again: splits of the scans, partitions of the exchanges (law 10)."""
    probes: dict[int, int] = {}
    for probe in probes_of(plan).values():
        probes[probe.stage.index] = probes.get(probe.stage.index, 0) + probe.splits
    return [
        {
            "kind": stage.kind,
            "scans": [len(one.splits) for one in stage.inputs if isinstance(one, ScanInput)],
            "partitions": stage.output.partitions if isinstance(stage.output, ExchangeOutput) else None,
            **({"probes": probes[stage.index]} if stage.index in probes else {}),
        }
        for stage in plan.stages
    ]


def parts_of(snapshot: Snapshot) -> list[tuple[int, Any]]:
    """(sink number, part) of everything that is staged, in split order."""
    found = [pair for stage in snapshot.stages.values() for pair in stage.parts]
    return sorted(found, key=lambda pair: (pair[0], pair[1].split, pair[1].name))


def refused(
    request: Request, found: Snapshot, parts: dict[str, str], identity: str, inventory: Sequence[tuple[str, int, str]]
) -> ConfigError:
    changed = differences(found.fingerprint, parts)
    files = changed_files(found.facts.get("inventory") or [], inventory) if found.facts.get("inventory") else []
    what = ", ".join(changed) or f"the run id ({found.run_id}, now {identity})"
    parameters = changed_parameters(found.facts.get("parameters") or {}, request.parameters)
    for known in (parameters, files):
        if known:
            what += f" ({'; '.join(known[:3])}{' …' if len(known) > 3 else ''})"
    return ConfigError(
        f"the state holds an unfinished run {found.run_id} of job '{found.facts.get('job')}'; changed since: {what}",
        "put it back as it was to go on, use another --state, or discard the unfinished run with --restart",
    )


def failed_before(found: Snapshot) -> EtlkitError:
    failure: Mapping[str, Any] = found.facts.get("failure") or {}
    return error_for(
        int(failure.get("exit_code", 1)),
        f"this run failed for good before: {failure.get('message', 'no reason was written down')}",
        "mend the cause, then start it anew with --restart",
    )
