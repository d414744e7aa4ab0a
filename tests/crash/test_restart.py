"""``--restart`` over a killed run: whatever state it finds, the new run ends well, and nothing of the old one is left."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etlkit.checkpoint.document import wrap
from etlkit.testing import crashpoints

from .campaign import command, difference, finish, make_source, names_of, rows_of

Call = Callable[..., subprocess.CompletedProcess[str]]
JOB = "outputs"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    assert finish(JOB, source, place) == 0
    return place / "out"


@pytest.fixture
def killed(source: Path, tmp_path: Path) -> Path:
    """A run that died with parts staged in two outputs and files of a third one visible."""
    code = finish(JOB, source, tmp_path, {crashpoints.VARIABLE: "early.shown"})
    assert code == -signal.SIGKILL
    assert len(staging(tmp_path)) == 3 and list((tmp_path / "out" / "early").glob("part-*"))
    return tmp_path


def staging(place: Path) -> list[str]:
    return sorted(path.relative_to(place / "out").as_posix() for path in (place / "out").glob("*/.etlkit-*"))


def manifests(place: Path) -> Iterator[Path]:
    yield from sorted((place / "state" / "manifests").glob("0*.json"))


def restart(etlkit_command: Call, source: Path, place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return etlkit_command(*command(JOB, source, place), "--restart", *more, cwd=place)


def assert_whole(place: Path, whole: Path) -> None:
    assert names_of(place / "out") == names_of(whole)
    expected, found = rows_of(whole), rows_of(place / "out")
    assert [difference(expected[name], found[name]) for name in expected] == [(0, 0)] * 3


def test_a_discarded_run_of_another_id_leaves_nothing_and_a_strangers_staging_stays(
    killed: Path, source: Path, whole: Path, etlkit_command: Call
) -> None:
    stranger = killed / "out" / "modes" / ".etlkit-0123456789ab"
    stranger.mkdir()
    (stranger / "part-00000.e1.parquet").write_bytes(b"another job's")
    done = restart(etlkit_command, source, killed, "--run-id", "tomorrow")
    assert done.returncode == 0, done.stderr
    assert staging(killed) == ["modes/.etlkit-0123456789ab"]
    assert (stranger / "part-00000.e1.parquet").read_bytes() == b"another job's"
    (stranger / "part-00000.e1.parquet").unlink()
    assert_whole(killed, whole)


def test_the_old_runs_other_output_is_cleared_too(
    killed: Path, source: Path, whole: Path, etlkit_command: Call
) -> None:
    call = [
        word.replace(f"out={killed / 'out'}", f"out={killed / 'elsewhere'}") for word in command(JOB, source, killed)
    ]
    done = etlkit_command(*call, "--restart", cwd=killed)
    assert done.returncode == 0, done.stderr
    assert names_of(killed / "elsewhere") == names_of(whole)
    assert not names_of(killed / "out"), "nothing was finished there"


@pytest.mark.parametrize("run_id", [(), ("--run-id", "tomorrow")])
def test_corrupt_manifests(
    killed: Path, source: Path, whole: Path, etlkit_command: Call, run_id: tuple[str, ...]
) -> None:
    """All but the oldest: there is nothing to trust, but which run it was can still be read."""
    for path in list(manifests(killed))[1:]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    refused = etlkit_command(*command(JOB, source, killed), cwd=killed)
    assert refused.returncode == 74 and "--restart" in refused.stderr
    done = restart(etlkit_command, source, killed, *run_id)
    assert done.returncode == 0, done.stderr
    assert_whole(killed, whole)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, wrap({"format": 99, "id": 3})], ids=["empty", "noise", "newer"]
)
def test_no_manifest_can_be_read(killed: Path, source: Path, whole: Path, etlkit_command: Call, content: bytes) -> None:
    for path in manifests(killed):
        path.write_bytes(content)
    (killed / "state" / "manifests" / "floor.json").write_bytes(content)
    refused = etlkit_command(*command(JOB, source, killed), cwd=killed)
    assert refused.returncode == 74, refused.stderr
    done = restart(etlkit_command, source, killed)
    assert done.returncode == 0, done.stderr
    assert_whole(killed, whole)
    story = etlkit_command("show", killed / "state", "--json", cwd=killed)
    assert '"status": "done"' in story.stdout
    assert etlkit_command("verify", killed / "state", cwd=killed).returncode == 0
