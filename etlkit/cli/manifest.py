"""``etlkit manifest TARGET``: the Kubernetes YAML for a job, or with ``--platform`` what an administrator applies once.

It loads the job and, for sizes that are not given, plans it here. It asks no cluster. What it prints has passed the rules of
``etlkit lint``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

from .run import parameters_of

if TYPE_CHECKING:
    from ..manifest.order import Order
    from ..manifest.sizes import Forecast, Learned, Sizes
    from ..runtime.opening import Request
    from ..settings import Settings

NAME = "manifest"
HELP = "print the Kubernetes YAML for a job; --platform: what an administrator applies once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar="TARGET", nargs="?", help="jobs/x.py, package.module:name or jobs/many.py:name"
    )
    add_order_arguments(parser)
    parser.add_argument("--pod-patch", metavar="FILE", help="YAML merged into the pod: metadata, spec")
    platform = parser.add_argument_group("once a cluster, for an administrator")
    platform.add_argument("--platform", action="store_true", help="print the roles and the admission policy")
    platform.add_argument("--ceiling-memory", metavar="SIZE", default="16Gi", help="no pod gets more (default: 16Gi)")
    platform.add_argument("--ceiling-cpu", metavar="N", default="8", help="no pod gets more (default: 8)")


def add_order_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``submit`` takes, too."""
    parser.add_argument("--image", metavar="IMAGE", help="with etlkit and the job in it")
    parser.add_argument("--kind", choices=("job", "cronjob", "pod"), default="job")
    parser.add_argument(
        "--shape",
        choices=("restart", "live", "rules"),
        help="restart: a resize restarts the container; live: nothing is restarted; rules: live, and exit 75 starts "
        "again in place (default: restart, for a pod and for --shards: rules)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="a parameter of the job, as in the pod"
    )
    parser.add_argument("--memory", metavar="SIZE", help="first limit (default: learned, or from the plan)")
    parser.add_argument("--max-memory", metavar="SIZE", help="never more than this (default: from the plan)")
    parser.add_argument("--cpu", metavar="N", default="2", help="CPU limit; half of it is requested (default: 2)")
    parser.add_argument("--name", metavar="NAME", help="default: the job's name")
    parser.add_argument("--namespace", "-n", metavar="NS", default="etl", help="default: etl")
    parser.add_argument("--state-size", metavar="SIZE", default="20Gi", help="of the volume (default: 20Gi)")
    parser.add_argument("--storage-class", metavar="NAME", help="default: the cluster's")
    parser.add_argument("--claim", metavar="NAME", help="use this PersistentVolumeClaim instead of making one")
    parser.add_argument("--schedule", metavar="CRON", default="0 3 * * *", help="of a cronjob (default: 0 3 * * *)")
    parser.add_argument("--grace", metavar="T", help="from SIGTERM to SIGKILL (default: 8 checkpoints, or 60s)")
    parser.add_argument("--resizes", metavar="N", type=int, default=8, help="to survive, with restarts (default: 8)")
    parser.add_argument("--crashes", metavar="N", type=int, default=3, help="to survive beside them (default: 3)")
    parser.add_argument("--shards", metavar="N", type=int, help="N pods share the work: an Indexed Job for each round")
    parser.add_argument("--events", action="store_true", help="let the pod create Events about its resizes")
    parser.add_argument(
        "--egress",
        action="append",
        default=[],
        metavar="CIDR[:PORT]",
        help="a NetworkPolicy: nothing in, and out to DNS and this; may be repeated, the API server is one",
    )
    parser.add_argument("--checkpoint-every", metavar="T", help="bound on lost work (default: 1s)")
    parser.add_argument("--learned", metavar="STATE", help="state of an earlier run: sizes and grace come from it")
    parser.add_argument("--kubernetes", metavar="1.N", default="1.35", help="the cluster's version (default: 1.35)")


def run(args: argparse.Namespace) -> int:
    from ..errors import UsageError

    if args.platform:
        print(platform_text(args), end="")
        return 0
    if args.target is None or args.image is None:
        missing = "TARGET" if args.target is None else "--image"
        raise UsageError(
            f"{missing} is missing", "etlkit manifest jobs/x.py --image IMAGE, or etlkit manifest --platform"
        )
    order, notes = order_from(args)
    documents = documents_of(order, args.pod_patch)
    report_problems(documents)
    from ..manifest.yaml import documents as text

    print(text(documents), end="")
    for line in notes:
        print(f"note: {line}", file=sys.stderr)
    return 0


def platform_text(args: argparse.Namespace) -> str:
    from ..manifest.platform import render_platform
    from ..manifest.pod import cpu
    from ..manifest.yaml import documents
    from ..units import parse_bytes, parse_cpu, quantity_bytes

    ceiling = parse_bytes(args.ceiling_memory), round(parse_cpu(args.ceiling_cpu) * 1000)
    return documents(render_platform(quantity_bytes(ceiling[0]), cpu(ceiling[1])))


def documents_of(order: Order, pod_patch: str | None) -> list[Any]:
    """Rendered, with the patch merged in; a patched workload loses its notes."""
    from ..manifest.objects import render, workloads
    from ..manifest.patch import patch_workload
    from ..manifest.yaml import plain

    documents = render(order)
    if pod_patch is not None:
        found = read_documents(pod_patch)
        patch = found[0] if found else {}
        for at in range(-len(workloads(order)), 0):
            documents[at] = patch_workload(plain(documents[at]), patch)
    return documents


def read_documents(place: str) -> list[Any]:
    """A YAML file's documents; ``-`` is stdin. Errors: UsageError, ConfigError."""
    import yaml

    from ..errors import ConfigError, UsageError

    try:
        if place == "-":
            text = sys.stdin.read()
        else:
            with open(place, encoding="utf-8") as file:
                text = file.read()
    except OSError as error:
        raise UsageError(f"{place} can't be read: {error.strerror}", "give a YAML file, or - for stdin") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place} is not text: {error.reason}", "give a YAML file") from error
    try:
        documents = [one for one in yaml.safe_load_all(text) if one is not None]
    except yaml.YAMLError as error:
        raise ConfigError(f"{place} is not YAML: {error}", "correct that line") from error
    wrong = next((one for one in documents if not isinstance(one, dict)), None)
    if wrong is not None:
        raise ConfigError(f"{place} holds {type(wrong).__name__}, not an object", "give Kubernetes objects")
    return documents


def report_problems(documents: list[Any]) -> None:
    """The rules on our own output: a patch or a combination of options may break them. Errors: ConfigError."""
    from ..errors import ConfigError
    from ..manifest.lint import lint
    from ..manifest.workload import Level
    from ..manifest.yaml import plain

    found = lint([plain(one) for one in documents])
    for finding in found:
        print(finding, file=sys.stderr)
    if any(finding.level is Level.FAIL for finding in found):
        raise ConfigError("this manifest would be refused by a cluster, or would lose work", "mend what is said above")


def order_from(args: argparse.Namespace) -> tuple[Order, list[str]]:
    """The order, and what the user should know about it. Errors: UsageError, ConfigError, PlanError."""
    from ..manifest.order import DATA, Kind, Order, Shape, check
    from ..plan.job import load as load_job
    from ..plan.rounds import rounds
    from ..runtime.api import make_request
    from ..settings import load
    from ..units import parse_bytes, parse_cpu

    settings = load({"checkpoint_every": args.checkpoint_every, "max_memory": args.max_memory}, environ={})
    job = load_job(args.target)
    request = make_request(job, parameters_of(args.set), settings, target=args.target, run_id=None, restart=False)
    sizes = _sizes(args, request, settings)
    kind = Kind(args.kind)
    usual = kind is not Kind.POD and args.shards is None
    order = Order(
        name=args.name or request.job.replace("_", "-").lower(),
        image=args.image,
        target=args.target,
        namespace=args.namespace,
        kind=kind,
        shape=Shape(args.shape) if args.shape else (Shape.RESTART if usual else Shape.RULES),
        parameters=tuple(args.set),
        memory_bytes=sizes.memory_bytes,
        max_memory_bytes=sizes.max_memory_bytes,
        cpu_millis=round(parse_cpu(args.cpu) * 1000),
        resizes=args.resizes,
        crashes=args.crashes,
        grace_s=sizes.grace_s,
        storage_bytes=parse_bytes(args.state_size),
        storage_class=args.storage_class,
        claim=args.claim,
        schedule=args.schedule,
        minor=_minor(args.kubernetes),
        shards=args.shards,
        rounds=1 if args.shards is None else rounds(request.pipelines),
        events=args.events,
        egress=tuple(args.egress),
        settings={"checkpoint_every": args.checkpoint_every} if args.checkpoint_every else {},
        command=_command(args),
        why=sizes.why,
    )
    check(order)
    notes = [
        f"'{path}' is not below {DATA}: the container's own file system is read-only, and not kept"
        for path in _outputs(request)
        if "://" not in path and not path.startswith(f"{DATA}/")
    ]
    if order.minor < 35:
        notes.append("Kubernetes before 1.35 is not tested: at your own risk")
    return order, notes


def _command(args: argparse.Namespace) -> str:
    """The options that are not the defaults, as a call of this verb. It stands in a comment, on one line."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    words = ["etlkit", NAME, str(args.target)]
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if not action.option_strings or value in (None, False, action.default):
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [action.option_strings[0]] if one is True else [action.option_strings[0], str(one)]
    line = " ".join(shlex.quote(word) for word in words)
    return "".join(one if one.isprintable() else "?" for one in line)


def _minor(version: str) -> int:
    from ..errors import UsageError

    major, _, minor = version.removeprefix("v").partition(".")
    minor = minor.partition(".")[0]
    if major != "1" or not minor.isdigit():
        raise UsageError(f"--kubernetes {version} is no version", "write it as 1.35")
    return int(minor)


def _sizes(args: argparse.Namespace, request: Request, settings: Settings) -> Sizes:
    from ..errors import EtlkitError, PlanError
    from ..manifest.sizes import choose
    from ..units import parse_bytes, parse_seconds

    learned = _learned(args.learned) if args.learned else None
    known = args.memory is not None or (learned is not None and learned.peak_bytes is not None)
    forecast = None
    if not (known and args.max_memory is not None):
        try:
            forecast = _forecast(request, settings)
        except PlanError:
            raise  # the pipeline is wrong wherever it runs; an input that is not here may well be there
        except EtlkitError as error:
            if not known:
                remedy = "give --memory and --max-memory, or --learned STATE of an earlier run"
                print(
                    f"note: sizes are a guess, the job can't be planned here ({error.message}): {remedy}",
                    file=sys.stderr,
                )
    return choose(
        memory_bytes=parse_bytes(args.memory) if args.memory else None,
        max_memory_bytes=settings.max_memory_bytes,
        grace_s=round(parse_seconds(args.grace)) if args.grace else None,
        forecast=forecast,
        learned=learned,
    )


def _forecast(request: Request, settings: Settings) -> Forecast:
    from ..engine.planner import lower
    from ..manifest.sizes import Forecast
    from ..runtime.api import policy_for, worker_count
    from ..runtime.planning import forecast

    found = forecast(lower(request.pipelines), settings.workers or worker_count(), policy_for(settings, None))
    return Forecast(found.projected_bytes, found.floor_bytes)


def _learned(state: str) -> Learned:
    from ..manifest.sizes import Learned
    from ..observe.state import observe

    story = observe(state).story
    peaks = [one["peak_bytes"] for one in story["attempts"] if one.get("peak_bytes")]
    times = [one["duration_s"] for one in story["checkpoints"] if one.get("duration_s") is not None]
    return Learned(max(peaks, default=None), max(times, default=None))


def _outputs(request: Request) -> list[str]:
    from ..plan.nodes import Write

    return [one.node.path for one in request.pipelines if isinstance(one.node, Write)]
