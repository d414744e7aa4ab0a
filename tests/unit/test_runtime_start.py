"""What a start asks for before it imports anything large, the notes that it reads and writes, and what a run teaches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from etlkit.decide.policy import Policy
from etlkit.errors import ConfigError
from etlkit.memory.allocation import NO_SMALL_PIECES, small_pieces_setting
from etlkit.runtime import first_ask, learned, notes
from etlkit.runtime.first_ask import FIRST_BYTES, LEAST_BYTES, START_BYTES, need
from etlkit.runtime.learned import Learned
from etlkit.settings import load
from etlkit.units import GIB, MIB


def test_a_limit_that_is_large_enough_asks_for_nothing():
    assert need(None, GIB, Learned(limit_bytes=GIB)) is None, "no limit"
    assert need(START_BYTES, GIB, Learned()) is None
    assert need(300 * MIB, GIB, Learned(resume_bytes=320 * MIB)) is None, "a tenth short is not worth a restart"
    assert need(2 * GIB, 4 * GIB, Learned(resume_bytes=320 * MIB)) is None
    assert need(192 * MIB, GIB, Learned(limit_bytes=320 * MIB)) is None, "the run may be done: nothing is touched then"


def test_a_limit_too_small_for_pyarrow_asks_for_what_is_known_or_a_first_guess():
    wanted = need(24 * MIB, GIB, Learned())
    assert wanted is not None and wanted.must and wanted.to_bytes == FIRST_BYTES
    wanted = need(24 * MIB, GIB, Learned(limit_bytes=320 * MIB))
    assert wanted is not None and wanted.must and wanted.to_bytes == 320 * MIB
    wanted = need(24 * MIB, 100 * MIB, Learned(limit_bytes=320 * MIB))
    assert wanted is not None and wanted.to_bytes == 100 * MIB, "never past max_memory"
    wanted = need(24 * MIB, GIB, Learned(limit_bytes=30 * MIB))
    assert wanted is not None and wanted.to_bytes == START_BYTES, "never less than a start needs"


def test_an_unfinished_runs_size_is_asked_for_at_once_but_not_depended_on():
    wanted = need(192 * MIB, GIB, Learned(limit_bytes=320 * MIB, resume_bytes=256 * MIB))
    assert wanted is not None and not wanted.must and wanted.to_bytes == 256 * MIB, "what was given back stays so"
    assert need(192 * MIB, 192 * MIB, Learned(resume_bytes=320 * MIB)) is None


def test_where_an_unfinished_run_stands():
    asked = [{"to_bytes": 320, "outcome": "actuated"}, {"to_bytes": 512, "outcome": "infeasible"}]
    assert learned.resume_size(asked) == 320
    assert learned.resume_size([*asked, {"to_bytes": 128, "outcome": "requested"}]) == 128
    assert learned.resume_size([]) is None


def test_where_nobody_can_be_asked_the_number_is_said(tmp_path, monkeypatch):
    for name in ("KUBERNETES_SERVICE_HOST", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    settings = load({"state": str(tmp_path / "s"), "max_memory": "1Gi"}, {}, tmp_path)
    with pytest.raises(ConfigError) as refused:
        first_ask.make_room(settings, "jobs/a.py", 24 * MIB, lambda: 24 * MIB)
    assert "64Mi" in refused.value.remedy and refused.value.exit_code == 78
    assert first_ask.make_room(settings, "jobs/a.py", LEAST_BYTES, lambda: LEAST_BYTES) is None, "it may just do"
    assert first_ask.make_room(settings, "jobs/a.py", None, lambda: None) is None
    assert not (tmp_path / "s").exists(), "nothing was written"


def test_nothing_but_the_standard_library_is_imported():
    code = (
        "import sys, etlkit.runtime.bootstrap, etlkit.kube.first, etlkit.cli.run\n"
        "print([m for m in ('pyarrow', 'orjson', 'fsspec', 'rich', 'watchdog', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_notes_are_whole_or_not_there(tmp_path):
    state = str(tmp_path / "state")
    assert notes.read(state, notes.ASKED) is None
    assert notes.write(state, notes.ASKED, [{"to_bytes": 1}])
    assert notes.read(state, notes.ASKED) == [{"to_bytes": 1}]
    assert [path.name for path in Path(state).iterdir()] == [notes.ASKED], "nothing is left beside it"
    (Path(state) / notes.ASKED).write_text('[{"to_by')
    assert notes.read(state, notes.ASKED) is None, "a torn note is no note"
    notes.remove(state, notes.ASKED)
    notes.remove(state, notes.ASKED)
    assert (
        not notes.write("s3://bucket/state", notes.ASKED, []) and notes.read("s3://bucket/state", notes.ASKED) is None
    )


def test_what_was_learned_is_kept_by_job_and_read_from_any_version():
    facts = {"learned": learned.remember({}, "a", Learned(limit_bytes=5, target="a.py"))}
    facts = {"learned": learned.remember(facts, "b", Learned(limit_bytes=7, target="b.py"))}
    assert learned.of_job(facts, "a").limit_bytes == 5 and learned.of_job(facts, "b").limit_bytes == 7
    assert learned.of_job(facts, "c") == Learned()
    assert learned.from_json({"limit_bytes": "much", "peak_bytes": -3, "colour": 1, "spill_s": 0.5}) == Learned(
        spill_s=0.5
    )
    for number in range(40):
        facts = {"learned": learned.remember(facts, f"j{number}", Learned())}
    assert len(facts["learned"]) == learned.KEPT


def test_a_start_finds_the_note_of_its_own_target(tmp_path):
    state = str(tmp_path)
    notes.write(state, notes.LEARNED, json.loads(json.dumps(learned.remember({}, "a", Learned(5, target="a.py")))))
    assert learned.for_target(state, "a.py").limit_bytes == 5
    assert learned.for_target(state, "other.py") == Learned()


@pytest.mark.parametrize(
    ("resizes", "done", "wanted"),
    [
        ([], True, None),
        ([(192, 320, "actuated")], False, 320),
        ([(192, 320, "actuated")], True, 208),
        ([(192, 320, "infeasible")], True, 320),
        ([(192, 320, "actuated"), (320, 512, "actuated")], False, 512),
        ([(512, 128, "actuated")], True, None),
    ],
)
def test_the_right_size_is_what_had_to_be_asked_for_and_was_used(resizes, done, wanted):
    asked = [{"from_bytes": a * MIB, "to_bytes": b * MIB, "outcome": outcome} for a, b, outcome in resizes]
    found = learned.right_size(asked, 320 * MIB if not asked else None, 160 * MIB, Policy(), done=done)
    assert found == (None if wanted is None else wanted * MIB)


def test_a_small_limit_wants_a_heap_in_one_piece_and_what_the_author_set_is_left_alone():
    name, value = NO_SMALL_PIECES
    assert small_pieces_setting(128 * MIB, {}) == {name: value}
    assert small_pieces_setting(128 * MIB, {name: "glibc.malloc.check=1"}) == {}
    assert small_pieces_setting(512 * MIB, {}) == {} == small_pieces_setting(None, {})
