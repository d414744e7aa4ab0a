"""``etlkit submit TARGET --image IMAGE``: what ``etlkit manifest`` prints, applied with the user's kubeconfig, and followed.

Doing it again does nothing to what is there already, and follows it. Of a fan-out's Jobs each but the first is resumed when the one
before is Complete. What only an administrator may apply (``etlkit manifest --platform``) it does not touch.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .manifest import add_order_arguments, documents_of, order_from, report_problems

if TYPE_CHECKING:
    from ..kube.cluster import Cluster

NAME = "submit"
HELP = "apply a job's manifest to a cluster, and follow it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="jobs/x.py, package.module:name or jobs/many.py:name")
    add_order_arguments(parser)
    parser.add_argument("--pod-patch", metavar="FILE", help="YAML merged into the pod: metadata, spec")
    parser.add_argument("--detach", action="store_true", help="apply, and do not follow")
    parser.add_argument("--progress", choices=("auto", "plain", "json", "none"), default="auto")


def run(args: argparse.Namespace) -> int:
    from ..errors import UsageError
    from ..exits import Exit
    from ..kube.apply import apply_all
    from ..kube.cluster import Cluster
    from ..manifest.yaml import plain

    if args.image is None:
        raise UsageError("--image is missing", "etlkit submit jobs/x.py --image IMAGE")
    order, notes = order_from(args)
    documents = [plain(one) for one in documents_of(order, args.pod_patch)]
    report_problems(documents)
    for line in notes:
        print(f"note: {line}", file=sys.stderr)
    cluster = Cluster(order.namespace)
    done = apply_all(cluster, documents, lambda one: print(one, file=sys.stderr, flush=True))
    jobs = [one.name for one in done if one.kind in ("Job", "Pod")]
    last = done[-1]
    if last.kind == "CronJob":
        print(
            f"it runs at {order.schedule}; `kubectl --namespace {order.namespace} get jobs` lists its runs",
            file=sys.stderr,
        )
        return Exit.DONE
    if last.what == "done already":
        print(f"{last}: to run it again, delete it first (its state is kept)", file=sys.stderr)
        return Exit.DONE
    if args.detach:
        print(f"follow it with: etlkit status {jobs[0]} --namespace {order.namespace} --follow", file=sys.stderr)
        if len(jobs) > 1:
            print(f"{', '.join(jobs[1:])}: suspended; the same command without --detach resumes them", file=sys.stderr)
        return Exit.DONE
    return _follow_all(cluster, jobs, args.progress)


def _follow_all(cluster: Cluster, jobs: list[str], progress: str) -> int:
    from ..kube.cluster import refused
    from .status import follow

    for at, job in enumerate(jobs):
        if at > 0:
            answer = cluster.resume(job)
            if not answer.ok:
                raise refused(answer, f"Job {job}")
        code = follow(cluster, job, progress)
        if code != 0:
            return code
    return 0
