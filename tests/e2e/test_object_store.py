"""State in an object store, from the command line: a real S3 protocol server on loopback, real kills, a writer that slept.

Endpoint and credentials come from the environment, as on any platform; the URL carries neither.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etlkit.testing import crashpoints

from .. import warm
from ..conftest import environment
from ..crash.campaign import TARGET, difference, make_source, names_of, rows_of

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The environment that reaches a bucket named ``bucket``."""
    pytest.importorskip("s3fs", reason="the extra [s3] is not installed")
    boto3 = pytest.importorskip("boto3", reason="moto is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    try:
        client = boto3.client(
            "s3",
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket="bucket")
        yield variables
    finally:
        server.stop()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source"))


def arguments(job: str, source: Path, out: Path, state: str) -> list[str]:
    return [
        "run", f"{TARGET}:{job}", "--set", f"src={source}", "--set", f"out={out}", "--state", state,
        "--checkpoint-every", "50ms", "--workers", "1", "--progress", "none",
    ]  # fmt: skip


def test_killed_and_resumed_then_shown_and_verified(
    s3: dict[str, str], source: Path, tmp_path: Path, etlkit_command: Call
) -> None:
    whole = tmp_path / "whole"
    assert etlkit_command(*arguments("stateful", source, whole, str(tmp_path / "state")), cwd=tmp_path).returncode == 0
    state, out = "s3://bucket/killed/and/resumed", tmp_path / "out"
    call = arguments("stateful", source, out, state)
    for crash_at in ("run.written", "manifest.written:3", "manifest.linked:4", "sink.part"):
        killed = etlkit_command(*call, cwd=tmp_path, env={**s3, crashpoints.VARIABLE: crash_at})
        assert killed.returncode == -signal.SIGKILL, f"{crash_at}: {killed.stderr}"
    stood = json.loads(etlkit_command("show", state, "--json", cwd=tmp_path, env=s3).stdout)
    assert stood["status"] in ("interrupted", "running") and stood["rows_in"] > 0
    done = etlkit_command(*call, cwd=tmp_path, env=s3)
    assert done.returncode == 0, done.stderr
    expected, found = rows_of(whole), rows_of(out)
    assert found.keys() == expected.keys()
    assert [difference(expected[name], found[name]) for name in expected] == [(0, 0)]
    assert names_of(out) == names_of(whole)
    story = json.loads(etlkit_command("show", state, "--json", cwd=tmp_path, env=s3).stdout)
    local = json.loads(etlkit_command("show", tmp_path / "state", "--json", cwd=tmp_path).stdout)
    assert story["status"] == "done" and story["rows_in"] == local["rows_in"]
    assert [one["ended_by"] for one in story["attempts"]] == ["killed"] * 4 + ["done"]
    assert story["decisions"][-1]["instruction"] == "Quit", "the event log is kept beside the state"
    assert "done" in etlkit_command("show", state, cwd=tmp_path, env=s3).stdout
    whole_again = etlkit_command("verify", state, cwd=tmp_path, env=s3)
    assert whole_again.returncode == 0 and "is whole" in whole_again.stdout, whole_again.stderr
    listed = json.loads(etlkit_command("checkpoints", state, "--json", cwd=tmp_path, env=s3).stdout)
    assert listed["checkpoints"][-1]["phase"] == "done"
    again = etlkit_command(*call, cwd=tmp_path, env=s3)
    assert again.returncode == 0 and "done already" in again.stderr
    assert not (tmp_path / "s3:").exists(), "nothing of the state lies on this machine"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see a stopped process")
def test_a_sleeper_without_any_lock_is_fenced(
    s3: dict[str, str], source: Path, tmp_path: Path, etlkit_command: Call
) -> None:
    """The second run just takes over; awake, the first one ends with 73."""
    for number, point in enumerate(("run.synced", "manifest.written:3", "manifest.linked:3")):
        state, out = f"s3://bucket/sleeper-{number}", tmp_path / f"out-{number}"
        call = arguments("stateful", source, out, state)
        sleeper = warm.start(
            call,
            env=environment({**s3, crashpoints.VARIABLE: f"{point}:stop"}),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until_stopped(sleeper)
            done = etlkit_command(*call, cwd=tmp_path, env=s3)
            assert done.returncode == 0, done.stderr
            before = {name: (out / name).read_bytes() for name in names_of(out)}
            story = json.loads(etlkit_command("show", state, "--json", cwd=tmp_path, env=s3).stdout)
            assert story["status"] == "done" and story["checkpoints"]
            os.kill(sleeper.pid, signal.SIGCONT)
            _, said = sleeper.communicate(timeout=60)
        finally:
            if sleeper.poll() is None:
                sleeper.kill()
                sleeper.wait()
        assert sleeper.returncode == 73, f"{point}: {said}"
        assert "taken over" in said
        assert {name: (out / name).read_bytes() for name in names_of(out)} == before


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.01)
    raise AssertionError("it never stopped")


def test_credentials_in_the_url_are_refused(source: Path, tmp_path: Path, etlkit_command: Call) -> None:
    refused = etlkit_command(
        *arguments("stateful", source, tmp_path / "out", "s3://key:secret@bucket/state"), cwd=tmp_path
    )
    assert refused.returncode == 78 and "credentials" in refused.stderr
    assert "secret" not in refused.stderr
