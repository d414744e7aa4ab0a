"""``etlkit report STATE -o FILE.html``: one page about a run, to look at or to send."""

from __future__ import annotations

import argparse
import sys

NAME = "report"
HELP = "one self-contained HTML page about a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", metavar="STATE", help="the state directory")
    parser.add_argument("-o", "--output", metavar="FILE.html", required=True, help="where to write it; - is stdout")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from ..errors import UsageError
    from ..observe.report import page
    from ..observe.state import observe
    from ..observe.timeline import timeline

    seen = observe(args.state)
    text = page(seen.story, timeline(seen.events))
    if args.output == "-":
        sys.stdout.write(text)
        return 0
    try:
        Path(args.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{args.output} can't be written: {error.strerror}", "name a file in a folder that exists"
        ) from error
    print(f"{args.output}: {len(text.encode()) // 1024} KiB, open it in a browser", file=sys.stderr)
    for warning in seen.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0
