"""What the display knows: every event folded into the figures of this moment. Pure; no clock, no drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from typing import Any

from ..exits import HOPELESS
from ..lazyclass import dataclass
from .sentences import moment


@dataclass(slots=True)
class Live:
    """The newest figures of a run, across its restarts. Figures that are not known yet are None."""

    job: str = ""
    attempt: int = 0
    stages: dict[int, str] = field(default_factory=dict)
    """Kind by number."""
    stage: int | None = None
    splits_done: int = 0
    splits_total: int = 0
    rows_in: int = 0
    rows_total: int | None = None
    rows_per_s: float | None = None
    remaining_s: float | None = None
    used_bytes: int | None = None
    reserved_bytes: int | None = None
    projected_bytes: int | None = None
    limit_bytes: int | None = None
    state_bytes: int | None = None
    level: str = "calm"
    workers: int | None = None
    checkpoints: int = 0
    checkpoint: Mapping[str, Any] | None = None
    """The newest one's event."""
    resizes: int = 0
    wanted_bytes: int | None = None
    """A limit that was asked for and is not decided yet."""
    restarts: int = 0
    oom_kills: int = 0
    ended: bool = False
    between: bool = False
    """An attempt has ended with work left, and another goes on."""
    began_at: datetime | None = None
    at: datetime | None = None

    @property
    def elapsed_s(self) -> float:
        return (self.at - self.began_at).total_seconds() if self.at and self.began_at else 0.0

    def take(self, event: Mapping[str, Any]) -> None:
        at = moment(event.get("at"))
        if at is not None:
            self.began_at = self.began_at or at
            self.at = at
        match event.get("event"):
            case "attempt_started":
                self._attempt(event)
            case "planned":
                self.stages = {one["stage"]: str(one.get("kind", "")) for one in event.get("stages") or []}
                self._copy(event, "splits_done", "splits_total", "rows_total")
            case "progress":
                self._copy(event, "stage", "splits_done", "splits_total", "rows_in", "rows_total", "rows_per_s")
                self._copy(event, "used_bytes", "reserved_bytes", "projected_bytes", "state_bytes", "workers", "level")
                self.limit_bytes = event.get("limit_bytes")
                self.remaining_s = event.get("remaining_s")
            case "level":
                self._copy(event, "level")
            case "checkpoint":
                self.checkpoints += 1
                self.checkpoint = event
            case "resize":
                self._resize(event)
            case "limit_changed":
                self.limit_bytes = event.get("to_bytes")
            case "container_started":
                self.restarts = max(self.restarts, int(event.get("restart_count") or 0))
                self.limit_bytes = event.get("limit_bytes")
                self._forget_memory()
            case "container_exited":
                self.oom_kills += bool(event.get("oom_killed"))
                self.ended = event.get("exit_code") == 0
                self.between = event.get("restart_in_s") is not None and event.get("exit_code") not in HOPELESS
            case "attempt_ended":
                self.ended = True
                if event.get("exit_code") == 0:
                    self.splits_done = self.splits_total
                    self.remaining_s = None

    def _attempt(self, event: Mapping[str, Any]) -> None:
        self.job = str(event.get("job") or self.job)
        number = int(event.get("attempt") or 0)
        self.restarts = max(self.restarts, number - 1)
        self.attempt = number
        self.ended = self.between = False
        self.limit_bytes = event.get("limit_bytes")
        if self.wanted_bytes is not None and self.limit_bytes == self.wanted_bytes:
            self.wanted_bytes = None  # granted while nobody was there to be told
            self.resizes += 1
        self._forget_memory()

    def _forget_memory(self) -> None:
        """The process whose figures they were is gone."""
        self.used_bytes = self.reserved_bytes = self.projected_bytes = self.state_bytes = None
        self.rows_per_s = self.remaining_s = None
        self.level = "calm"

    def _resize(self, event: Mapping[str, Any]) -> None:
        outcome = event.get("outcome")
        if outcome in ("requested", "in_progress", "deferred", "error"):
            self.wanted_bytes = event.get("to_bytes")
            return
        self.wanted_bytes = None
        self.resizes += outcome == "actuated"

    def _copy(self, event: Mapping[str, Any], *names: str) -> None:
        for name in names:
            if event.get(name) is not None:
                setattr(self, name, event[name])
