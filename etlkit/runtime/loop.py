"""The loop: events in, the machine's decisions, instructions carried out.

One thread, one queue. Workers, the checkpoint thread, the resizer and signals only put events into the queue; this thread alone
steps the machine and acts. It makes no decision of its own beyond mechanics: a stage that ends is committed, a split that
finds no room lets state go. The exit code is the machine's.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ..checkpoint import Phase
from ..decide import events, instructions
from ..decide.inflight import landed
from ..decide.machine import initial, step
from ..decide.policy import Policy
from ..engine import reports
from ..engine.executor import Executor
from ..errors import CorruptStateError, EtlkitError, FencedError
from ..exits import Exit
from ..lazyclass import dataclass
from ..memory import interval_s
from ..memory.allocation import is_allocation_failure, release_pools
from . import checkpointer as saving
from . import learned, notes
from .checkpointer import Checkpointer, Wanted, as_state_error
from .cores import Cores, CpuReported
from .gauge import Gauge, now_s
from .lessons import Lessons, terminated_at
from .opening import Opened, Request, now
from .policy_file import Refused, Taken

PROGRESS_EVERY_S = 0.25
EARLY_S, EARLY_LOOK_S = 5.0, 0.1
"""The first seconds are when the forecast takes shape, and when a resize is cheapest: look more often."""
FIRST_BATCH_LOOK_S = 0.02
"""Until the first rows are read: what a restart costs ends with them."""
RETRY_SPLIT_S = 0.2
"""Between two tries of a split that finds no memory, from the second on, with a look in between."""
RETRY_S = 1.0
"""Before a checkpoint that a stage's end needs is tried again."""
HOLD_AT = 1.0
"""Intervals of unsaved work beside a checkpoint that is being written, at which no split starts any more."""
PERMANENT = frozenset({Exit.BAD_INPUT, Exit.CONFIG, Exit.USAGE})
"""Ends that starting again cannot mend: written down, so that a later start fails fast (F25)."""


class Asks(Protocol):
    """Who can be asked for memory: kube.resizer.Resizer, or nobody."""

    def request(self, to_bytes: int, reason: str) -> None: ...

    def withdraw(self, to_bytes: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Tell:
    """``emit(event, **fields)`` writes the event log and feeds the display."""

    emit: Callable[..., None]


@dataclass(frozen=True, slots=True)
class Ended:
    exit_code: int
    reason: str


class Loop:
    def __init__(
        self,
        opened: Opened,
        executor: Executor,
        checkpointer: Checkpointer,
        gauge: Gauge,
        policy: Policy,
        inbox: queue.SimpleQueue[Any],
        tell: Tell,
        asks: Asks | None,
        cores: Cores,
        request: Request,
    ) -> None:
        self.opened = opened
        self.cores = cores
        self.request = request
        self.lessons = Lessons(gauge, terminated_at(opened.attempts))
        self.executor = executor
        self.checkpointer = checkpointer
        self.gauge = gauge
        self.policy = policy
        self.inbox = inbox
        self.emit = tell.emit
        self.asks = asks
        self.state = initial(policy)
        self.ended: Ended | None = None
        self._limit_bytes: int | None = None
        self._give_up_at_s: float | None = None
        self._next_look_s = 0.0
        self._began_s = now_s()
        self._next_progress_s = 0.0
        self._saved_splits = 0
        self._dirty_since_s: float | None = None
        self._held_back = False
        self._go_on_after: str | None = None
        self._resizes: list[dict[str, Any]] = [dict(one) for one in opened.snapshot.facts.get("resizes") or []]
        self._asked_at_s = 0.0
        self._unsent: dict[str, Any] | None = None
        """An intent whose checkpoint is not committed yet."""
        self._go_on_at_s: float | None = None
        self._room_asked = (0, 0)
        self._failure: EtlkitError | None = None
        self._retry: tuple[float, Wanted] | None = None
        self._level = instructions.Level.CALM

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, restarts_left: int) -> Ended:
        """Until the machine says quit. The executor's and the checkpointer's threads are running."""
        self._look(first=True)
        known = self.opened.learned.limit_bytes or 0
        limit_bytes, workers = self.gauge.sample.limit_bytes, self.gauge.workers
        self._step(
            events.Started(now_s(), limit_bytes, workers, restarts_left, known if self.opened.attempt == 1 else 0)
        )
        self._note_size()
        while self.ended is None:
            timeout = max(0.0, min(self._next_look_s, self._go_on_at_s or self._next_look_s) - now_s())
            try:
                self._take(self.inbox.get(timeout=timeout))
            except queue.Empty:
                pass
            if now_s() >= self._next_look_s and self.ended is None:
                self._look()
            if self._give_up_at_s is not None and now_s() >= self._give_up_at_s:
                self._give_up_at_s = None
                self.executor.give_up()
            if self._go_on_at_s is not None and now_s() >= self._go_on_at_s:
                self._go_on_at_s = None
                self._look()
                self.executor.go_on()
            if self._retry is not None and now_s() >= self._retry[0]:
                wanted, self._retry = self._retry[1], None
                self.checkpointer.request(wanted)
        return self.ended

    def _look(self, first: bool = False) -> None:
        """One tick: sample, move the wall, tell the machine, show progress."""
        at_s = now_s()
        figures = self.executor.figures()
        if figures.splits_done > self._saved_splits and self._dirty_since_s is None:
            self._dirty_since_s = at_s
        unsaved_s = at_s - self._dirty_since_s if self._dirty_since_s is not None else 0.0
        self._hold_back(unsaved_s)
        observed = self.gauge.look(at_s, self.policy, unsaved_s, saving=self.checkpointer.busy)
        self.checkpointer.keep_reserve()
        sample = self.gauge.sample
        self._learn(at_s)
        self._look_at_cores(at_s)
        if first:
            self._limit_bytes = sample.limit_bytes
        elif sample.limit_bytes != self._limit_bytes:
            self._limit_changed(sample.limit_bytes)
        if not first:
            self._step(observed)
        every_s = self.policy.checkpoint_every_s
        longest_s = EARLY_LOOK_S if at_s < self._began_s + EARLY_S else 1.0
        if self.lessons.first_batch_s is None and at_s < self._began_s + EARLY_S:
            longest_s = FIRST_BATCH_LOOK_S
        self._next_look_s = at_s + min(interval_s(sample), every_s / 2 if every_s else 1.0, longest_s)
        if at_s >= self._next_progress_s:
            self._next_progress_s = at_s + PROGRESS_EVERY_S
            self._progress()

    def _hold_back(self, unsaved_s: float) -> None:
        """Work that would be lost goes on growing while a checkpoint is written, and the writer shares the cores with it. Where the
        author has set the bound, no split starts any more once it is reached, until the checkpoint is there."""
        every_s = self.policy.checkpoint_every_s
        if self._held_back or every_s is None or not self.policy.every_is_bound or not self.checkpointer.busy:
            return
        if unsaved_s > HOLD_AT * every_s:
            self._held_back = True
            self.executor.pause(0.0)

    def _let_go(self) -> None:
        if self._held_back:
            self._held_back = False
            self.executor.resume()

    def _learn(self, at_s: float) -> None:
        """What this look teaches about the job, told as events."""
        if self.lessons.first_batch(at_s, self._began_s):
            self.emit(
                "first_batch",
                seconds=round(at_s - self._began_s, 3),
                restart_s=None if self.lessons.restart_s is None else round(self.lessons.restart_s, 3),
            )
        leak = self.lessons.look(at_s)
        if leak is not None:
            limit_bytes, used_bytes = self._limit_bytes, self.gauge.sample.used_bytes
            room = None if limit_bytes is None else max(0, limit_bytes - used_bytes)
            self.emit(
                "leak",
                grown_bytes=leak.grown_bytes,
                bytes_per_split=round(leak.bytes_per_split),
                splits_until_full=None if room is None or not leak.bytes_per_split else int(leak.splits_until(room)),
                reason="memory grows from split to split, and neither state nor splits explain it: an author's function,"
                " or a library, keeps what it should let go",
            )

    def _look_at_cores(self, at_s: float) -> None:
        figures = self.gauge.figures
        last = not self.executor.later(figures.stage)
        left = figures.splits_total - figures.splits_done if last else None
        workers, quota = self.cores.workers, self.cores.quota_cores
        asked = self.cores.look(at_s, self.gauge.remaining_s(figures), left)
        if asked is not None:
            self.emit(
                "decision",
                instruction="RequestCpu",
                reason=asked.reason,
                to_cores=asked.to_cores,
                give_back=asked.give_back,
            )
        if self.cores.quota_cores != quota:
            self.emit("cpu_changed", from_cores=quota, to_cores=self.cores.quota_cores, workers=self.cores.workers)
        if self.cores.workers != workers:
            self.gauge.workers = self.cores.workers
            self._step(events.CoresChanged(at_s, self.cores.workers))

    def _progress(self) -> None:
        figures, observed = self.gauge.figures, self.gauge.observed
        remaining = self.gauge.remaining_s(figures)
        self.emit(
            "progress",
            stage=figures.stage,
            splits_done=figures.splits_done,
            splits_total=figures.splits_total,
            rows_in=figures.rows_in,
            rows_total=figures.rows_total,
            rows_per_s=round(self.gauge.rows_per_s()),
            used_bytes=observed.used_bytes,
            reserved_bytes=observed.reserved_bytes,
            projected_bytes=observed.projected_bytes,
            limit_bytes=observed.limit_bytes,
            state_bytes=observed.state_bytes,
            level=str(self._level),
            workers=figures.running,
            remaining_s=None if remaining is None else round(remaining, 1),
            throttled=round(self.cores.throttled, 3),
        )

    def _limit_changed(self, limit_bytes: int | None) -> None:
        # The report may come before the limit is looked at: then the newest resize of ours is actuated already.
        ours = self._resizes[-1] if self._resizes else None
        asked = (
            ours is not None
            and (ours["outcome"] not in _FINAL or ours["outcome"] == str(events.ResizeOutcome.ACTUATED))
            and landed(int(ours["to_bytes"]), limit_bytes)
            and not landed(int(ours["to_bytes"]), self._limit_bytes)
        )
        before, self._limit_bytes = self._limit_bytes, limit_bytes
        if asked:
            self._note_size()
        self.emit("limit_changed", from_bytes=before, to_bytes=limit_bytes, asked=asked)
        self.opened.attempts[-1]["limit_bytes"] = limit_bytes
        self._step(events.LimitChanged(now_s(), limit_bytes))

    # ── events ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, event: object) -> None:
        match event:
            case reports.StageFinished(stage, but):
                kind = self.executor.plan.stages[stage].kind
                said = f"the join of stage {stage} exchanges both sides from here on: {but}" if but else ""
                # Workers have nothing to do until it is there, and who reduces the runs merges them anyway, on all cores.
                reason = said or f"stage {stage} ({kind}) is finished"
                self.checkpointer.request(Wanted(reason, even_if_empty=True, urgent=True))
            case reports.RoomWanted(needed, state):
                self._spill_for_room(needed, state)
            case reports.SplitShort():
                self._short(event)
            case reports.SplitFailed(task, error):
                self._failed(task, error)
            case reports.Idle():
                self._step(events.Drained(now_s()))
            case saving.Written():
                self._written(event)
                self._spill_again()
            case saving.Skipped(wanted):
                self._dirty_since_s = None
                self._let_go()
                self._go_on_if(wanted.reason)
                self._spill_again()
            case saving.NotWritten(wanted, error):
                self._not_written(wanted, error)
            case saving.Merged(committed, runs):
                self.emit(
                    "merged",
                    id=committed.id,
                    runs=runs,
                    bytes=committed.bytes,
                    duration_s=round(committed.duration_s, 4),
                )
            case saving.Published(parts, rows, bytes_, seconds, visible):
                event = "published" if visible else "handed_over"
                self.emit(event, parts=parts, rows=rows, bytes=bytes_, seconds=round(seconds, 4))
                self._step(events.WorkFinished(now_s()))
            case events.ResizeReported():
                self._reported(event)
            case Taken(policy, what):
                self.policy = policy
                self.emit("policy", accepted=True, message=what)
            case Refused(why):
                self.emit("policy", accepted=False, message=why)
            case CpuReported():
                self.cores.reported(event)
                self.emit(
                    "cpu_resize",
                    to_cores=event.to_cores,
                    outcome="requested" if event.accepted else "refused" if event.refused else "unreachable",
                    message=event.message,
                )
            case events.Terminating():
                self.opened.attempts[-1].setdefault("terminated_at", now())
                self._step(event)
            case _:
                self._step(event)  # type: ignore[arg-type]

    def _step(self, event: events.Event) -> None:
        self.state, told = step(self.state, event, self.policy)
        asked = next((one for one in told if isinstance(one, instructions.RequestMemory)), None)
        for instruction in told:
            self._carry_out(instruction, asked)

    def _spill_for_room(self, needed: int, state: int) -> None:
        """While one is being written there is nothing to ask for; once it is done, it is seen whether that was enough."""
        self._room_asked = (needed, state)
        if not self.checkpointer.busy:
            reason = f"spill: no room for a split of {needed >> 20} MiB beside {state >> 20} MiB of state"
            self.checkpointer.request(Wanted(reason))

    def _spill_again(self) -> None:
        if self.executor.wants_room and self.ended is None:
            self._spill_for_room(*self._room_asked)

    def _short(self, event: reports.SplitShort) -> None:
        self.emit(
            "allocation_failed", split=event.task, tries=event.tries, slice_rows=event.slice_rows, error=event.error
        )
        self._go_on_after = None
        self._step(events.AllocationFailed(now_s(), event.task, event.tries, event.slice_rows, event.needed_bytes))
        if self._go_on_after is None and self.ended is None:
            if event.tries == 1:
                self.executor.go_on()
            else:
                self._go_on_at_s = now_s() + RETRY_SPLIT_S

    def _go_on_if(self, reason: str) -> None:
        if self._go_on_after == reason:
            self._go_on_after = None
            self.executor.go_on()

    def _failed(self, task: str, error: BaseException) -> None:
        if isinstance(error, FencedError):
            self._step(events.CheckpointFailed(now_s(), str(error), fenced=True))
            return
        known = error if isinstance(error, EtlkitError) else _unexpected(task, error)
        self._failure = known
        self._step(events.WorkFailed(now_s(), int(known.exit_code), str(known)))

    def _written(self, event: saving.Written) -> None:
        committed = event.committed
        if committed.bytes > 1 << 20:
            self.gauge.spill_s = committed.duration_s
        if event.captured_s is not None:
            # What was finished while it was written is not in it.
            more = self.executor.figures().splits_done > event.splits_done
            self._saved_splits = event.splits_done
            self._dirty_since_s = event.captured_s if more else None
        self._let_go()
        self.emit(
            "checkpoint",
            id=committed.id,
            duration_s=round(committed.duration_s, 4),
            bytes=committed.bytes,
            reason=committed.reason,
            splits_done=event.splits_done,
        )
        if event.wanted.decided or self.state.saving is None:
            done = events.CheckpointCommitted(
                now_s(), committed.id, committed.duration_s, committed.bytes, committed.reason
            )
            self._step(done)
        self._go_on_if(event.wanted.reason)

    def _not_written(self, wanted: Wanted, error: BaseException) -> None:
        known = as_state_error(error)
        self._failure = known
        self._let_go()
        self.emit("checkpoint_failed", reason=wanted.reason, error=str(known))
        lost = isinstance(known, CorruptStateError)  # a part or a run that is gone does not come back by trying again
        if not isinstance(known, FencedError) and (lost or known.exit_code in PERMANENT):
            self._step(events.WorkFailed(now_s(), int(known.exit_code), str(known)))
        elif wanted.decided or self.state.saving is None or isinstance(known, FencedError):
            fenced = isinstance(known, FencedError)
            self._step(events.CheckpointFailed(now_s(), str(known), fenced, short=is_allocation_failure(error)))
        self._go_on_if(wanted.reason)
        if not wanted.decided and self.ended is None:
            self._retry = (now_s() + RETRY_S, wanted)

    def _reported(self, event: events.ResizeReported) -> None:
        for one in reversed(self._resizes):
            if one["to_bytes"] == event.to_bytes and one["outcome"] not in _FINAL:
                one["outcome"] = str(event.outcome)
                if event.outcome is events.ResizeOutcome.ACTUATED:
                    one["requested_to_actuated_s"] = round(event.at_s - self._asked_at_s, 3)
                self.emit("resize", **{**one, "message": event.message})
                break
        self._step(event)

    # ── instructions ────────────────────────────────────────────────────────────────────────────────────────────

    def _carry_out(self, told: instructions.Instruction, asked: instructions.RequestMemory | None) -> None:
        if not isinstance(told, instructions.Checkpoint | instructions.SetLevel):
            fields = {name: getattr(told, name) for name in told.__slots__ if name != "reason"}
            self.emit("decision", instruction=type(told).__name__, reason=told.reason, **fields)
        match told:
            case instructions.SetLevel(level, reason):
                self._level = level
                self.emit("level", level=str(level), reason=reason)
            case instructions.ReleasePools():
                release_pools()
            case instructions.SetWorkers(workers):
                self.executor.set_workers(workers)
            case instructions.SetSliceRows(rows):
                self.executor.set_slice_rows(rows)
            case instructions.Checkpoint(reason, spill):
                if spill and self._go_on_after is None:
                    self._go_on_after = reason
                self._checkpoint(reason, asked)
            case instructions.RequestMemory():
                pass  # its intent is in the checkpoint of the same step, and the PATCH follows that commit
            case instructions.WithdrawResize(to_bytes, _):
                self._withdraw(to_bytes)
            case instructions.Drain(deadline_s, _):
                self._give_up_at_s = deadline_s
                self.executor.drain()
            case instructions.Quit(exit_code, reason):
                self.ended = Ended(exit_code, reason)

    def _withdraw(self, to_bytes: int) -> None:
        """Take a request back. One whose intent is not committed yet is not sent at all."""
        if self._unsent is not None:
            self._unsent["outcome"] = str(events.ResizeOutcome.WITHDRAWN)
            self._unsent = None
        elif self.asks is not None:
            self.asks.withdraw(to_bytes)

    def _checkpoint(self, reason: str, asked: instructions.RequestMemory | None) -> None:
        """One commit. The intent to resize is durable in it before the PATCH is sent (law 4)."""
        if asked is None or self.asks is None:
            ending = self.state.ending is not None
            self.checkpointer.request(Wanted(reason, even_if_empty=True, decided=True, urgent=ending))
            return
        asks = self.asks
        intent = {
            "at": now(),
            "from_bytes": self._limit_bytes,
            "to_bytes": asked.to_bytes,
            "reason": asked.reason,
            "outcome": "requested",
            "requested_to_actuated_s": None,
        }
        self._resizes.append(intent)
        self._asked_at_s = now_s()
        self.emit("resize", **intent, message="asking")

        def patch() -> None:
            if self._unsent is intent:
                self._unsent = None
                asks.request(asked.to_bytes, asked.reason)

        self._unsent = intent
        facts = {"resizes": self._resizes}
        self.checkpointer.request(Wanted(reason, facts, patch, even_if_empty=True, decided=True, urgent=True))

    # ── the end of an attempt ───────────────────────────────────────────────────────────────────────────────────

    def record_end(self, ended: Ended, ended_by: str) -> None:
        """Write down how this attempt ended. Not after being fenced: the state is another's."""
        attempt = self.opened.attempts[-1]
        attempt |= {
            "ended_at": now(),
            "exit_code": ended.exit_code,
            "ended_by": ended_by,
            "peak_bytes": self.gauge.peak_bytes,
            "forecasts": self.lessons.forecasts(),
            "throttled_s": round(self.cores.throttled_s, 3),
        }
        record = self.lessons.learned(
            self.opened.learned,
            self._resizes,
            self._limit_bytes,
            self.policy,
            self.request.target,
            done=ended.exit_code == Exit.DONE,
        )
        known = learned.remember(self.opened.snapshot.facts, self.request.job, record)
        facts: Mapping[str, Any] = {
            "attempts": self.opened.attempts,
            "resizes": self._resizes,
            "learned": known,
        }
        phase = None
        if self._failure is not None and ended.exit_code in PERMANENT and ended.exit_code != Exit.DONE:
            facts = {**facts, "failure": {"exit_code": ended.exit_code, "message": self._failure.message}}
            phase = Phase.FAILED
        self.checkpointer.commit_facts(f"attempt {attempt['number']} ended", facts, phase)
        self._write_note(known)

    def _note_size(self) -> None:
        """A limit is in force that we asked for: a pod that replaces this one must know, however this one ends."""
        resume = learned.resume_size(self._resizes)
        if resume is None or not landed(resume, self._limit_bytes):
            return
        size = learned.right_size(self._resizes, self._limit_bytes, 0, self.policy, done=False)
        record = replace(self.opened.learned, limit_bytes=size, resume_bytes=resume, target=self.request.target)
        self._write_note(learned.remember(self.opened.snapshot.facts, self.request.job, record))

    def _write_note(self, known: Mapping[str, Any]) -> None:
        try:
            notes.write(self.request.state, notes.LEARNED, known)
        except OSError as error:
            # The checkpoint has it; only a start that can read nothing else goes without.
            self.emit("record_failed", error=f"the note of the learned size: {error}")

    def failure(self) -> EtlkitError | None:
        return self._failure


_FINAL = frozenset(str(outcome) for outcome in events.FINAL_OUTCOMES)


def _unexpected(task: str, error: BaseException) -> EtlkitError:
    import traceback

    lines = "".join(traceback.format_exception(error)[-6:])
    return EtlkitError(f"split {task} failed: {type(error).__name__}: {error}", f"where it happened:\n{lines}")


def with_mode(policy: Policy, mode: events.ResizeMode) -> Policy:
    """The policy for what the pod's own resizePolicy says."""
    return replace(policy, mode=mode)


def wait_idle(checkpointer: Checkpointer, at_most_s: float) -> None:
    """Until no commit is under way."""
    deadline = time.monotonic() + at_most_s
    while checkpointer.busy and time.monotonic() < deadline:
        time.sleep(0.005)
