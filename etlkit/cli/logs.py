"""``etlkit logs JOB``: what a Job's containers wrote, as they wrote it.

It reads what the kubelet still has: of each pod the run before this one, and this one. The whole story is in
the state: `etlkit show`.
"""

from __future__ import annotations

import argparse
import sys
import time

NAME = "logs"
HELP = "what a Job's containers wrote"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="name of the Job, or of a bare pod")
    parser.add_argument("--namespace", "-n", metavar="NS", help="default: the kubeconfig's")
    parser.add_argument("--container", metavar="C", default="etl", help="default: etl")
    parser.add_argument("--follow", "-f", action="store_true", help="until it has ended")


def run(args: argparse.Namespace) -> int:
    from ..kube.cluster import Cluster
    from ..kube.watch import JobWatch

    cluster = Cluster(args.namespace)
    watch = JobWatch(cluster, args.job, args.container)
    look = watch.look()
    while True:
        for pod in look.pods:
            for line in pod.lines:
                _print(line, pod.index)
        if not args.follow or look.condition:
            return 0
        time.sleep(1.0)
        look = watch.look()


def _print(line: str, index: int | None) -> None:
    sys.stdout.write(f"[{index}] {line}\n" if index is not None else f"{line}\n")
    sys.stdout.flush()
