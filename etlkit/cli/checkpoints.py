"""``etlkit checkpoints STATE``: list, inspect, prune, and go back while nothing is published."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..checkpoint import Snapshot, Store

NAME = "checkpoints"
HELP = "list, inspect and prune the checkpoints of a state directory, or go back to an earlier one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", metavar="STATE", help="the state directory or URL")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    acts = parser.add_subparsers(dest="act", metavar="list | inspect ID | prune --keep N | back ID")
    _act(acts, "list", "every checkpoint that is kept (the default)")
    _act(acts, "inspect", "what one checkpoint says").add_argument("id", type=int, metavar="ID")
    prune = _act(acts, "prune", "remove old generations and orphans now")
    prune.add_argument("--keep", type=_at_least_one, default=1, metavar="N", help="generations to keep (default: 1)")
    _act(acts, "back", "make an earlier checkpoint the newest; only while nothing is published").add_argument(
        "id", type=int, metavar="ID"
    )


def _act(acts: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = acts.add_parser(name, help=text, description=text)
    # After the act too; SUPPRESS, so that its default does not undo the one before the act.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of generations, 1 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    from ..checkpoint import open_store
    from ..errors import ConfigError

    if "://" not in args.state and not Path(args.state).is_dir():
        raise ConfigError(f"{args.state}: there is no such state directory", "name the folder that --state named")
    store = open_store(args.state)
    if args.act == "inspect":
        _inspect(store, args.id, args.json)
    elif args.act == "prune":
        _prune(store, args.keep, args.json)
    elif args.act == "back":
        _back(store, args.id, args.json)
    else:
        _list(store, args.json)
    return 0


def _say(data: object) -> None:
    import orjson

    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n")


def _list(store: Store, as_json: bool) -> None:
    from ..checkpoint.history import all_manifests
    from ..checkpoint.manifest import Manifest
    from ..observe.terminal import columns_of, table
    from ..units import format_bytes

    rows: list[dict[str, Any]] = []
    for found in all_manifests(store):
        if isinstance(found, Manifest):
            kind = "twin" if found.twin else "base" if found.is_base else "delta"
            runs = [run for stage in found.stages.values() for run in stage.runs]
            rows.append(
                {
                    "id": found.id,
                    "at": found.at,
                    "epoch": found.epoch,
                    "kind": kind,
                    "phase": found.phase.value,
                    "reason": found.reason,
                    "manifest_bytes": found.length,
                    "runs": len(runs),
                    "run_bytes": sum(run.length for run in runs),
                    "splits": sum(len(stage.finished) for stage in found.stages.values()),
                    "damaged": None,
                }
            )
        else:
            number = int(found.name.rpartition("/")[2].partition(".")[0])
            rows.append({"id": number, "damaged": found.message})
    if as_json:
        _say({"location": store.location, "checkpoints": rows})
        return
    head = ("ID", "AT", "EPOCH", "KIND", "PHASE", "SPLITS", "RUNS", "BYTES", "REASON")
    lines: list[tuple[object, ...]] = []
    for row in rows:
        if row["damaged"] is not None:
            lines.append((row["id"], None, None, "damaged", None, None, None, None, row["damaged"]))
            continue
        splits = f"{'' if row['kind'] != 'delta' else '+'}{row['splits']}"
        size = format_bytes(row["manifest_bytes"] + row["run_bytes"])
        at = row["at"].partition(".")[0] + "Z"
        lines.append((row["id"], at, row["epoch"], row["kind"], row["phase"], splits, row["runs"], size, row["reason"]))
    print("\n".join(table(head, lines, indent="", columns=columns_of())))


def _said(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "at": snapshot.at,
        "epoch": snapshot.epoch,
        "phase": snapshot.phase.value,
        "run_id": snapshot.run_id,
        "fingerprint": dict(snapshot.fingerprint),
        "facts": dict(snapshot.facts),
        "stages": {
            str(number): {
                "finished": stage.finished.to_json(),
                "rows_in": stage.rows_in,
                "rows_out": stage.rows_out,
                "runs": [
                    {"name": run.name, "level": run.level, "bytes": run.length, "rows": run.rows} for run in stage.runs
                ],
                "parts": [
                    {"sink": sink, "split": part.split, "name": part.name, "final": part.final, "rows": part.rows,
                     "bytes": part.length}
                    for sink, part in stage.parts
                ],
            }
            for number, stage in snapshot.stages.items()
        },
    }  # fmt: skip


def _inspect(store: Store, number: int, as_json: bool) -> None:
    from ..checkpoint.history import load
    from ..units import format_bytes

    found = load(store, at=number)
    last, base = found.chain[-1], found.chain[0]
    snapshot = found.folding.snapshot(last.id, last.epoch, last.phase, base.run_id, base.fingerprint, last.at)
    if as_json:
        _say(_said(snapshot))
        return
    print(f"checkpoint {snapshot.id} of {snapshot.at}: {snapshot.phase.value}, epoch {snapshot.epoch} ({last.reason})")
    print(f"run {snapshot.run_id}; base {base.id} and {len(found.chain) - 1} deltas")
    for stage_number, stage in snapshot.stages.items():
        runs, parts = sum(run.length for run in stage.runs), sum(part.length for _, part in stage.parts)
        print(
            f"stage {stage_number}: {len(stage.finished)} splits done, {stage.rows_in:,} rows in, {stage.rows_out:,} out, "
            f"{len(stage.runs)} runs ({format_bytes(runs)}), {len(stage.parts)} parts ({format_bytes(parts)})"
        )
    print(f"facts: {', '.join(snapshot.facts) or 'none'} (--json shows them)")


def _prune(store: Store, keep: int, as_json: bool) -> None:
    from ..checkpoint import StateDir
    from ..errors import ConfigError
    from ..units import format_bytes

    with StateDir.open(store, keep=keep) as state:
        if state.snapshot is None:
            raise ConfigError(f"{store.location}: there is no checkpoint here", "name the folder that --state named")
        # As its writer: only that may remove anything. Its own base is the first generation kept.
        snapshot = state.claim({}, reason="prune")
        removed, left = state.collect(), state.bytes_on_disk()
    if as_json:
        _say({"removed_bytes": removed, "left_bytes": left, "checkpoint": snapshot.id})
    else:
        print(f"removed {format_bytes(removed)}; {format_bytes(left)} left, the newest checkpoint is {snapshot.id}")


def _back(store: Store, number: int, as_json: bool) -> None:
    from ..checkpoint import StateDir

    with StateDir.open(store) as state:
        snapshot = state.go_back(number)
    if as_json:
        _say({"checkpoint": snapshot.id, "back_to": number})
    else:
        print(f"checkpoint {snapshot.id} now says what {number} said; the same `etlkit run` command goes on from there")
