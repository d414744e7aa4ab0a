"""``etlkit resize POD``: an operator's resize of any container or sidecar, memory and CPU, explained.

It asks with the user's own kubeconfig. With ``--wait`` it follows the resize by the pod's status and says what Deferred,
Infeasible and Error mean. It never takes a size back by itself: it says which command does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..kube.answer import Answer
    from ..kube.official import OfficialClient
    from ..kube.pod import PodView, Resources

NAME = "resize"
HELP = "resize a container or sidecar of a running pod, in place"
_FIRST_POLL_S, _LONGEST_POLL_S = 0.1, 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pod", metavar="POD")
    parser.add_argument("--container", metavar="C", required=True, help="container or sidecar; never guessed")
    parser.add_argument("--namespace", "-n", metavar="NS", help="default: the kubeconfig's")
    parser.add_argument("--memory", metavar="SIZE", help="new memory limit, such as 1Gi")
    parser.add_argument("--cpu", metavar="CORES", help="new CPU limit, such as 2 or 1500m")
    parser.add_argument("--wait", action="store_true", help="until it is in force, or can't be")
    parser.add_argument("--timeout", metavar="T", default="2m", help="how long to wait (default: 2m)")


def run(args: argparse.Namespace) -> int:
    from ..errors import UsageError
    from ..exits import Exit
    from ..kube.official import OfficialClient
    from ..kube.pod import Resources, read_pod
    from ..units import parse_bytes, parse_cpu, parse_seconds

    target = Resources(
        limit_bytes=parse_bytes(args.memory) if args.memory else None,
        limit_millis=round(parse_cpu(args.cpu) * 1000) if args.cpu else None,
    )
    if target.limit_bytes is None and target.limit_millis is None:
        raise UsageError("neither --memory nor --cpu is given", "say what to change, such as --memory 1Gi")
    if target.limit_bytes == 0 or target.limit_millis == 0:
        raise UsageError("a limit of 0 can't be set", "a resize can't remove limits; give a size above 0")
    timeout_s = parse_seconds(args.timeout)
    client = OfficialClient(args.namespace)
    found = client.get_pod(args.pod)
    if not found.ok:
        return _refused(found, f"pod {client.namespace}/{args.pod}")
    before = read_pod(found.body, args.container)
    if before.static:
        _say(f"pod {args.pod} is a static pod: the API server can't resize it; change its file on the node")
        return Exit.CONFIG
    _say(f"{args.container} in {client.namespace}/{args.pod}: {_sizes(before)} → {_wanted(target)}")
    _say(_what_it_does(before, target))
    answer = client.resize(args.pod, body_for(before, target))
    if not answer.ok:
        return _refused(answer, "the resize")
    _say("accepted by the API server")
    if not args.wait:
        _say("not waited for: add --wait to see it through")
        return Exit.DONE
    return _follow(client, args, before, target, read_pod(answer.body, args.container).generation, timeout_s)


def body_for(before: PodView, target: Resources) -> dict[str, object]:
    """The same body as the pod's own client sends, with both resources in one request."""
    from ..kube.client import moved_request, quantity_cpu, resize_body
    from ..units import quantity_bytes

    requests, limits = {}, {}
    if target.limit_bytes is not None:
        moved = moved_request(before, before.spec.request_bytes, before.spec.limit_bytes, target.limit_bytes)
        requests["memory"], limits["memory"] = quantity_bytes(moved), quantity_bytes(target.limit_bytes)
    if target.limit_millis is not None:
        moved = moved_request(before, before.spec.request_millis, before.spec.limit_millis, target.limit_millis)
        requests["cpu"], limits["cpu"] = quantity_cpu(moved), quantity_cpu(target.limit_millis)
    return resize_body(before, {"requests": requests, "limits": limits})


def _follow(
    client: OfficialClient,
    args: argparse.Namespace,
    before: PodView,
    target: Resources,
    generation: int,
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    from ..decide.events import ResizeOutcome
    from ..exits import Exit
    from ..kube.outcome import ResizeTracker
    from ..kube.pod import read_pod
    from ..units import format_seconds

    began_s = time.monotonic()
    tracker = ResizeTracker(target, before, began_s, generation=generation)
    wait_s, standing = _FIRST_POLL_S, tracker.standing
    while not standing.final and time.monotonic() - began_s < timeout_s:
        sleep(wait_s)
        wait_s = min(wait_s * 1.3, _LONGEST_POLL_S)
        answer = client.get_pod(args.pod)
        if answer.status == 404:
            _say(f"the pod {args.pod} is gone; a replacement starts at the size of its template")
            return Exit.CONFIG
        view = read_pod(answer.body, args.container) if answer.ok else None
        last, standing = standing, tracker.observe(view, None, time.monotonic())
        if standing.outcome is not last.outcome:
            _say(f"{standing.outcome.replace('_', ' ')}: {standing.message}")
    took = format_seconds(time.monotonic() - began_s)
    if standing.outcome is ResizeOutcome.ACTUATED:
        _say(f"in force after {took}")
        return Exit.DONE
    if standing.outcome is ResizeOutcome.INFEASIBLE:
        _say(_take_back(args, before))
        return Exit.REFUSED
    if standing.outcome is ResizeOutcome.WITHDRAWN:
        return Exit.FAILED
    _say(f"not in force after {took}; it stays wanted, and may be granted at any later moment")
    _say(_take_back(args, before))
    return Exit.AGAIN


def _refused(answer: Answer, what: str) -> int:
    from ..decide.events import ResizeOutcome
    from ..exits import Exit
    from ..kube.answer import OUTCOMES, Kind

    print(f"{what}: {answer.explain()}", file=sys.stderr)
    if answer.kind in (Kind.NOT_FOUND, Kind.INVALID, Kind.QOS, Kind.NO_TOKEN, Kind.TLS):
        return Exit.CONFIG
    if OUTCOMES[answer.kind] is ResizeOutcome.UNREACHABLE:
        _say("it may work later; the same command tries again")
        return Exit.AGAIN
    return Exit.REFUSED


def _what_it_does(before: PodView, target: Resources) -> str:
    from ..decide.events import ResizeMode
    from ..units import format_seconds

    policies = [before.memory_policy] * (target.limit_bytes is not None)
    policies += [before.cpu_policy] * (target.limit_millis is not None)
    if ResizeMode.RESTART not in policies:
        return "resizePolicy NotRequired: the running container gets the new size, nothing restarts"
    text = f"resizePolicy RestartContainer: the container gets SIGTERM and {format_seconds(before.grace_s)} to end"
    if before.job is not None and before.restart_policy == "OnFailure":
        so_far = sum(before.restart_counts)
        text += f"; the restart counts against backoffLimit of Job {before.job} ({so_far} so far)"
    return text


def _sizes(view: PodView) -> str:
    from ..units import format_bytes

    memory = "no memory limit" if view.limit_bytes is None else format_bytes(view.limit_bytes)
    cpu = "no CPU limit" if view.actual.limit_millis is None else f"{view.actual.limit_millis / 1000:g} cores"
    return f"{memory}, {cpu}"


def _wanted(target: Resources) -> str:
    from ..units import format_bytes

    parts = [] if target.limit_bytes is None else [format_bytes(target.limit_bytes)]
    return ", ".join(parts + ([] if target.limit_millis is None else [f"{target.limit_millis / 1000:g} cores"]))


def _take_back(args: argparse.Namespace, before: PodView) -> str:
    from ..kube.client import quantity_cpu
    from ..units import quantity_bytes

    command = f"etlkit resize {args.pod} --container {args.container}"
    command += f" --namespace {args.namespace}" if args.namespace else ""
    if args.memory and before.limit_bytes is not None:
        command += f" --memory {quantity_bytes(before.limit_bytes)}"
    if args.cpu and before.actual.limit_millis is not None:
        command += f" --cpu {quantity_cpu(before.actual.limit_millis)}"
    return f"to take it back: {command}"


def _say(text: str) -> None:
    print(text, flush=True)
