"""``etlkit run TARGET``: the job in this process, in whatever cgroup it is in."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

NAME = "run"
HELP = "run a job in this process; resumes what --state holds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="jobs/x.py, package.module:name or jobs/many.py:name")
    add_job_arguments(parser)
    parser.add_argument("--run-id", help="the run's identity (default: a hash of job, parameters and input)")
    parser.add_argument("--restart", action="store_true", help="discard an unfinished run in this state and begin anew")
    parser.add_argument("--lock-wait", metavar="T", help="how long to wait for another run of this state")
    parser.add_argument("--shards", metavar="N", help="this is one of N processes that share the splits (a fan-out)")
    parser.add_argument("--index", metavar="I", help="which one (default: JOB_COMPLETION_INDEX)")
    parser.add_argument("--round", metavar="R", help="which round of the fan-out (default: 0)")
    parser.add_argument("--metrics-port", metavar="N", help="serve Prometheus metrics at /metrics on this port")
    parser.add_argument("--metrics-file", metavar="FILE", help="write them to FILE, for the textfile collector")


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what runs and how, shared with the verbs that run it elsewhere."""
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="a parameter of the job")
    parser.add_argument("--state", metavar="DIR", help="where checkpoints go (default: .etlkit/NAME)")
    parser.add_argument("--checkpoint-every", metavar="T", help="bound on lost work, such as 1s (default), or none")
    parser.add_argument("--workers", metavar="N", help="splits at once (default: the CPU quota)")
    parser.add_argument("--max-memory", metavar="SIZE", help="never ask for more memory than this")
    parser.add_argument("--max-cpu", metavar="N", help="ask for up to so many cores while throttled, live")
    parser.add_argument("--progress", choices=("auto", "plain", "json", "none"))


def parameters_of(pairs: list[str]) -> dict[str, object]:
    """``["k=v"]`` → ``{"k": "v"}``. Errors: UsageError."""
    from ..errors import UsageError

    given: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {pair}: no '='", "write --set name=value")
        given[name] = value
    return given


def run(args: argparse.Namespace) -> int:
    from ..errors import UsageError
    from ..runtime.bootstrap import prepare
    from ..runtime.first_ask import job_name
    from ..runtime.shard import shard_from
    from ..settings import load

    settings = load(vars(args))
    root = settings.state or f".etlkit/{job_name(args.target)}"
    shard = shard_from(root, args.shards, args.index, args.round)
    if shard is not None:
        if args.restart:
            raise UsageError(
                "--restart with --shards: N processes would discard one another",
                f"remove {root} instead, then start them",
            )
        settings = replace(settings, state=shard.state)
    if (code := prepare(settings, args.target)) is not None:
        return code
    from ..errors import EtlkitError
    from ..kube import termination
    from ..observe.progress import make_renderer
    from ..plan.job import load as load_job
    from ..runtime.api import execute, make_request

    job = load_job(args.target)
    request = make_request(
        job, parameters_of(args.set), settings,
        target=args.target, run_id=args.run_id, restart=args.restart, shard=shard,
    )  # fmt: skip
    stream = sys.stdout if settings.progress == "json" else sys.stderr
    try:
        renderer = make_renderer(settings.progress, stream)
        if settings.metrics_port is not None or settings.metrics_file is not None:
            from ..observe.metrics import MetricsSink

            renderer = MetricsSink(renderer, port=settings.metrics_port, file=settings.metrics_file)
        result = execute(request, settings, renderer)
    except EtlkitError as error:
        termination.write(termination.ending(int(error.exit_code), error.message, remedy=error.remedy))
        raise
    termination.write(termination.ending(result.exit_code, result.reason, attempt=result.attempts))
    if result.exit_code != 0:
        if settings.progress != "json":
            from ..observe.terminal import go_on, wrapped

            said = f"interrupted: {result.reason}; the same command goes on"
            print(wrapped(said, sys.stderr) + go_on(sys.stderr), file=sys.stderr)
    elif result.attempts == 0:
        print(f"run {result.run_id} is done already: nothing was touched", file=sys.stderr)
    elif settings.progress in ("auto", "plain"):
        from ..observe.summary import summarise
        from ..observe.terminal import wrapped

        print(wrapped(summarise(result.state), sys.stderr), file=sys.stderr)
    return result.exit_code
