"""Laws of the resize tracker that hold for any sequence of observations."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from kube_server import pod_body

from etlkit.decide.events import ResizeMode, ResizeOutcome
from etlkit.kube.outcome import Deadlines, ResizeTracker
from etlkit.kube.pod import Condition, PodView, Resources, read_pod
from etlkit.units import MIB

BASE = read_pod(pod_body(), "etl")
DEADLINES = Deadlines()
SIZES = st.sampled_from([64, 128, 256, 512])


@st.composite
def views(draw: st.DrawFn) -> PodView:
    generation = draw(st.integers(1, 4))
    kinds = st.tuples(
        st.sampled_from(["PodResizePending", "PodResizeInProgress"]),
        st.sampled_from(["", "Deferred", "Infeasible", "Error"]),
    )
    conditions = tuple(Condition(kind, reason, "", generation) for kind, reason in draw(st.lists(kinds, max_size=2)))
    spec, actual = draw(SIZES) * MIB, draw(SIZES) * MIB
    return replace(
        BASE,
        generation=generation,
        observed_generation=draw(st.integers(0, generation)),
        conditions=conditions,
        spec=Resources(spec, spec, 100, 100),
        actual=Resources(actual, actual, 100, 100),
        memory_policy=draw(st.sampled_from([ResizeMode.LIVE, ResizeMode.RESTART])),
    )


LIMIT_FILES = st.one_of(st.none(), SIZES.map(lambda size: size * MIB))
STEPS = st.lists(st.tuples(st.one_of(st.none(), views()), LIMIT_FILES, st.floats(0.0, 8.0)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(before=views(), target=SIZES, steps=STEPS, withdraw_at=st.integers(0, 20))
def test_laws(
    before: PodView,
    target: int,
    steps: list[tuple[PodView | None, int | None, float]],
    withdraw_at: int,
) -> None:
    tracker = ResizeTracker(Resources(target * MIB), before, 0.0, generation=2, deadlines=DEADLINES)
    now_s, done_since_s = 0.0, None
    for number, (view, limit_file, pause_s) in enumerate(steps):
        now_s += pause_s
        was = tracker.standing
        if number == withdraw_at and not was.final:
            tracker.withdraw(Resources(128 * MIB), now_s, 3)
            done_since_s = None
        standing = tracker.observe(view, limit_file, now_s)
        if was.final:
            assert standing is was, "final is final"
            continue
        if view is not None:
            wanted = 128 * MIB if tracker.withdrawing else target * MIB
            newest = view.generation >= (3 if tracker.withdrawing else 2)
            done = view.settled and newest and view.limit_bytes == wanted
            done_since_s = (now_s if done_since_s is None else done_since_s) if done else None
        if standing.outcome is ResizeOutcome.ACTUATED:
            assert not tracker.withdrawing, "what was withdrawn is not reported as granted"
            by_file = limit_file == target * MIB
            by_status = limit_file is None and done_since_s is not None and now_s - done_since_s >= DEADLINES.settle_s
            assert by_file or by_status
        if tracker.withdrawing:
            assert standing.outcome in (ResizeOutcome.WITHDRAWN, was.outcome)
        if standing.outcome in (ResizeOutcome.DEFERRED, ResizeOutcome.INFEASIBLE) and standing is not was:
            assert view is not None and view.observed and view.generation >= 2
            assert view.spec.limit_bytes == target * MIB, "the condition is about our size"
        assert standing.message
