"""The command line: one file a verb, each imported when it is called for.

A verb's module has ``NAME``, ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``. This one covers finding the verb, and
turning what a verb raises into a message on stderr and an exit code of the contract. Standard library only: a start at a
limit too small for pyarrow must come this far.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType

from .. import __version__
from ..errors import EtlkitError
from ..exits import Exit
from ..observe.logs import configure as configure_logs

VERBS: Mapping[str, str] = {
    "bench": "run a benchmark suite: throughput, checkpoint, recovery, survival, resize, watch, scale, limits",
    "checkpoints": "list, inspect and prune the checkpoints of a state directory, or go back to an earlier one",
    "doctor": "check this place: cgroup, state directory, API server, permissions, policies; and where each setting comes from",
    "lint": "check a manifest: what a cluster would refuse, and what would lose work",
    "local": "run a job as a pod, on this machine: a hard memory limit, resizes, restarts",
    "logs": "what a Job's containers wrote",
    "manifest": "print the Kubernetes YAML for a job; --platform: what an administrator applies once",
    "plan": "what would run: stages, splits, projected peak memory, the limit it would ask for",
    "report": "one self-contained HTML page about a run",
    "resize": "resize a container or sidecar of a running pod, in place",
    "run": "run a job in this process; resumes what --state holds",
    "show": "what happened: attempts, checkpoints, resizes, restarts, rows in and out, why each",
    "status": "where a Job stands in its cluster, and what is in its way",
    "submit": "apply a job's manifest to a cluster, and follow it",
    "supervise": "watch any process (a JVM, a script) and resize its pod live before it runs out of memory",
    "verify": "read every byte that the newest checkpoints refer to, and check it",
}
"""Each verb's one line of help, so that ``etlkit --help`` imports none of them. A test compares it with the modules."""

_SHOWN_FRAMES = 6


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command line. Returns the exit code; argparse's own errors and ``--help`` leave by SystemExit."""
    if not arguments or arguments[0] not in VERBS:
        return _no_verb(arguments)
    module, parser = parser_of(arguments[0])
    args = parser.parse_args(arguments[1:])
    configure_logs()
    return _guarded(module, args)


def parser_of(verb: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """A verb's module and the parser of its arguments. The command-line reference is made of these too."""
    module = import_module(f"{__name__}.{verb}")
    parser = argparse.ArgumentParser(prog=f"etlkit {module.NAME}", description=module.HELP)
    module.add_arguments(parser)
    return module, parser


def _no_verb(arguments: Sequence[str]) -> int:
    """Everything that is no known verb: help, version, or a usage error that says what there is."""
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="etlkit",
        usage="etlkit VERB …",
        description="ETL jobs that see their OOM coming, checkpoint, resize their pod and resume.",
        epilog=f"verbs:\n{lines}\n\n`etlkit VERB --help` has each one's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"etlkit {__version__}")
    if not arguments:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    _, rest = parser.parse_known_args(arguments)
    near = _nearest(rest[0])
    parser.error(f"'{rest[0]}' is no verb{f'; did you mean {near!r}?' if near else ''} (one of {', '.join(VERBS)})")


def _nearest(word: str) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(word, VERBS, n=1)), None)


def _guarded(module: ModuleType, args: argparse.Namespace) -> int:
    try:
        code = int(module.run(args))
        sys.stdout.flush()
        return code
    except EtlkitError as error:
        from ..observe.terminal import wrapped

        print(wrapped(f"etlkit {module.NAME}: {error}", sys.stderr), file=sys.stderr)
        return int(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has gone (`etlkit show … | head`). Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except KeyboardInterrupt:
        print(f"etlkit {module.NAME}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"etlkit {module.NAME}: unexpected {_traceback(error)}", file=sys.stderr)
        return Exit.FAILED


def _traceback(error: Exception) -> str:
    """The error and the last few places it passed through."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)[-_SHOWN_FRAMES:]
    lines = "".join(traceback.format_list(frames)).rstrip()
    return f"{type(error).__name__}: {error}\n{lines}"
