"""``etlkit show STATE``: what happened in a run, from its checkpoints and its event log."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "show"
HELP = "what happened: attempts, checkpoints, resizes, restarts, rows in and out, why each"

_LAST_CHECKPOINTS = 8
_LAST_DECISIONS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", metavar="STATE", help="the state directory")
    parser.add_argument("--json", action="store_true", help="one object instead of a text")


def run(args: argparse.Namespace) -> int:
    from ..layout import is_fanout
    from ..observe.state import observe

    if is_fanout(Path(args.state)):
        return _show_fanout(args)
    seen = observe(args.state)
    if args.json:
        import orjson

        sys.stdout.write(orjson.dumps(dict(seen.story), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        from ..observe.summary import lines
        from ..observe.terminal import wrapped
        from ..observe.timeline import timeline

        print(wrapped("\n".join([*_heading(seen.story), "", *lines(seen.story, timeline(seen.events))])))
        print("\n".join(_tables(seen.story)))
    for warning in seen.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _show_fanout(args: argparse.Namespace) -> int:
    from ..observe.fanout import lines, observe_fanout

    seen = observe_fanout(args.state)
    if args.json:
        import orjson

        story = {**seen.story, "shards": seen.shards, "rounds": seen.rounds}
        sys.stdout.write(orjson.dumps(story, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    print("\n".join(lines(seen)))
    if seen.shares:
        print(f"\nof one index: etlkit show {seen.shares[0].state}")
    return 0


def _heading(story: Mapping[str, Any]) -> list[str]:
    parameters = ", ".join(f"{name}={value}" for name, value in story["parameters"].items())
    told = [f"{story['job']}  {story['status']}", f"run {story['run_id']}{f', {parameters}' if parameters else ''}"]
    if story["outputs"]:
        told.append(f"output {', '.join(story['outputs'])}")
    return told


def _tables(story: Mapping[str, Any]) -> list[str]:
    told: list[str] = []
    told += _table(
        "attempts",
        ("", "started", "ended", "by", "code", "limit", "peak", "from"),
        [
            (
                one["number"], _clock(one["started_at"]), _clock(one["ended_at"]), one["ended_by"], one["exit_code"],
                _size(one["limit_bytes"]), _size(one["peak_bytes"]), one["resumed_from"],
            )
            for one in story["attempts"]
        ],
    )  # fmt: skip
    told += _table(
        "resizes",
        ("at", "from", "to", "outcome", "took", "why"),
        [
            (
                _clock(one["at"]), _size(one["from_bytes"]), _size(one["to_bytes"]), one["outcome"],
                _seconds(one["requested_to_actuated_s"]), one["reason"],
            )
            for one in story["resizes"]
        ],
    )  # fmt: skip
    checkpoints = story["checkpoints"]
    told += _table(
        _newest("checkpoints", story["checkpoint_cost"]["count"], _LAST_CHECKPOINTS),
        ("", "at", "took", "size", "why"),
        [
            (one["id"], _clock(one["at"]), _seconds(one["duration_s"]), _size(one["bytes"]), one["reason"])
            for one in checkpoints[-_LAST_CHECKPOINTS:]
        ],
    )
    decisions = story["decisions"]
    told += _table(
        _newest("decisions", len(decisions), _LAST_DECISIONS),
        ("at", "", "why"),
        [(_clock(one["at"]), one["instruction"], one["reason"]) for one in decisions[-_LAST_DECISIONS:]],
    )
    return told


def _newest(what: str, count: int, shown: int) -> str:
    return what if count <= shown else f"{what}, the newest {shown} of {count} (all of them: --json)"


def _table(title: str, head: Sequence[str], body: Sequence[Sequence[object]]) -> list[str]:
    """Nothing where there are no rows."""
    from ..observe.terminal import columns_of, table

    return ["", title, *table(head, body, columns=columns_of())] if body else []


def _clock(at: Any) -> str | None:
    """The time of day of an RFC 3339 stamp: the date is the same for nearly every row."""
    return None if at is None else str(at)[11:23].rstrip("Z")


def _size(value: Any) -> str | None:
    from ..units import format_bytes

    return None if value is None else format_bytes(value)


def _seconds(value: Any) -> str | None:
    from ..units import format_seconds

    return None if value is None else format_seconds(value)
