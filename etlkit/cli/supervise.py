"""``etlkit supervise -- COMMAND…``: watch the memory of any process, and ask for more before it is killed."""

from __future__ import annotations

import argparse

NAME = "supervise"
HELP = "watch any process (a JVM, a script) and resize its pod live before it runs out of memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-memory", metavar="SIZE", help="never ask for more memory than this")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="what to run, and its arguments"
    )


def run(args: argparse.Namespace) -> int:
    from ..errors import UsageError
    from ..runtime.supervise import supervise
    from ..settings import load

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UsageError("no command to run", "write it after --: etlkit supervise -- java -jar job.jar")
    return supervise(command, load(vars(args)))
