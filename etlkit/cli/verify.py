"""``etlkit verify STATE``: read every byte that the checkpoints refer to, and check it.

Manifests, lists and runs by ``StateDir.verify``; parts here, in their staging folder or under their final names, by length and
crc32. Exit 0, or 74 naming the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exits import Exit

if TYPE_CHECKING:
    from ..checkpoint import Problem, Snapshot
    from ..io.sink import Part

NAME = "verify"
HELP = "read every byte that the newest checkpoints refer to, and check it"

_CHUNK_BYTES = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", metavar="STATE", help="the state directory or URL")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a text")


def run(args: argparse.Namespace) -> int:
    from ..checkpoint import StateDir
    from ..checkpoint.store import open_store
    from ..checkpoint.verify import verify
    from ..errors import ConfigError, CorruptStateError

    if "://" not in args.state and not Path(args.state).is_dir():
        raise ConfigError(f"{args.state}: there is no such state directory", "name the folder that --state named")
    store = open_store(args.state)
    problems = verify(store)
    skipped: list[str] = []
    snapshot: Snapshot | None = None
    try:
        snapshot = StateDir.open(store, read_only=True).snapshot
    except CorruptStateError:
        pass  # among the problems already, and there are no parts to look for
    else:
        if snapshot is None:
            raise ConfigError(f"{args.state}: no run has begun here", "name the folder that --state named")
        problems += _check_parts(snapshot, skipped)
    _tell(args, snapshot, problems, skipped)
    return Exit.STATE_IO if problems else Exit.DONE


def _check_parts(snapshot: Snapshot, skipped: list[str]) -> Iterator[Problem]:
    from ..checkpoint import Problem

    sinks: list[Mapping[str, Any]] = snapshot.facts.get("sinks") or []
    for stage in snapshot.stages.values():
        for number, part in stage.parts:
            path = str(sinks[number].get("path") or "") if number < len(sinks) else ""
            if not path or ("://" in path and not path.startswith("file://")):
                skipped.append(part.final)
                continue
            folder = Path(path.removeprefix("file://"))
            if text := _wrong(folder, snapshot.run_id, part):
                yield Problem(str(folder / part.final), text, True)


def _wrong(folder: Path, run_id: str, part: Part) -> str:
    """What is wrong with one part; empty if it is there, staged or published, as it was written."""
    from urllib.parse import quote

    staged, final = folder / f".etlkit-{quote(run_id, safe='')}" / part.name, folder / part.final
    path = next((path for path in (staged, final) if path.is_file()), None)
    if path is None:
        return f"is missing, here and in staging ({staged})"
    try:
        length, crc32 = _read(path)
    except OSError as error:
        return f"cannot be read: {error.strerror} ({path})"
    if (length, crc32) != (part.length, part.crc32):
        return f"has {length} bytes with crc32 {crc32:08x}; {part.length} with {part.crc32:08x} were written ({path})"
    return ""


def _read(path: Path) -> tuple[int, int]:
    import zlib

    length = crc32 = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            length += len(chunk)
            crc32 = zlib.crc32(chunk, crc32)
    return length, crc32


def _tell(args: argparse.Namespace, snapshot: Snapshot | None, problems: list[Problem], skipped: list[str]) -> None:
    if args.json:
        import orjson

        said = {
            "ok": not problems,
            "checkpoint": snapshot.id if snapshot else None,
            "problems": [{"name": each.name, "text": each.text, "fatal": each.fatal} for each in problems],
            "not_checked": skipped,
        }
        sys.stdout.write(orjson.dumps(said, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for problem in problems:
        print(
            f"{'DAMAGED' if problem.fatal else 'damaged, not needed by the newest checkpoint'}: {problem}",
            file=sys.stderr,
        )
    if skipped:
        print(f"{len(skipped)} parts of sinks without a local folder were not checked", file=sys.stderr)
    if problems:
        fatal = any(problem.fatal for problem in problems)
        remedy = "restore them from a backup, go back (`etlkit checkpoints STATE back ID`) or start over with --restart"
        print(f"etlkit verify: {len(problems)} damaged; {remedy if fatal else 'the run can go on'}", file=sys.stderr)
    elif snapshot is not None:
        runs = sum(len(stage.runs) for stage in snapshot.stages.values())
        parts = sum(len(stage.parts) for stage in snapshot.stages.values()) - len(skipped)
        print(f"checkpoint {snapshot.id} is whole: {runs} runs and {parts} parts read, every byte as it was written")
