"""``etlkit status JOB``: where a Job stands in its cluster: pods, sizes, restarts, how attempts ended, and what is in its way.

With ``--follow`` it shows the job's own progress until the Job has ended. The figures of a run are in its state: `etlkit show`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..exits import Exit

if TYPE_CHECKING:
    from ..kube.cluster import Cluster
    from ..kube.watch import Look, PodLook
    from ..observe.progress import Renderer

NAME = "status"
HELP = "where a Job stands in its cluster, and what is in its way"
POLL_S = 1.0
MOST_EVENTS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="name of the Job, or of a bare pod")
    parser.add_argument("--namespace", "-n", metavar="NS", help="default: the kubeconfig's")
    parser.add_argument("--follow", "-f", action="store_true", help="until it has ended")
    parser.add_argument("--progress", choices=("auto", "plain", "json", "none"), default="auto")
    parser.add_argument("--json", action="store_true", help="one object instead of text")


def run(args: argparse.Namespace) -> int:
    from ..kube.cluster import Cluster
    from ..kube.watch import JobWatch

    cluster = Cluster(args.namespace)
    if args.follow:
        return follow(cluster, args.job, args.progress)
    watch = JobWatch(cluster, args.job, logs=False)
    look, told = watch.look(), watch.told()
    if args.json:
        print(json.dumps(as_json(look) | {"events": [asdict(one) for one in told]}))
    else:
        show(look)
        for one in told[-MOST_EVENTS:]:
            print(f"  {one.at} {one.reason}: {one.message}")
    return 0


def follow(cluster: Cluster, name: str, progress: str, poll_s: float = POLL_S) -> int:
    """Until the Job has ended. The exit code is 0, or the job's own. Ctrl-C ends the following and not the Job."""
    from ..kube.watch import JobWatch
    from ..observe.progress import make_renderer

    watch = JobWatch(cluster, name)
    told = _Told(make_renderer(progress, sys.stdout if progress == "json" else sys.stderr))
    try:
        while True:
            look = watch.look()
            told.tell(look)
            if look.condition:
                break
            time.sleep(poll_s)
    except KeyboardInterrupt:
        print(f"not followed any more; the Job goes on: etlkit status {name} --follow", file=sys.stderr)
        return 130
    finally:
        told.close()
    if look.condition == "Complete":
        print(f"{look.kind} {name} is done", file=sys.stderr)
        return 0
    return told.code


class _Told:
    """What was said already, so that each thing is said once."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._said: set[str] = set()
        self._ends: dict[str, int] = {}
        self.code = int(Exit.FAILED)
        """The last exit code of a container that is one of the contract. The pods of a failed Job may be gone at the end."""

    def tell(self, look: Look) -> None:
        several = len({pod.index for pod in look.pods}) > 1
        for trouble in look.troubles:
            self._once(str(trouble))
        for pod in look.pods:
            self._pod(pod, several)

    def _pod(self, pod: PodLook, several: bool) -> None:
        lead = f"[{pod.index}] " if several else ""
        state = f"{lead}pod {pod.name}: {standing(pod)}"
        if pod.view.conditions or pod.view.deleting or pod.view.phase == "Pending":
            self._once(state)
        for line in pod.lines:
            self._line(line, lead)
        ended = pod.ended
        if ended is not None and self._ends.get(pod.name, 0) < ended.number:
            self._ends[pod.name] = ended.number
            if ended.exit_code in set(Exit) and ended.exit_code != Exit.DONE:
                self.code = ended.exit_code
            self._end(pod, lead)

    def _line(self, line: str, lead: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            self._renderer.say(f"{lead}{line}")
        elif lead:
            # Several pods: one line each for what is worth one, never one display for all.
            from ..observe.sentences import Teller

            told = Teller().tell(event)
            if told is not None:
                self._renderer.say(f"{lead}{told.text}")
        else:
            self._renderer.feed(event)

    def _end(self, pod: PodLook, lead: str) -> None:
        from datetime import UTC, datetime

        ended = pod.ended
        assert ended is not None
        if lead:
            self._renderer.say(f"{lead}{end_of(pod)}")
            return
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._renderer.feed(
            {
                "event": "container_exited",
                "at": stamp,
                "exit_code": ended.exit_code,
                "reason": ended.reason,
                "oom_killed": ended.reason == "OOMKilled",
                "restart_in_s": 0.0 if pod.view.state == "running" else None,
            }
        )

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._renderer.say(text)

    def close(self) -> None:
        self._renderer.close()


def show(look: Look) -> None:
    print(f"{look.kind} {look.name}: {look.condition or 'running'}")
    for pod in look.pods:
        lead = f"[{pod.index}] " if pod.index is not None else ""
        print(f"  {lead}{pod.name}: {standing(pod)}")
        if pod.ended is not None:
            print(f"    {end_of(pod)}")
            for line in pod.ended.message.strip().splitlines()[:6]:
                print(f"      {line}")
    if not look.pods:
        print("  no pod yet")
    for trouble in look.troubles:
        print(trouble)


def standing(pod: PodLook) -> str:
    """Phase, size, restarts and an open resize, in one line."""
    from ..kube.outcome import explain_pending
    from ..kube.pod import PENDING
    from ..units import format_bytes

    view = pod.view
    words = ["ending" if view.deleting else view.phase or "unknown"]
    if view.limit_bytes is not None:
        words.append(f"memory limit {format_bytes(view.limit_bytes)}")
    if view.spec.limit_bytes is not None and view.spec.limit_bytes != view.limit_bytes:
        words.append(f"{format_bytes(view.spec.limit_bytes)} asked for")
    words.append(f"{view.restart_count} restart{'' if view.restart_count == 1 else 's'}")
    words += [
        explain_pending(c) if c.type == PENDING else f"being resized {c.message}".rstrip() for c in view.conditions
    ]
    return ", ".join(words)


def end_of(pod: PodLook) -> str:
    from ..observe.sentences import EXITS

    ended = pod.ended
    assert ended is not None
    words = [
        word for word in (EXITS.get(ended.exit_code, ""), ended.reason) if word and word not in ("Error", "Completed")
    ]
    return f"the container ended with {ended.exit_code}" + (f" ({', '.join(words)})" if words else "")


def as_json(look: Look) -> dict[str, Any]:
    pods = [
        {
            "name": pod.name,
            "index": pod.index,
            "phase": pod.view.phase,
            "limit_bytes": pod.view.limit_bytes,
            "wanted_bytes": pod.view.spec.limit_bytes,
            "restarts": pod.view.restart_count,
            "resize": [{"type": c.type, "reason": c.reason, "message": c.message} for c in pod.view.conditions],
            "ended": None
            if pod.ended is None
            else {"exit_code": pod.ended.exit_code, "reason": pod.ended.reason, "message": pod.ended.message},
        }
        for pod in look.pods
    ]
    troubles = [{"what": one.what, "remedy": one.remedy} for one in look.troubles]
    return {
        "job": look.name,
        "kind": look.kind,
        "status": look.condition or "running",
        "pods": pods,
        "troubles": troubles,
    }
