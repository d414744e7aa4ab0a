"""The termination message: its words, its file, its limits, and no secret in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from etlkit.kube import termination
from etlkit.units import MIB


def test_it_says_code_reason_remedy_and_figures():
    text = termination.ending(
        75, "SIGTERM: checkpointed, work left", attempt=2, limit_bytes=256 * MIB, peak_bytes=100 * MIB
    )
    assert text.splitlines() == [
        "exit 75: checkpointed, work left: start again",
        "SIGTERM: checkpointed, work left",
        "attempt 2, 100 MiB of 256 MiB at most",
    ]
    assert "→ mend it" in termination.ending(65, "bad", remedy="mend it")


def test_it_is_written_where_the_variable_says(tmp_path):
    path = tmp_path / "log"
    environ = {"ETLKIT_TERMINATION_LOG": str(path)}
    assert termination.write("one, longer", environ) and termination.write("two", environ)
    assert path.read_text() == "two"


def test_the_usual_file_is_written_only_where_a_kubelet_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr(termination, "PATH", str(tmp_path / "absent"))
    assert not termination.write("x", {})
    assert not (tmp_path / "absent").exists()
    (tmp_path / "absent").touch()
    assert termination.write("x", {}) and (tmp_path / "absent").read_text() == "x"


def test_nothing_is_raised_and_no_link_is_followed(tmp_path):
    assert not termination.write("x", {"ETLKIT_TERMINATION_LOG": str(tmp_path)})
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(target)
    assert not termination.write("x", {"ETLKIT_TERMINATION_LOG": str(tmp_path / "link")})
    assert target.read_text() == "precious"


def test_a_full_disk_is_no_error():
    if Path("/dev/full").exists():
        assert not termination.write("x", {"ETLKIT_TERMINATION_LOG": "/dev/full"})


@given(st.text(min_size=1000, max_size=3000))
def test_it_fits_and_stays_text(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        termination.write(text * 3, {"ETLKIT_TERMINATION_LOG": str(path)})
        content = path.read_bytes()
    assert len(content) <= termination.LIMIT_BYTES
    content.decode()


def test_a_password_in_a_url_is_left_out(tmp_path):
    path = tmp_path / "log"
    termination.write("can't read s3://key:hunter2@bucket/x", {"ETLKIT_TERMINATION_LOG": str(path)})
    assert "hunter2" not in path.read_text() and "s3://…@bucket/x" in path.read_text()
