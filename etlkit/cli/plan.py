"""``etlkit plan TARGET``: what would run, and the memory it would need."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from .run import parameters_of

NAME = "plan"
HELP = "what would run: stages, splits, projected peak memory, the limit it would ask for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="jobs/x.py, package.module:name or jobs/many.py:name")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="a parameter of the job")
    parser.add_argument("--state", metavar="DIR", help="use what earlier runs of this job have learned there")
    parser.add_argument("--max-memory", metavar="SIZE", help="refuse (78) what cannot fit under this")
    parser.add_argument("--workers", metavar="N", help="splits at once (default: the CPU quota)")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")


def run(args: argparse.Namespace) -> int:
    from ..engine.planner import lower
    from ..errors import ConfigError
    from ..plan.job import load as load_job
    from ..runtime import learned
    from ..runtime.api import make_request, policy_for, worker_count
    from ..runtime.planning import forecast
    from ..settings import load
    from ..units import format_bytes, quantity_bytes

    settings = load(vars(args))
    request = make_request(
        load_job(args.target), parameters_of(args.set), settings, target=args.target, run_id=None, restart=False
    )
    plan = lower(request.pipelines)
    found = forecast(plan, settings.workers or worker_count(), policy_for(settings, None))
    known = learned.of_note(settings.state, request.job) if settings.state else learned.Learned()
    if args.json:
        import orjson

        sys.stdout.write(
            orjson.dumps(
                {"job": request.job, **asdict(found), "learned": known.to_json()}, option=orjson.OPT_INDENT_2
            ).decode()
            + "\n"
        )
    else:
        print(f"{request.job}: {len(found.stages)} stages, {found.workers} workers")
        for stage in found.stages:
            splits = f"{stage.splits} splits" if stage.splits is not None else "splits known when it begins"
            rows = f", {stage.rows:,} rows" if stage.rows is not None else ""
            parts = f", {stage.partitions} partitions" if stage.partitions is not None else ""
            skipped = (
                f", {stage.row_groups_skipped} of {stage.row_groups} row groups skipped"
                if stage.row_groups_skipped
                else ""
            )
            held = (
                f"; left out if stage {stage.skipped_if_held} fits into memory"
                if stage.skipped_if_held is not None
                else ""
            )
            print(f"  stage {stage.stage}  {stage.kind}: {splits}{rows}{skipped}{parts}{held}")
        most, least = format_bytes(found.projected_bytes), format_bytes(found.floor_bytes)
        print(f"at full speed it needs at most about {most}, at the least {least}")
        print(f"a limit that holds that: {quantity_bytes(found.suggested_bytes)}")
        if known.peak_bytes:
            asks = f"; a start asks for {quantity_bytes(known.limit_bytes)}" if known.limit_bytes else "; its limit did"
            print(f"learned: the run before used at most {format_bytes(known.peak_bytes)}{asks}")
    if settings.max_memory_bytes is not None and found.floor_bytes > settings.max_memory_bytes:
        raise ConfigError(
            f"'{request.job}' needs at least {format_bytes(found.floor_bytes)}, "
            f"and --max-memory is {format_bytes(settings.max_memory_bytes)}",
            "raise --max-memory, or write the input with smaller row groups",
        )
    return 0
