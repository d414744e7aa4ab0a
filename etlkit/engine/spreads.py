"""count_distinct, quantile, variance and stddev: the accumulators that look at a whole group again when they merge.

The states of the first two are lists (all different values, all values), so their memory grows with the rows. A count_distinct comes
here only beside aggregates that cannot be cut in two (``distinct_counts.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ..lazyclass import dataclass
from .accumulators import VALID_ONLY, Grouping, Request, one_array
from .physical import Form, count_up


@dataclass(frozen=True)
class Distinct:
    """count_distinct: the state is the list of different values."""

    column: str
    form: Form
    result = pa.int64()
    needs_groups = True
    takes_unscaled = False

    @property
    def state(self) -> tuple[pa.DataType, ...]:
        return (pa.list_(self.form.physical),)

    def fold(self, raw: pa.Table) -> list[Request]:
        return [Request(raw[self.column], "distinct", VALID_ONLY)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return [grouping.results[0].cast(self.state[0])]

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return []

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        groups, values = _exploded(one_array(state[0]), grouping)
        table = pa.table({"g": groups, "v": values})
        again = table.group_by("g", use_threads=False).aggregate([("v", "distinct", VALID_ONLY)])
        return [grouping.aligned(one_array(again["g"]), again["v_distinct"]).cast(self.state[0])]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        return pc.fill_null(pc.list_value_length(state[0]).cast(pa.int64()), 0)


@dataclass(frozen=True)
class Quantile:
    """The exact quantile, linear between neighbours: the state is the list of all values."""

    column: str
    q: float
    state = (pa.list_(pa.float64()),)
    result = pa.float64()
    needs_groups = True
    takes_unscaled = False

    def fold(self, raw: pa.Table) -> list[Request]:
        return [Request(raw[self.column], "list")]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return [grouping.results[0].cast(self.state[0])]

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return []

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        groups, values = _exploded(one_array(state[0]), grouping)
        order = pc.sort_indices(groups)
        sorted_groups = groups.take(order)
        starts = pc.search_sorted(sorted_groups, count_up(grouping.groups + 1).cast(sorted_groups.type))
        return [pa.ListArray.from_arrays(starts.cast(pa.int32()), values.take(order))]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        lists = state[0]
        table = pa.table({"g": pc.list_parent_indices(lists), "v": lists.flatten()}).filter(pc.field("v").is_valid())
        nan_last = table.append_column("n", pc.is_nan(table["v"])).sort_by(
            [("g", "ascending"), ("n", "ascending"), ("v", "ascending")]
        )
        groups, values = one_array(nan_last["g"]), one_array(nan_last["v"])
        bounds = pc.search_sorted(groups, count_up(len(lists) + 1).cast(groups.type)).cast(pa.int64())
        start, stop = bounds.slice(0, len(lists)), bounds.slice(1)
        count = pc.subtract(stop, start)
        some = pc.greater(count, 0)
        rank = pc.multiply(pc.subtract(count, 1).cast(pa.float64()), self.q)
        below = pc.floor(rank)
        low = pc.if_else(some, pc.add(start, below.cast(pa.int64())), pa.scalar(None, pa.int64()))
        high = pc.min_element_wise(pc.add(low, 1), pc.subtract(stop, 1), skip_nulls=False)
        lower, upper = values.take(low), values.take(high)
        part = pc.subtract(rank, below)
        between = pc.add(lower, pc.multiply(pc.subtract(upper, lower), part))
        return pc.if_else(pc.equal(part, 0.0), lower, between)


@dataclass(frozen=True)
class Spread:
    """variance and stddev: count, mean, and the sum of squared differences from it, merged as Chan et al. do."""

    column: str
    root: bool
    ddof: int
    state = (pa.int64(), pa.float64(), pa.float64())
    result = pa.float64()
    needs_groups = True
    takes_unscaled = False

    def fold(self, raw: pa.Table) -> list[Request]:
        column = raw[self.column]
        variance = pc.VarianceOptions(ddof=0)
        return [Request(column, "count", VALID_ONLY), Request(column, "mean"), Request(column, "variance", variance)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        count, mean, variance = grouping.results
        squares = pc.multiply(variance, count.cast(pa.float64()))
        return [count, pc.fill_null(mean, 0.0), pc.fill_null(squares, 0.0)]

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        weighted = pc.multiply(state[1], state[0].cast(pa.float64()))
        return [Request(state[0], "sum"), Request(weighted, "sum")]

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        count, weighted = grouping.results
        mean = pc.if_else(pc.greater(count, 0), pc.divide(weighted, count.cast(pa.float64())), 0.0)
        group = grouping.group_of_row
        counts, means, squares = (one_array(column) for column in state)
        away = pc.subtract(means, mean.take(group))
        grown = pc.add(squares, pc.multiply(counts.cast(pa.float64()), pc.multiply(away, away)))
        again = pa.table({"g": group, "s": grown}).group_by("g", use_threads=False).aggregate([("s", "sum")])
        return [count, mean, grouping.aligned(one_array(again["g"]), again["s_sum"])]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        freedom = pc.subtract(pc.fill_null(state[0], 0), self.ddof)
        unknown = pa.scalar(None, pa.float64())
        value = pc.if_else(pc.greater(freedom, 0), pc.divide(state[2], freedom.cast(pa.float64())), unknown)
        return pc.sqrt(value) if self.root else value


def _exploded(lists: pa.Array, grouping: Grouping) -> tuple[pa.Array, pa.Array]:
    """The group and the value of each element of ``lists``, one list a row."""
    return grouping.group_of_row.take(pc.list_parent_indices(lists)), lists.flatten()
