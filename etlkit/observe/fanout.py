"""A fan-out as an observer reads it: the run as a whole, and what each index has done. Without a lock, as ``observe``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import Phase, StateDir, open_store
from ..errors import ConfigError
from ..layout import WHOLE, shares_below
from .state import observe
from .story import OOM_KILLED, tell
from .terminal import table

_ADDED = ("rows_in", "rows_repeated", "splits_done", "splits_total", "oom_kills")


@dataclass(frozen=True, slots=True)
class Share:
    round: int
    index: int
    state: str
    story: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FanOut:
    story: dict[str, Any]
    """The keys of a run's story, added up over the shares; attempts, resizes and checkpoints say ``round`` and ``index``."""
    shares: Sequence[Share]
    shards: int
    rounds: int


def observe_fanout(root: str) -> FanOut:
    """Errors: ConfigError if there is none; StateError and CorruptStateError from the checkpoints."""
    with StateDir.open(open_store(f"{root}/{WHOLE}"), read_only=True) as state_dir:
        whole = state_dir.snapshot
    if whole is None:
        raise ConfigError(f"{root}: no run has begun here", "name the folder that --state named")
    shares = []
    for round_, index, folder in shares_below(Path(root)):
        if any((folder / "manifests").glob("0*.json")):
            seen = observe(folder)
            if seen.snapshot.fingerprint.get("fan-out") == whole.facts.get("token"):
                shares.append(Share(round_, index, str(folder), seen.story))
    return FanOut(_together(tell(whole, ()), whole.phase, shares), shares, whole.facts["shards"], whole.facts["rounds"])


def _together(story: dict[str, Any], phase: Phase, shares: Sequence[Share]) -> dict[str, Any]:
    for key in _ADDED:
        story[key] = sum(share.story[key] for share in shares)
    story["rows_out"] = sum(share.story["rows_out"] for share in shares)
    for key in ("attempts", "resizes", "checkpoints", "decisions"):
        story[key] = [
            {"round": share.round, "index": share.index, **one} for share in shares for one in share.story[key]
        ]
    story["oom_kills"] = sum(one["ended_by"] == OOM_KILLED for one in story["attempts"])
    states = {share.story["status"] for share in shares}
    if phase is not Phase.DONE:
        story["status"] = "running" if "running" in states else "failed" if "failed" in states else "interrupted"
    story["failure"] = next((share.story["failure"] for share in shares if share.story["failure"]), None)
    return story


def lines(seen: FanOut) -> list[str]:
    """A table of the shares, a line each."""
    from ..units import format_bytes

    story = seen.story
    told = [
        f"{story['job']}  {story['status']}",
        f"run {story['run_id']}, {seen.shards} indexes, {seen.rounds} round{'' if seen.rounds == 1 else 's'}",
        f"{story['rows_in']:,} rows in, {story['rows_out']:,} rows out",
        "",
    ]
    head = ("round", "index", "status", "rows in", "splits", "attempts", "resizes", "limit", "peak")
    body = []
    for share in seen.shares:
        one = share.story
        limit, peak = _newest(one["attempts"], "limit_bytes"), _most(one["attempts"], "peak_bytes")
        body.append(
            (
                share.round, share.index, one["status"], f"{one['rows_in']:,}", one["splits_done"], len(one["attempts"]),
                len(one["resizes"]), format_bytes(limit) if limit else None, format_bytes(peak) if peak else None,
            )
        )  # fmt: skip
    told += table(head, body)
    if story["failure"]:
        told.append(f"It failed for good: {story['failure'].get('message')}")
    return told


def _newest(attempts: Sequence[Mapping[str, Any]], key: str) -> int | None:
    return attempts[-1][key] if attempts else None


def _most(attempts: Sequence[Mapping[str, Any]], key: str) -> int | None:
    return max((one[key] for one in attempts if one[key]), default=None)
