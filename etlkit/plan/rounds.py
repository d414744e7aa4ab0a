"""In how many rounds a fan-out runs a job: one, and one more for each time that rows must meet on the longest way. Pure.

It reads no schema, so that a manifest can be made where the input is not. The planner's stages give the same (``engine/extent.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from . import nodes
from .aggregates import counted_apart
from .pipeline import Pipeline


def rounds(pipelines: Sequence[Pipeline]) -> int:
    return 1 + max(
        _meetings(one.node.input) for one in pipelines if isinstance(one.node, nodes.Write | nodes.WriteSink)
    )


def _meetings(node: nodes.Node) -> int:
    match node:
        case nodes.Limit(nodes.Sort(below, _, _), _):
            return 1 + _meetings(below)
        case nodes.GroupBy(below, _, aggregates) if counted_apart(dict(aggregates)):
            return 2 + _meetings(below)
        case nodes.GroupBy() | nodes.Distinct() | nodes.Sort() | nodes.Limit() | nodes.Join():
            return 1 + max(map(_meetings, nodes.inputs_of(node)))
    return max(map(_meetings, nodes.inputs_of(node)), default=0)
