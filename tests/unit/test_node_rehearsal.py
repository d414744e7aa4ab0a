"""``etlkit local --rehearse``: every name sets what it says, and what is wrong is refused before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etlkit.cli import dispatch
from etlkit.errors import UsageError
from etlkit.node import rehearsal
from etlkit.node.node import Node
from etlkit.units import MIB

REPOSITORY = Path(__file__).resolve().parents[2]
VALUES = {"T": "10ms", "[T]": "10ms", "SIZE": "160Mi", "[N]": "3"}


def test_every_name_changes_the_node() -> None:
    """Nothing here is a name without a deed."""
    for name, one in rehearsal.REHEARSALS.items():
        text = name if one.value is None else f"{name}={VALUES[one.value]}"
        with Node(256 * MIB, enforcement="sampling") as node:
            before = (repr(node.rules), repr(vars(node.faults)), node.has_room("x", 128 * MIB))
            rehearsal.set_on(node, rehearsal.read([text]), 64 * MIB)
            assert (repr(node.rules), repr(vars(node.faults)), node.has_room("x", 128 * MIB)) != before, name
            if name == "full":
                deadline = time.monotonic() + 20
                while not node.has_room("x", 128 * MIB) and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert node.has_room("x", 128 * MIB), "the neighbours leave again"
            if name == "429":
                faults = [node.faults.take("PATCH", "/resize") for _ in range(4)]
                assert [fault.code if fault else None for fault in faults] == [429, 429, 429, None]
        assert f"  {name}" in rehearsal.explain()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rain", "there is no 'rain'"),
        ("flip-back=1", "takes no value"),
        ("quota", "a value is missing"),
        ("quota=much", "is not a quantity"),
        ("429=often", "is no number of times"),
        ("full=a while", "is not a duration"),
    ],
)
def test_what_is_wrong_is_a_usage_error(text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=words):
        rehearsal.read([text])
    assert dispatch(["local", "jobs/part_revenue.py", "--memory", "96Mi", "--rehearse", text]) == 2
    assert words in capsys.readouterr().err


JOB = """
import pathlib, time
import pyarrow as pa
import etlkit as ek

def slow(batch):
    here = pathlib.Path(__file__).parent
    (here / "running").touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    return batch

@ek.job
def tiny(out: str) -> ek.Pipeline:
    here = pathlib.Path(__file__).parent
    return ek.read_csv(str(here / "a.csv")).map_batches(slow, version="1", schema=pa.schema({"x": pa.int64()})).write_parquet(out)
"""


def test_an_operator_resizes_the_running_container_by_the_kubeconfig(tmp_path: Path) -> None:
    """As a user types it: `etlkit local --kubeconfig F` here, `etlkit resize` there."""
    (tmp_path / "tiny.py").write_text(JOB)
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    config = tmp_path / "kubeconfig"
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "KUBECONFIG": str(config)}

    def etlkit(*words: str) -> list[str]:
        return [sys.executable, "-m", "etlkit", *words]

    local = subprocess.Popen(
        etlkit(
            "local", str(tmp_path / "tiny.py"), "--memory", "256Mi", "--resize-policy", "NotRequired", "--set",
            f"out={tmp_path}/out", "--state", f"{tmp_path}/state", "--kubeconfig", str(config), "--progress", "none",
        ),
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "running").exists():
            assert local.poll() is None and time.monotonic() < deadline, "it does not begin"
            time.sleep(0.02)
        assert config.stat().st_mode & 0o777 == 0o600, "it is an administrator's"
        command = etlkit("resize", "tiny", "--container", "etl", "--memory", "384Mi", "--wait", "--timeout", "60s")
        resized = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert resized.returncode == 0, resized.stderr
        (tmp_path / "go").touch()
        _, err = local.communicate(timeout=120)
        assert local.returncode == 0, err
        assert "KUBECONFIG=" in err and not config.exists(), "gone with its node"
    finally:
        if local.poll() is None:
            local.kill()
            local.wait()
