"""``etlkit bench [SUITE]``: the benchmark suites of the source tree, each beside what it is compared with.

The suites live in ``benchmarks/``, beside the package and not in it: they need a clone, and what they compare with
installed. Without a
SUITE the list is printed.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

NAME = "bench"
HELP = "run a benchmark suite: throughput, checkpoint, recovery, scale, limits"
SUITES = ("throughput", "checkpoint", "recovery", "survival", "resize", "scale", "limits")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", choices=SUITES, metavar="SUITE", help=f"one of {', '.join(SUITES)}")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="the suite's own options (SUITE --help)")


def run(args: argparse.Namespace) -> int:
    from ..errors import ConfigError

    clone = Path(__file__).resolve().parents[2]
    if (clone / "benchmarks" / "__init__.py").is_file() and str(clone) not in sys.path:
        sys.path.insert(0, str(clone))
    if find_spec("benchmarks") is None:
        raise ConfigError(
            "the benchmark suites are not installed with etlkit", "run this from a clone of the repository"
        )
    if args.suite is None:
        for name in SUITES:
            print(f"{name:<12}{import_module(f'benchmarks.{name}').HELP}")
        return 0
    suite = import_module(f"benchmarks.{args.suite}")
    parser = argparse.ArgumentParser(prog=f"etlkit bench {args.suite}", description=suite.HELP)
    suite.add_arguments(parser)
    options = parser.parse_args(args.rest)
    from benchmarks.results import finish

    return int(finish(suite.measure_suite(options), options))
