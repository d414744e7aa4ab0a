"""``etlkit lint FILE…``: a user's own manifest held to the rules that schemas can't see.

It reads files and asks no cluster. Only workloads that run etlkit are judged. Exit 78 if anything would be refused or would lose work;
warnings alone are 0.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .manifest import read_documents

NAME = "lint"
HELP = "check a manifest: what a cluster would refuse, and what would lose work"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="YAML; - is stdin, as in `kubectl kustomize DIR | etlkit lint -`"
    )
    parser.add_argument("--json", action="store_true", help="one list instead of text")


def run(args: argparse.Namespace) -> int:
    from ..exits import Exit
    from ..manifest.lint import lint
    from ..manifest.workload import Level, workloads

    documents: list[Any] = [document for place in args.files for document in read_documents(place)]
    found = lint(documents)
    judged = [w.place for w in workloads(documents)]
    if args.json:
        import json

        print(json.dumps({"workloads": judged, "findings": [asdict(finding) for finding in found]}))
    else:
        for finding in found:
            print(finding)
        failures = sum(finding.level is Level.FAIL for finding in found)
        if judged:
            print(f"{', '.join(judged)}: {failures} that must be mended, {len(found) - failures} to consider")
        else:
            print("nothing here runs etlkit")
    return Exit.CONFIG if any(finding.level is Level.FAIL for finding in found) else Exit.DONE
