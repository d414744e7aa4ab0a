"""What all tests share: TPC-H-derived input, made once, and the command line as a user types it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from . import warm

REPOSITORY = Path(__file__).resolve().parent.parent


def tpch(folder: Path, scale: str, tables: str, parts: int) -> Path:
    """TPC-H-derived Parquet files below ``folder/TABLE``."""
    tool = shutil.which("tpchgen-cli", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if tool is None:
        pytest.skip("tpchgen-cli is not installed")
    command = [
        tool,
        "parquet",
        "-s",
        scale,
        "--tables",
        tables,
        "--parts",
        str(parts),
        "--output-dir",
        str(folder),
        "-q",
    ]
    subprocess.run(command, check=True)
    return folder


def shared_tpch(factory: pytest.TempPathFactory, scale: str, tables: str, parts: int) -> Path:
    """The same, made once for all workers of a run. Nobody may change it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"tpch-{scale}-{tables}-{parts}"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".lineitem-complete").exists():
            tpch(folder, scale, tables, parts)
            (folder / ".lineitem-complete").touch()
    return folder


@pytest.fixture(scope="session")
def lineitem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lineitem at scale 0.2: 1.2 million rows in 3 files."""
    return shared_tpch(tmp_path_factory, "0.2", "lineitem", 3) / "lineitem"


@pytest.fixture(scope="session")
def six_million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lineitem at scale 1, 6 million rows in 4 files: made by what `make demo` calls."""
    if shutil.which("tpchgen-cli", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("tpchgen-cli is not installed")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "six-million"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tool = REPOSITORY / "scripts" / "example_data.py"
        subprocess.run([sys.executable, str(tool), "lineitem", "--to", str(folder)], check=True)
    return folder / "tpch" / "lineitem"


@pytest.fixture(scope="session")
def etlkit_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``etlkit …`` in a process of its own, in a folder of one's choice (tests/warm.py)."""

    def call(
        *arguments: object, cwd: Path, env: dict[str, str] | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        return warm.run(arguments, cwd=cwd, env=environment(env), timeout=timeout)

    return call


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without etlkit's and the cluster's variables, with the repository importable."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ETLKIT_", "KUBERNETES_"))}
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), clean.get("PYTHONPATH", "")]))
    return clean | (extra or {})
