"""A start that fits: ask for memory before pyarrow is imported, where the limit is too small to import it, or smaller than
the one at which the unfinished run stood (a replacement pod, F22).

Covers what is needed, the durable intent, and what follows from the answer: go on (None), or an exit code. How a
resize is asked for and waited for is ``kube.first``. Standard library only: it runs in 24 MiB.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..decide.events import ResizeOutcome, ResizeReported
from ..errors import ConfigError, EtlkitError, RefusedError
from ..exits import Exit
from ..lazyclass import dataclass
from ..settings import Settings
from ..units import MIB, format_bytes, quantity_bytes
from . import learned, notes

START_BYTES = 64 * MIB
"""Below this a start with cold libraries thrashes: 2.8 s at 64 MiB, 4.5 s at 56, 46 s at 48, none at 40 (ADR 11)."""
LEAST_BYTES = 48 * MIB
"""Below this no job runs, however warm its libraries are (ADR 11)."""
FIRST_BYTES = 192 * MIB
"""What to ask for when nothing is known of the job. The forecast follows once it runs."""
NEEDED_DEADLINE_S, WISHED_DEADLINE_S = 60.0, 3.0
"""How long a resize is waited for that the start depends on, and one that only saves a later restart."""


@dataclass(frozen=True, slots=True)
class Need:
    to_bytes: int
    reason: str
    must: bool
    """Without it the start would be killed."""


def need(limit_bytes: int | None, max_memory_bytes: int | None, known: learned.Learned) -> Need | None:
    """What to ask for before anything is imported. Pure. None: the limit will do."""
    if limit_bytes is None:
        return None
    too_small = limit_bytes < START_BYTES
    # A run that is finished may be the very one that is started again, and then nothing is to be touched: what it has
    # learned is for the machine, once the state is open.
    wanted = known.resume_bytes or 0
    if too_small:
        wanted = max(wanted or known.limit_bytes or FIRST_BYTES, START_BYTES)
    if max_memory_bytes is not None:
        wanted = min(wanted, max_memory_bytes)
    # A limit that is rounded, or a tenth short, is not worth a restart.
    if not too_small and wanted < limit_bytes * 1.1:
        return None
    limit = format_bytes(limit_bytes)
    if too_small:
        words = f"Python and pyarrow need {format_bytes(START_BYTES)} to start; the limit is {limit}"
        return Need(wanted, words, must=True)
    return Need(wanted, f"the unfinished run stood at {format_bytes(wanted)}; the limit is {limit}", must=False)


def make_room(
    settings: Settings, target: str, limit_bytes: int | None, read_limit: Callable[[], int | None]
) -> int | None:
    """Ask if there is need. None: go on. 75: SIGTERM came, or later may be better. Errors: ConfigError, RefusedError."""
    state = settings.state or f".etlkit/{job_name(target)}"
    wanted = need(limit_bytes, settings.max_memory_bytes, learned.for_target(state, target))
    if wanted is None or limit_bytes is None:
        return None
    hindrance = _hindrance(settings, wanted, limit_bytes)
    if hindrance is None:
        return _ask(settings, state, wanted, limit_bytes, read_limit)
    if not wanted.must or limit_bytes >= LEAST_BYTES:
        return None
    raise ConfigError(
        f"{wanted.reason}, and {hindrance}",
        f"set the container's memory limit to at least {quantity_bytes(START_BYTES)}",
    )


def _hindrance(settings: Settings, wanted: Need, limit_bytes: int) -> str | None:
    from ..kube.identity import find_access, find_identity, missing_names

    if settings.max_memory_bytes is None:
        return "no max_memory is set, so none is asked for"
    if wanted.to_bytes <= limit_bytes or (wanted.must and wanted.to_bytes < LEAST_BYTES):
        return f"max_memory is {format_bytes(settings.max_memory_bytes)}"
    if find_access() is None:
        return "there is nobody to ask for more memory here"
    if find_identity() is None:
        return f"the pod does not know itself: {', '.join(missing_names())} is not set"
    return None


def _ask(
    settings: Settings, state: str, wanted: Need, limit_bytes: int, read_limit: Callable[[], int | None]
) -> int | None:
    from ..kube.client import PodClient
    from ..kube.first import make_room as ask
    from ..kube.identity import find_access, find_identity

    access, identity = find_access(), find_identity()
    assert access is not None and identity is not None
    intent: dict[str, Any] = {
        "at": _now(),
        "from_bytes": limit_bytes,
        "to_bytes": wanted.to_bytes,
        "reason": f"{wanted.reason}; asking for {format_bytes(limit_bytes)} to {format_bytes(wanted.to_bytes)}",
        "outcome": "requested",
        "requested_to_actuated_s": None,
        "before_start": True,
    }
    before = notes.read(state, notes.ASKED)
    intents = [*(before if isinstance(before, list) else []), intent]
    try:
        notes.write(state, notes.ASKED, intents)
    except OSError as error:
        if not wanted.must:
            return None  # the state's own start will say what is wrong with its folder
        text = f"the intent to resize could not be written to {state}: {error.strerror or error}"
        raise ConfigError(text, "mount a writable volume there, or raise the memory limit") from error
    say = _teller(settings, state, intent)
    began_s = time.monotonic()
    ended = ask(
        wanted.to_bytes,
        PodClient(access, identity),
        identity,
        read_limit,
        backoff_limit=settings.backoff_limit,
        keep_request=settings.resize_request == "keep",
        deadline_s=NEEDED_DEADLINE_S if wanted.must else WISHED_DEADLINE_S,
        say=lambda report: say(str(report.outcome), _message(report)),
    )
    outcome = str(ended.outcome) if ended.outcome is not None else "refused"
    if ended.outcome is ResizeOutcome.ACTUATED:
        intent["requested_to_actuated_s"] = round(time.monotonic() - began_s, 3)
    # After SIGTERM the limit that the next life wakes up with says what became of it.
    intent["outcome"] = "requested" if ended.terminated else outcome
    _write_again(state, intents)
    if ended.terminated:
        return Exit.AGAIN
    now_bytes = ended.limit_bytes
    if now_bytes is None or now_bytes >= LEAST_BYTES or not wanted.must:
        return None
    raise _failure(wanted, ended.outcome, ended.message)


def _failure(wanted: Need, outcome: ResizeOutcome | None, message: str) -> EtlkitError:
    size, remedy = format_bytes(wanted.to_bytes), f"raise the container's memory limit to {quantity_bytes(START_BYTES)}"
    words = f"{wanted.reason}, and {size} could not be had: {message}"
    if outcome in (ResizeOutcome.UNREACHABLE, ResizeOutcome.WITHDRAWN):
        later = EtlkitError(words, f"started again later it may be granted; or {remedy}")
        later.exit_code = Exit.AGAIN
        return later
    if outcome in (ResizeOutcome.REFUSED, ResizeOutcome.INFEASIBLE):
        return RefusedError(words, f"allow the pod to resize itself (see `etlkit doctor`), or {remedy}")
    return ConfigError(words, remedy)


def _write_again(state: str, intents: list[dict[str, Any]]) -> None:
    try:
        notes.write(state, notes.ASKED, intents)
    except OSError as error:
        print(f"etlkit run: how the resize ended could not be written down: {error}", file=sys.stderr)


def _message(report: ResizeReported) -> str:
    return "asking" if report.outcome is ResizeOutcome.REQUESTED else report.message


def _teller(settings: Settings, state: str, intent: Mapping[str, Any]) -> Callable[[str, str], None]:
    """Events as ``observe`` has them, which is too large to import here: to the log, and to stdout where that is asked for."""
    folder = notes.folder_of(state)

    def say(outcome: str, message: str) -> None:
        line = json.dumps({"event": "resize", **intent, "at": _now(), "outcome": outcome, "message": message})
        if settings.progress == "json":
            print(line, flush=True)
        elif settings.progress != "none":
            print(f"etlkit run: {intent['reason']}: {outcome} {message}", file=sys.stderr, flush=True)
        if folder is not None:
            try:
                handle = os.open(folder / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError:
                return
            try:
                os.write(handle, line.encode() + b"\n")
            finally:
                os.close(handle)

    return say


def job_name(target: str) -> str:
    """The job's name as far as it can be told without importing it."""
    place, colon, name = target.rpartition(":")
    return name if colon and place else Path(target).stem


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
