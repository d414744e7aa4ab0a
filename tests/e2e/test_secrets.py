"""No secret is logged, written to the state or the output, or shown in /proc: a run with secrets all around it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import environment

SECRET = "hunter2-do-not-tell"
SOURCE = """
import etlkit as ek

@ek.job
def copy(src: str, out: str) -> ek.Pipeline:
    return ek.read_parquet(src).map_batches(slowly).write_parquet(out)

def slowly(batch):
    import time
    time.sleep(0.2)
    return batch
"""
AROUND = {"AWS_SECRET_ACCESS_KEY": SECRET, "DATABASE_URL": f"postgres://etl:{SECRET}@db/x", "ETLKIT_POD_NAME": "p"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"x": list(range(400_000))}), tmp_path / "in" / "a.parquet", row_group_size=50_000)
    (tmp_path / "job.py").write_text(SOURCE)
    account = tmp_path / "account"
    account.mkdir()
    for name in ("token", "ca.crt", "namespace"):
        (account / name).write_text(SECRET)
    return tmp_path


def command(place: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "etlkit", "run", "job.py", "--set=src=in", "--set=out=out", "--state=state"]
    return [*words, "--progress=json", *more]


def everything_below(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_run_tells_no_secret(place: Path) -> None:
    around = {**AROUND, "ETLKIT_SERVICE_ACCOUNT": str(place / "account"), "KUBERNETES_SERVICE_HOST": "127.0.0.1",
              "KUBERNETES_SERVICE_PORT": "1", "ETLKIT_CONTAINER_NAME": "etl", "ETLKIT_POD_NAMESPACE": "etl"}  # fmt: skip
    process = subprocess.Popen(
        command(place), cwd=place, env=environment(around), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seen = b""
    try:
        while process.poll() is None:
            if Path("/proc/self/cmdline").exists():
                try:
                    seen += Path(f"/proc/{process.pid}/cmdline").read_bytes()
                except OSError:
                    break
            time.sleep(0.05)
    finally:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()
    assert b"attempt_started" in said and (not Path("/proc/self").is_dir() or b"etlkit" in seen)
    assert SECRET.encode() not in said + seen
    assert SECRET.encode() not in everything_below(place / "state") + everything_below(place / "out")


@pytest.mark.parametrize("where", ["src", "out", "state"])
def test_a_url_with_a_password_is_refused_without_repeating_it(place: Path, where: str) -> None:
    url = f"s3://key:{SECRET}@bucket/x"
    more = f"--state={url}" if where == "state" else f"--set={where}={url}"
    done = subprocess.run(command(place, more), cwd=place, env=environment(), capture_output=True, timeout=60)
    assert done.returncode in (2, 78)
    assert SECRET.encode() not in done.stdout + done.stderr
    assert b"password" in done.stderr or b"credential" in done.stderr
