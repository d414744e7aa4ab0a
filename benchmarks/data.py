"""TPC-H-derived input, generated once below a folder: ``sf0.1/lineitem/*.parquet``, ``sf2/orders/*.parquet``, …"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TABLES = ("lineitem", "orders")
PARTS = 4


def tables(folder: Path, scale: float, names: Sequence[str] = TABLES) -> Path:
    """The folder of one scale, made if it is not there. Needs ``tpchgen-cli``."""
    made = folder / f"sf{scale:g}"
    for table in names:
        if not (made / table).is_dir():
            _generate(made, table, scale)
    return made


def files(made: Path, *names: str) -> list[Path]:
    return sorted(path for name in names for path in (made / name).glob("*.parquet"))


def _generate(made: Path, table: str, scale: float) -> None:
    beside = Path(sys.executable).with_name("tpchgen-cli")
    program = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    if program is None:
        raise SystemExit(
            "the input is made with tpchgen-cli: pip install tpchgen-cli, or name a --data folder that has it"
        )
    made.mkdir(parents=True, exist_ok=True)
    fixed = ["--scale-factor", f"{scale:g}", "--tables", table, "--parts", str(PARTS), "--output-dir", str(made)]
    subprocess.run([program, "parquet", *fixed], check=True, stdout=subprocess.DEVNULL)
    if not (made / table).is_dir():
        raise SystemExit(f"tpchgen-cli made no folder {made / table}")
