"""``etlkit bench [SUITE | RESULT.json] …``: the benchmark suites of the repository, from a clone of it.

A suite runs with its own options. ``--against OLD.json`` alone runs the suite of that result again with its settings;
``RESULT.json --against OLD.json`` compares two results, runs nothing, and writes a file only where one is named.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAME = "bench"
HELP = "run a benchmark suite: throughput, checkpoint, recovery, survival, resize, watch, scale, limits"
SUITES = ("throughput", "checkpoint", "recovery", "survival", "resize", "watch", "scale", "limits")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "etlkit bench [SUITE | RESULT.json] [--against OLD.json] [the suite's own options]"
    parser.add_argument(
        "what", nargs="?", metavar="SUITE", help=f"one of {', '.join(SUITES)}, or a result to compare; none: the list"
    )
    parser.add_argument(
        "--against", metavar="OLD.json", help="compare with this; without a SUITE, run that one's again"
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="the suite's own options (SUITE --help)")


def run(args: argparse.Namespace) -> int:
    from ..errors import ConfigError, UsageError

    clone = Path(__file__).resolve().parents[2]
    if (clone / "benchmarks" / "__init__.py").is_file() and str(clone) not in sys.path:
        sys.path.insert(0, str(clone))
    if find_spec("benchmarks") is None:
        raise ConfigError(
            "the benchmark suites are not installed with etlkit", "run this from a clone of the repository"
        )
    what, rest = args.what, [*([f"--against={args.against}"] if args.against else []), *args.rest]
    if what is None and args.against is None:
        for name in SUITES:
            print(f"{name:<12}{import_module(f'benchmarks.{name}').HELP}")
        return 0
    if what is None:
        from benchmarks.results import read

        said = read(args.against)
        return _measure(said["suite"], rest, said.get("settings") or {})
    if what in SUITES:
        return _measure(what, rest, {})
    if what.endswith(".json"):
        return _compare(what, rest)
    raise UsageError(f"there is no suite '{what}'", f"name one of {', '.join(SUITES)}, or a result's .json file")


def _measure(name: str, words: list[str], settings: dict[str, Any]) -> int:
    """``settings``: of an older result, where its options are not given anew."""
    suite = import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser(prog=f"etlkit bench {name}", description=suite.HELP)
    suite.add_arguments(parser)
    known = {action.dest for action in parser._actions}
    before = settings.get("options") or settings
    parser.set_defaults(**{key: value for key, value in before.items() if key in known})
    options = parser.parse_args(words)
    from benchmarks.results import finish, older_result

    if options.against:
        older_result(options.against, name)  # told before the long run, not after it
    result = suite.measure_suite(options)
    fixed = ("json", "html", "against", "data", "work")
    result.settings["options"] = {key: value for key, value in vars(options).items() if key not in fixed}
    return int(finish(result, options, suite.HELP))


def _compare(path: str, words: list[str]) -> int:
    from benchmarks.results import finish, from_json, read

    result = from_json(read(path))
    parser = argparse.ArgumentParser(
        prog=f"etlkit bench {path}", description="show a result, or compare it with an older one"
    )
    parser.add_argument("--against", metavar="FILE", help="the older result")
    parser.add_argument("--json", metavar="FILE", help="write the result here (default: nowhere)")
    parser.add_argument("--html", metavar="FILE", help="write a page with plots here (default: nowhere)")
    parser.set_defaults(work=None)
    options = parser.parse_args(words)
    return int(finish(result, options, import_module(f"benchmarks.{result.suite}").HELP))
